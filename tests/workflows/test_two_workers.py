"""Runs shared by several workers, and workers that forget: the model always sees the same conversation."""

from __future__ import annotations

import asyncio

from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from perdure import App
from perdure.codec import data_converter
from perdure.messages import Message
from perdure.settings import Settings
from perdure_activities.providers.provider import ProviderReply
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from tests.harness import InProcessModel, agent, answer, assert_valid, serving, start, turn, wish

TURNS = 10


def counting() -> App:
    """An app that counts."""
    app = App()

    @app.tool()
    async def count(to: int) -> str:
        """Count."""
        return f"counted to {to}"

    app.add(agent(tools=("count",)))
    return app


def script(messages: list[Message]) -> ProviderReply:
    """Count twice in each turn, then say how long the conversation was."""
    said = turn(messages)
    return wish(("count", {"to": said}), ("count", {"to": -said})) if said < TURNS else answer(str(len(messages)))


async def test_runs_that_change_workers_keep_their_conversation(env: WorkflowEnvironment) -> None:
    """With the work spread over two workers no model call misses a message."""
    app = counting()
    client, other = env.client, await env.connect_client(data_converter=data_converter())
    one, two = InProcessModel(script), InProcessModel(script)

    async with (
        serving(client, app, one, cached_runs=0) as settings,
        serving(other, app, two, cached_runs=0, task_queue=settings.task_queue),
    ):
        handles = [await start(client, app, settings) for _ in range(8)]
        results = await asyncio.gather(*(handle.result() for handle in handles))

    assert {result.output for result in results} == {str(2 * TURNS + 1)}
    assert one.seen
    assert two.seen
    for conversation in [*one.seen, *two.seen]:
        assert_valid(conversation)


async def test_a_run_that_stays_asks_for_its_conversation_never(client: Client) -> None:
    """On one worker, with its runs cached, no transcript Query is made at all."""
    app = counting()
    settings = Settings(task_queue="a-run-that-stays", shutdown_grace_seconds=0)
    plugin = Perdure(app, settings=settings, providers={"in-process": InProcessModel(script)})

    async with build_worker(client, settings, plugin):
        handle = await start(client, app, settings)
        await handle.result()

    assert plugin.transcripts.queries == 0
