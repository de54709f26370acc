"""What Perdure costs, each figure as a ratio to something run beside it: `python -m benchmarks [names…] [--quick]`."""
