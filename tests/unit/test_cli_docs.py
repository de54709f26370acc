"""docs/cli.md: no command, option or exit code is missing from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer.main

from perdure_workers.cli import application
from perdure_workers.cli.ending import ExitCode

DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield every command with its long options."""
    pending = [("perdure", typer.main.get_command(application))]
    while pending:
        name, command = pending.pop()
        nested = getattr(command, "commands", {})
        pending += [(f"{name} {key}", value) for key, value in nested.items()]
        if not nested:
            yield name, [option for parameter in command.params for option in parameter.opts if option[:2] == "--"]


def test_every_command_is_documented() -> None:
    """Whoever reads the page knows every command."""
    names = [name for name, _ in commands()]

    assert len(names) > 10
    assert [name for name in names if f"`{name}" not in DOCUMENT] == []


def test_every_option_is_documented() -> None:
    """Whoever reads the page knows every option."""
    missing = {f"{name} {option}" for name, options in commands() for option in options if f"`{option}" not in DOCUMENT}

    assert missing == set()


def test_every_exit_code_is_documented() -> None:
    """A script's author finds the meaning of each code."""
    assert [code for code in ExitCode if f"| {code.value} |" not in DOCUMENT] == []
