"""The worked example of docs/governance.md, from its policy to its audit, run as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from perdure.testing import eventually
from tests.e2e.dev_session import UP, dev_session

pytestmark = pytest.mark.e2e

PAGE = Path(__file__).parents[2] / "docs" / "governance.md"
PATIENCE = timedelta(seconds=60)
READS = ("perdure approvals list", "perdure runs list", "perdure usage", "perdure audit")
"""Commands that say how things stand: what they show may come a moment later."""
READS_AGAIN = 30
"""Seconds in which it must have come."""


@dataclass(frozen=True)
class Step:
    """A command of the page, and what the page shows of its output; `…` stands for anything."""

    command: str
    shown: str

    def __str__(self) -> str:
        """Return the command."""
        return self.command

    def fits(self, output: str) -> bool:
        """Whether this is the output that the page shows."""
        pattern = re.escape(" ".join(self.shown.split()))
        return re.fullmatch(pattern.replace("…", ".*"), " ".join(output.split())) is not None


def files_of(page: str) -> dict[str, str]:
    """Return the files that the page shows, by name."""
    return dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL))


def steps_of(page: str) -> list[Step]:
    """Return the commands of the page's consoles in their order."""
    consoles = "".join(re.findall(r"^```console\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL))
    return [
        Step(command, shown) for command, shown in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", consoles, re.MULTILINE)
    ]


@asynccontextmanager
async def scripted_model(folder: Path) -> AsyncIterator[str]:
    """Serve the page's script, and give its address."""
    ready = folder / "model.address"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure.testing", "--script", "desk_script:script", "--ready-file", str(ready)),
        cwd=folder,
    )
    try:
        await eventually(ready.exists, within=UP, what="the scripted model")
        yield ready.read_text(encoding="utf-8")
    finally:
        process.terminate()
        await process.wait()


async def output_of(command: str, folder: Path, variables: dict[str, str]) -> str:
    """Return what a command of the page prints, to both of its outputs."""
    process = await asyncio.create_subprocess_shell(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE.total_seconds())
    return output.decode()


async def test_the_governance_page_holds(tmp_path: Path) -> None:
    """The page's policy, agent and script give the outputs that it shows, command by command."""
    page = PAGE.read_text(encoding="utf-8")
    for name, text in files_of(page).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    servers, steps = steps_of(page)[:3], steps_of(page)[3:]
    assert [step.command.split()[0] for step in servers] == ["python", "export", "perdure"]
    assert len(steps) >= 12

    async with (
        scripted_model(tmp_path) as url,
        dev_session(tmp_path, "desk:app", ANTHROPIC_BASE_URL=url, ANTHROPIC_API_KEY="any") as running,
    ):
        variables = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PERDURE_APP": "desk:app",
            "TEMPORAL_ADDRESS": running.address("Temporal gRPC"),
        }
        for step in steps:
            printed = await output_of(step.command, tmp_path, variables)
            tries = READS_AGAIN if step.command.startswith(READS) else 0
            while not step.fits(printed) and tries:
                await asyncio.sleep(1)
                tries -= 1
                printed = await output_of(step.command, tmp_path, variables)
            assert step.fits(printed), f"$ {step.command}\nis shown as\n{step.shown}\nand prints\n{printed}"
