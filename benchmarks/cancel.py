"""`cancel`: how soon a running model call, an async tool and a plain one see that their run is cancelled."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.client import Client, WorkflowFailureError

from benchmarks.report import Figure, Report
from benchmarks.stage import open_stage
from perdure import Agent, App, ToolContext
from perdure.agent import AgentSpec
from perdure.messages import Message
from perdure.prices import load_catalogue
from perdure.settings import Settings
from perdure.testing import Call, Fault, Script, ScriptedModel, ScriptedRequest, Turn
from perdure_activities.providers.anthropic_messages import AnthropicMessages
from perdure_activities.providers.provider import PromptCache, Provider, ProviderReply
from perdure_activities.providers.registry import preload
from perdure_api.gateway import Gateway
from perdure_api.schemas import NewRun
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker

MAX_SECONDS: Final = 2.0
MANY: Final = 1000
"""More requests than there are."""
KINDS: Final = {"model": "a streaming model call", "wait": "an async tool", "work": "a plain tool in a thread"}
"""What is under way, by the agent in whose runs it is."""
WITHOUT_PUSH: Final = {
    "frontend.WorkerCommandsEnabled": False,
    "system.enableCancelActivityWorkerCommand": False,
}
"""A server that tells a worker of a cancellation with its next heartbeat, as by default."""


class Sightings:
    """When calls began, and when they saw the cancellation; by run, in seconds of the process's clock."""

    def __init__(self) -> None:
        self._began: dict[str, asyncio.Event] = {}
        self._loop = asyncio.get_running_loop()
        self.seen: dict[str, float] = {}

    def begin(self, run_id: str) -> None:
        """Note that a run's call is under way; from any thread."""
        self._loop.call_soon_threadsafe(self.began(run_id).set)

    def began(self, run_id: str) -> asyncio.Event:
        """Return what is set when a run's call is under way."""
        return self._began.setdefault(run_id, asyncio.Event())

    def see(self, run_id: str) -> None:
        """Note that a run's call has seen the cancellation."""
        self.seen.setdefault(run_id, time.perf_counter())


class Watched:
    """A provider that notes when its stream has begun, and when it is cut off."""

    def __init__(self, provider: Provider, sightings: Sightings) -> None:
        self.wire = provider.wire
        self.price_id = provider.price_id
        self.price_flavor = provider.price_flavor
        self._provider = provider
        self._sightings = sightings

    def encode(self, message: Message) -> bytes:
        """Leave it to the provider."""
        return self._provider.encode(message)

    async def call(
        self,
        spec: AgentSpec,
        messages: bytes,
        *,
        timeout: timedelta,
        on_text: Callable[[str], None],
        cache: PromptCache | None = None,
    ) -> ProviderReply:
        """Call the model, and watch."""
        run_id = activity.info().workflow_id or ""

        def hear(text: str) -> None:
            if spec.name == "model":
                self._sightings.begin(run_id)
            on_text(text)

        try:
            return await self._provider.call(spec, messages, timeout=timeout, on_text=hear, cache=cache)
        except asyncio.CancelledError:
            self._sightings.see(run_id)
            raise

    async def close(self) -> None:
        """Leave it to the provider."""
        await self._provider.close()


async def measure_cancel(*, quick: bool) -> Report:
    """Cancel runs in the middle of their calls, on a server that pushes cancellations and on one that does not."""
    preload(["anthropic"])  # as a worker does before it takes its first call
    load_catalogue()
    runs = 3 if quick else 10
    figures: list[Figure] = []
    for way, values in (("pushed", {}), ("by heartbeat", WITHOUT_PUSH)):
        async with open_stage(values) as stage:
            found = await _sightings(stage.client, runs=runs)
        for kind, what in KINDS.items():
            figures.append(Figure(f"{way}: {what}, median", statistics.median(found[kind]), "s"))
            figures.append(Figure(f"{way}: {what}, slowest", max(found[kind]), "s", goal=MAX_SECONDS))
    return Report(
        name="cancel",
        method=(
            f"{runs} runs of each kind at a time, cancelled one after the other as the API does it; the time from "
            "there to when the function sees it: `CancelledError`, or `ctx.cancelled`. The model streams over HTTP "
            "through the official SDK. Pushed: with the server settings of `perdure dev`; by heartbeat: with "
            "Temporal's own. Worker and measuring program are one process."
        ),
        figures=figures,
    )


async def _sightings(client: Client, *, runs: int) -> Mapping[str, list[float]]:
    sightings = Sightings()
    app = _app(sightings)
    settings = Settings(task_queue=f"cancel-{uuid.uuid4().hex[:8]}", max_concurrent_activities=4 * runs)
    async with ScriptedModel(Script(_answer)) as model:
        os.environ |= model.environment()  # where the official SDK looks, at its first call
        plugin = Perdure(app, settings=settings, providers={"anthropic": Watched(AnthropicMessages(), sightings)})
        gateway = Gateway(client, app, settings)
        async with build_worker(client, settings, plugin):
            return {kind: await _cancelled(gateway, client, sightings, kind, runs=runs) for kind in KINDS}


async def _cancelled(gateway: Gateway, client: Client, sightings: Sightings, kind: str, *, runs: int) -> list[float]:
    """Start runs, cancel each in the middle of its call, and return how long that took to arrive."""
    ids = [(await gateway.runs.start(NewRun(agent=kind, input="go"))).run_id for _ in range(runs)]
    asked: dict[str, float] = {}
    for run_id in ids:
        await sightings.began(run_id).wait()
        asked[run_id] = time.perf_counter()
        await gateway.runs.cancel(run_id)
    for run_id in ids:
        with suppress(WorkflowFailureError):
            await client.get_workflow_handle(run_id).result()
    return [sightings.seen[run_id] - asked[run_id] for run_id in ids]


def _app(sightings: Sightings) -> App:
    app = App()

    @app.tool(timeout=120)
    async def wait(ctx: ToolContext) -> None:
        """Wait for ever."""
        sightings.begin(ctx.run_id)
        try:
            await asyncio.Event().wait()
        finally:
            sightings.see(ctx.run_id)

    @app.tool(timeout=120)
    def work(ctx: ToolContext) -> None:
        """Work for ever."""
        sightings.begin(ctx.run_id)
        while not ctx.cancelled:
            time.sleep(0.01)
        sightings.see(ctx.run_id)

    for kind in KINDS:
        app.add(Agent(name=kind, model=f"anthropic:{kind}", tools=() if kind == "model" else (kind,)))
    return app


def _answer(request: ScriptedRequest) -> Turn:
    if request.model == "model":
        slowly = Fault.slow(between=timedelta(milliseconds=500))
        return Turn("One word after the other. " * 500, faults=[slowly] * MANY)  # all runs ask the same
    return Turn(calls=[Call(request.model)])
