"""The demo's story: a customer wants a refund, a human agrees, the worker is killed midway, the run goes on."""

from __future__ import annotations

import asyncio
import getpass
import shutil
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from perdure.app import ENTRY_POINT_GROUP
from perdure.errors import ConfigurationError, ProcessError
from perdure.events import ApprovalAsked, ApprovalChanged, RunEnded, RunEvent
from perdure.settings import load_settings
from perdure_workers.cli.ending import ExitCode
from perdure_workers.demo.caller import Caller, caller
from perdure_workers.demo.promises import Promise, check, refunds
from perdure_workers.demo.prompt import ask
from perdure_workers.demo.stage import APP, Stage, open_stage
from perdure_workers.plain_text import bill, call
from perdure_workers.signals import stop_signals, unless_stopped
from perdure_workers.timeline import Timeline

FOLDER: Final = Path(".perdure") / "demo"
CUSTOMER: Final = "ann@example.com"
REQUEST: Final = f"I am {CUSTOMER}. My espresso machine, order A-1001, arrived broken. Please refund it."
PATIENCE: Final = timedelta(minutes=2)
"""Between two events of the run."""
PAID_WITHIN: Final = timedelta(seconds=30)


async def play() -> ExitCode:
    """Play the demo, and say whether everything was as promised.

    Raises:
        PerdureError: Something does not start, or the API refuses a call.
    """
    _require_app()
    load_settings()  # what is wrong in them shows before anything is started
    console = Console(highlight=False)
    with stop_signals() as stop:
        code = await unless_stopped(stop, _tell(console))
    return ExitCode.INTERRUPTED if code is None else code


async def _tell(console: Console) -> ExitCode:
    began = time.monotonic()
    _say(console, "Starting the Temporal server, the model, a worker and the API …")
    async with open_stage(FOLDER) as stage, caller(stage.api_url) as client:
        _say(console, f"The model is {stage.model.name}.")
        _say(console, f"API              {stage.api_url}  (reference: {stage.api_url}/docs)")
        _say(console, f"Temporal Web UI  {stage.server.ui_url}")
        story = _Story(stage, client, console)
        promises = await story.run()
        _verdict(console, promises, time.monotonic() - began)
        kept = all(promise.kept for promise in promises)
        if kept:
            _next_steps(console, stage, story.run_id)
        if sys.stdin.isatty():
            await ask("\nEverything still runs; press Enter to stop it. ")
    return ExitCode.OK if kept else ExitCode.FAILED


