"""Everything of a run that touches the world: model calls and tool calls, as Temporal activities."""
