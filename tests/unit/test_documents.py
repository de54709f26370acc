"""The documents, checked against the programs that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from perdure_workers.cli.main import application

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")])


def code_in(document: Path) -> list[str]:
    """Return what a document shows as code, but for imports: inline, and the lines of its blocks."""
    text = document.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    shown = [*inline, *(line for block in blocks for line in block.splitlines())]
    return [line for line in shown if not line.strip().startswith(("from ", "import "))]


def command_names() -> set[str]:
    """Return the commands of `perdure`, those of a group as `runs list`."""
    names = set()
    for name, command in typer.main.get_command(application).commands.items():  # type: ignore[attr-defined]  # a group
        names |= {name, *(f"{name} {inner}" for inner in getattr(command, "commands", {}))}
    return names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_commands_exist(document: Path) -> None:
    """Each `perdure …` that a document shows is a command of the program."""
    known = command_names()
    groups = {name.split()[0] for name in known if " " in name}
    shown = re.findall(
        r"(?:^|[\s/(])perdure ([a-z]+(?:-[a-z]+)*)(?: ([a-z]+(?:-[a-z]+)*))?",
        "\n".join(code_in(document)),
        flags=re.MULTILINE,
    )

    unknown = [
        f"{name} {inner}".strip()
        for name, inner in shown
        if (f"{name} {inner}" if name in groups and inner else name) not in known
    ]

    assert unknown == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documented_make_targets_exist(document: Path) -> None:
    """Each `make …` that a document shows is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    shown = set(re.findall(r"^(?:\$ )?make ([a-z]+)", "\n".join(code_in(document)), flags=re.MULTILINE))

    assert shown - targets == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Each link to a file of the repository has a file at its end."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())

    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]

    assert missing == []