class _Story:
    """One run from its start to its end, as the demo's audience sees it."""

    def __init__(self, stage: Stage, client: Caller, console: Console) -> None:
        self._stage = stage
        self._client = client
        self._console = console
        self._crashed = False
        self._approved = True
        self.run_id = ""

    async def run(self) -> list[Promise]:
        """Start the run, follow it, decide, kill the worker, and compare the end with the promises."""
        self.run_id = await self._client.start(agent=self._stage.model.agent, text=REQUEST, user=CUSTOMER)
        _say(self._console, f"POST /v1/runs started run {self.run_id}. Its timeline, as it happens:\n")
        events = [event async for event in self._followed()]
        ended = events[-1]
        if isinstance(ended, RunEnded):
            _say(self._console, f"The run cost {bill(ended.totals)} in {ended.totals.steps} steps.")
        return check(events, paid=refunds(self._stage.shop), approved=self._approved)

    async def _followed(self) -> AsyncIterator[RunEvent]:
        timeline = Timeline(self._console)
        events = self._client.events(self.run_id)
        while event := await self._next(events):
            timeline.add(event)
            yield event
            if isinstance(event, ApprovalAsked):
                await self._decide(event)
            elif isinstance(event, ApprovalChanged) and event.kind == "approval.approved" and not self._crashed:
                self._crashed = True
                await self._crash()

    async def _next(self, events: AsyncIterator[RunEvent]) -> RunEvent | None:
        try:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                return await anext(events, None)
        except TimeoutError as error:
            raise ProcessError(
                f"nothing happened in the run for {PATIENCE.total_seconds():g} s; the last its worker said:\n"
                f"{self._stage.worker.tail}"
            ) from error

    async def _decide(self, asked: ApprovalAsked) -> None:
        if asked.question == "outcome":
            raise ProcessError(f"the outcome of {asked.tool} stayed unknown: {asked.reason}")
        approve = await self._ask(asked)
        self._approved &= approve
        reason = "the machine arrived broken" if approve else "decided in the demo"
        await self._client.decide(self.run_id, asked.approval_id, approve=approve, by=getpass.getuser(), reason=reason)

    async def _ask(self, asked: ApprovalAsked) -> bool:
        if not sys.stdin.isatty():
            _say(self._console, "No terminal to ask at, so the demo approves this by itself.")
            return True
        question = f"\n  May the agent run {call(asked.tool, asked.arguments)}? [y/n] "
        while True:
            answer = await ask(question)
            match answer and answer.strip().lower():
                case "y" | "yes":
                    return True
                case "n" | "no" | None:
                    return False

    async def _crash(self) -> None:
        """Kill the worker after the money has moved and before anybody was told."""
        worker = self._stage.worker

        async def paid() -> bool:
            return bool(refunds(self._stage.shop))

        await worker.wait_until(paid, within=PAID_WITHIN)
        worker.kill()
        await worker.wait()
        refund = refunds(self._stage.shop)[0]
        _say(
            self._console,
            f"SIGKILL to worker {worker.pid}: refund {refund.refund_id} is in the shop's database, and the tool had "
            "not returned.",
        )
        await self._stage.replace_worker()
        _say(self._console, f"Worker {self._stage.worker.pid} takes over once Temporal misses the heartbeats.")


def _require_app() -> None:
    if not any(point.name == APP for point in entry_points(group=ENTRY_POINT_GROUP)):
        raise ConfigurationError(
            f"the demo plays with the example app {APP!r}, which is not installed: pip install ./examples/support_desk "
            "in a checkout of Perdure, or run 'make demo'"
        )


def _say(console: Console, text: str) -> None:
    console.print(Text("» ", style="bold magenta").append(text), soft_wrap=True)


def _verdict(console: Console, promises: list[Promise], seconds: float) -> None:
    console.print()
    for promise in promises:
        mark, style = ("✓", "green") if promise.kept else ("✗", "bold red")
        seen = "" if promise.kept else f" — but: {promise.seen}"
        console.print(Text(f"  {mark} ", style=style).append(promise.sentence + seen), soft_wrap=True)
    console.print(f"  {seconds:.0f} s in all; the processes' logs are in {FOLDER / 'demo.log'}", style="dim")


def _next_steps(console: Console, stage: Stage, run_id: str) -> None:
    database = FOLDER / stage.server.db_file.name if stage.server.db_file else FOLDER
    console.print("\nWhat next:")
    key = "; needs a model's key" if stage.model.scripted else ""
    perdure = _program()
    for command, why in (
        (f"{perdure} dev --db-file {database}", "serve this demo's state again, and the app; then, beside it:"),
        (f"{perdure} runs show {run_id}", "look at the run"),
        (f"{perdure} runs export {run_id} -o run.json", "take its history with you"),
        (f"{perdure} replay run.json", "run the workflow's code against it, without any server"),
        (f'{perdure} run {stage.model.agent} "…"', f"start your own{key}"),
    ):
        console.print(Text(f"  {command}", style="cyan").append(f"  # {why}", style="dim"), soft_wrap=True)


def _program() -> str:
    """Return how a user calls us: by name, or by path while our environment is not activated."""
    beside = Path(sys.executable).with_name("perdure")
    if shutil.which("perdure") or not beside.exists():
        return "perdure"
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)
