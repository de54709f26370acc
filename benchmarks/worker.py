"""A worker process under measurement, of Perdure or of the floor: `python -m benchmarks.worker`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from benchmarks.floor import floor_worker
from benchmarks.journal import Journal, Kind
from benchmarks.speaker import SPEAKING, SpeakingModel, sign_tool, speaker_app
from benchmarks.workload import FIXED, FixedModel, Plan, app_for, words
from perdure import ToolContext
from perdure.agent import AgentSpec
from perdure.connection import connect
from perdure.messages import Message
from perdure.settings import Settings
from perdure.telemetry import configure_logging
from perdure_activities.providers.provider import PromptCache, Provider, ProviderReply
from perdure_activities.providers.registry import default_providers, preload
from perdure_workers.plugin import EAGER_ACTIVITIES, HEARTBEAT_INTERVAL, STICKY_TIMEOUT, Perdure
from perdure_workers.worker import build_worker


class Recorded:
    """A provider whose calls are written down, and take at least a given time."""

    def __init__(self, provider: Provider, journal: Journal, pause: timedelta) -> None:
        self.wire = provider.wire
        self.price_id = provider.price_id
        self.price_flavor = provider.price_flavor
        self.queries: Callable[[], int] = lambda: 0
        self._provider = provider
        self._journal = journal
        self._pause = pause.total_seconds()

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
        """Note the call's begin and end."""
        info = activity.info()
        self._journal.queries = self.queries()
        with self._journal.call(Kind.MODEL, run=info.workflow_id or "", key=info.activity_id):
            if self._pause:
                await asyncio.sleep(self._pause)
            return await self._provider.call(spec, messages, timeout=timeout, on_text=on_text, cache=cache)

    async def close(self) -> None:
        """Leave it to the provider."""
        await self._provider.close()


def tool(journal: Journal | None, pause: timedelta) -> Callable[..., object]:
    """Return the tool that the runs call."""

    async def look_up(ctx: ToolContext, turn: int, size: int) -> str:
        """Look something up."""
        if journal is None:
            return words(size, turn % 32)
        with journal.call(Kind.TOOL, run=ctx.run_id, key=ctx.call_id):
            if pause:
                await asyncio.sleep(pause.total_seconds())
            return words(size, turn % 32)

    return look_up


def perdure_worker(
    client: Client, settings: Settings, plan: Plan, *, provider: str, journal: Journal | None, pause: timedelta
) -> Worker:
    """Return a worker of Perdure, as `perdure worker` has it."""
    app, _ = app_for(plan, provider=provider, tool=tool(journal, pause))
    fixed = FixedModel(reports_usage=bool(settings.prices))
    chosen: Provider = fixed if provider == FIXED else default_providers()[provider]
    recorded = Recorded(chosen, journal, pause) if journal else None
    providers: Mapping[str, Provider] = {provider: recorded or chosen}
    worker = build_worker(client, settings, Perdure(app, settings=settings, providers=providers))
    if recorded:
        plugin = next(each for each in worker.config()["plugins"] if isinstance(each, Perdure))
        recorded.queries = lambda: plugin.transcripts.queries
    return worker


def speaker_worker(client: Client, settings: Settings, journal: Journal | None) -> Worker:
    """Return a worker of the agents of `benchmarks.speaker`."""
    providers: Mapping[str, Provider] = {SPEAKING: SpeakingModel()}
    return build_worker(
        client, settings, Perdure(speaker_app(sign_tool(journal)), settings=settings, providers=providers)
    )


def floor_settings(settings: Settings, *, plain: bool) -> dict[str, Any]:
    """Return the floor's worker settings: Temporal's own with `plain`, else those of Perdure's worker."""
    if plain:
        return {}
    return {
        "max_cached_workflows": settings.max_cached_runs,
        "max_concurrent_activities": settings.max_concurrent_activities,
        "max_concurrent_workflow_tasks": settings.max_concurrent_workflow_tasks,
        "sticky_queue_schedule_to_start_timeout": STICKY_TIMEOUT,
        "max_heartbeat_throttle_interval": HEARTBEAT_INTERVAL,
        "max_eager_activity_reservations_per_workflow_task": EAGER_ACTIVITIES,
    }


async def serve(arguments: argparse.Namespace) -> None:
    """Work until killed."""
    given = json.loads(arguments.settings)
    settings = Settings(task_queue=arguments.queue, log_format="json", audit_url=arguments.audit, **given)
    configure_logging(settings)
    journal = Journal(arguments.journal) if arguments.journal else None
    pause = timedelta(seconds=arguments.pause)
    if arguments.kind == "perdure":
        preload([arguments.provider])
        client = await connect(settings, address=arguments.address)
        plan = Plan.parse(arguments.plan)
        worker = perdure_worker(client, settings, plan, provider=arguments.provider, journal=journal, pause=pause)
    elif arguments.kind == "speaker":
        client = await connect(settings, address=arguments.address)
        worker = speaker_worker(client, settings, journal)
    else:
        client = await Client.connect(arguments.address)
        given = floor_settings(settings, plain=arguments.plain)
        worker = floor_worker(client, arguments.queue, journal=journal, pause=pause, settings=given)
    async with worker:
        sys.stdout.write(json.dumps({"ready": os.getpid()}) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description=__doc__)
    parser.add_argument("kind", choices=["perdure", "speaker", "floor"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--plan", default="1-1-1")
    parser.add_argument("--provider", default=FIXED)
    parser.add_argument("--journal", type=Path)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds that each call takes")
    parser.add_argument("--settings", default="{}", help="settings of Perdure, as JSON")
    parser.add_argument("--plain", action="store_true", help="the floor with Temporal's own settings")
    parser.add_argument("--audit", help="where to keep an audit")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
