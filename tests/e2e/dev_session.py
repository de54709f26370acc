"""`perdure dev` as a process of its own, on free ports."""

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

from perdure.testing import eventually
from tests.children import alive, descendants

UP = timedelta(minutes=2)
FREE_PORTS = ("--port", "0", "--ui-port", "0", "--api-port", "0")


@dataclass
class Running:
    """A `perdure dev` that is up."""

    process: asyncio.subprocess.Process
    folder: Path
    children: set[int]

    @property
    def out(self) -> str:
        """What it printed to standard output so far."""
        return (self.folder / "out").read_text(encoding="utf-8")

    @property
    def log(self) -> str:
        """What it printed to standard error so far."""
        return (self.folder / "log").read_text(encoding="utf-8")

    def address(self, name: str) -> str:
        """Return one of the printed addresses."""
        found = re.search(rf"{name} +(\S+)", self.out)
        assert found, self.out
        return found[1]

    async def gone(self) -> None:
        """Wait until no child is left."""
        await eventually(lambda: not any(alive(pid) for pid in self.children), what="the end of all children")


@asynccontextmanager
async def dev_session(folder: Path, app: str, *options: str, **variables: str) -> AsyncIterator[Running]:
    """Start `perdure dev` in a folder with an app and wait until it says that it is up."""
    with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perdure_workers.cli", "dev", "--app", app, *FREE_PORTS, *options),
            cwd=folder,
            stdout=out,
            stderr=log,
            env={**os.environ, "PERDURE_SHUTDOWN_GRACE_SECONDS": "2", **variables},
        )
    running = Running(process, folder, set())
    try:
        await eventually(lambda: "Temporal gRPC" in running.out or process.returncode is not None, within=UP)
        assert process.returncode is None, running.log
        running.children = descendants(process.pid)
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
