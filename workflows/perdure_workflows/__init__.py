"""The deterministic half of Perdure: the run as a Temporal workflow."""
