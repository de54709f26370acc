"""Child processes that live and die together: start, forward what they print, notice deaths, stop in order.

All children share one process group that is not the terminal's, so that Ctrl-C reaches only us and we decide who stops
first. On Linux they are killed with us (see `perdure_workers.tether`); elsewhere a SIGKILL of ours leaves them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from perdure.errors import ProcessError

TETHER: Final = Path(__file__).with_name("tether.py")
TAIL_LINES: Final = 20
MAX_LINE_BYTES: Final = 64 * 1024
"""A longer line is forwarded in pieces."""
PROBE_PAUSE: Final = 0.05
"""Seconds between two looks at a child that is not ready yet."""
_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")

LinePrinter = Callable[[str, str], None]
"""Takes a child's name and a line it printed."""


class Child:
    """One child process, and the last lines that it printed."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, *, forward: LinePrinter | None) -> None:
        self.name = name
        self._process = process
        self._forward = forward
        if process.stdout is None:
            raise ValueError(f"{name}: a child's output must be a pipe")
        self._output = process.stdout
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._reading = asyncio.create_task(self._read(), name=f"output of {name}")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.returncode

    @property
    def tail(self) -> str:
        """The last lines it printed, without their colours."""
        return "\n".join(self._tail)

    async def wait(self) -> int:
        """Wait until it has ended and everything it printed is read."""
        code = await self._process.wait()
        # A grandchild may hold the pipe open for longer than anybody cares.
        await asyncio.wait([self._reading], timeout=1)
        return code

    async def wait_until(self, ready: Callable[[], Awaitable[bool]], *, within: timedelta) -> None:
        """Wait until a probe says that the child does its work.

        Raises:
            ProcessError: It ended instead, or is not ready in time; the message carries its last lines.
        """
        try:
            async with asyncio.timeout(within.total_seconds()):
                while not await ready():
                    if self.exit_code is not None:
                        raise await self.death()
                    await asyncio.sleep(PROBE_PAUSE)
        except TimeoutError as error:
            raise ProcessError(f"{self.name} is not ready after {within.total_seconds():g} s{self._said()}") from error

    async def death(self) -> ProcessError:
        """Wait for its end and describe it."""
        code = await self.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return ProcessError(f"{self.name} {how}{self._said()}")

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    async def stop(self, *, grace: timedelta) -> int:
        """Ask it to end, kill it after the grace, and return its exit code."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace.total_seconds()):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _said(self) -> str:
        return f"; the last it said:\n{self.tail}" if self._tail else " without a word"

    async def _read(self) -> None:
        pending = b""
        while chunk := await self._output.read(MAX_LINE_BYTES):
            *lines, pending = (pending + chunk).split(b"\n")
            if len(pending) >= MAX_LINE_BYTES:
                lines, pending = [*lines, pending], b""
            for line in lines:
                self._say(line)
        if pending:
            self._say(pending)

    def _say(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        self._tail.append(_STYLE.sub("", text))  # it goes into an error message
        if self._forward is not None:
            self._forward(self.name, text)


class ProcessGroup:
    """The children of one command. Leaving the context kills whatever is left of them and of their children."""

    def __init__(self, *, forward: LinePrinter | None = None) -> None:
        self._forward = forward
        self._children: list[Child] = []
        self._group = 0

    async def __aenter__(self) -> ProcessGroup:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill_now()
        for child in self._children:
            await child.wait()

    async def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        forward: bool = True,
    ) -> Child:
        """Start a child.

        Args:
            name: How people are told of it.
            command: The program's absolute path and its arguments.
            environment: All of its variables; default: ours.
            forward: Hand its lines to the group's printer; without, they are only kept for errors.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(TETHER), str(os.getpid())),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            process_group=self._group,
        )
        self._group = self._group or process.pid
        child = Child(name, process, forward=self._forward if forward else None)
        self._children.append(child)
        return child

    async def first_death(self) -> Child:
        """Wait until any child has ended, and return it."""
        waits = {asyncio.create_task(child.wait()): child for child in self._children}
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return waits[done.pop()]

    async def stop(self, *, grace: timedelta, told: Callable[[Child], None] | None = None) -> None:
        """Stop the children one after the other, the one started last first.

        Args:
            grace: How long each may take before it is killed.
            told: Called with each child before it is asked to end.
        """
        for child in reversed(self._children):
            if child.exit_code is None:
                if told is not None:
                    told(child)
                await child.stop(grace=grace)

    def kill_now(self) -> None:
        """End all children, and what they have started in their group, without waiting for their end."""
        if self._group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGKILL)
