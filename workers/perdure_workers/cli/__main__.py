"""`python -m perdure_workers.cli`, which is how commands start one another."""

from perdure_workers.cli.main import main

main()
