"""The command line `perdure`. Its modules only declare commands; what a command does is imported when it runs."""

from perdure_workers.cli.main import application, main

__all__ = ["application", "main"]
