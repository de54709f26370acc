"""Cancelling a run in the middle of its calls: it arrives soon, and what is left can be gone on with."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowFailureError

from perdure import Agent, App, ToolContext
from perdure.messages import UserMessage
from perdure.settings import Settings
from perdure.testing import Call, Script, ScriptedModel, ScriptedRequest, Turn
from perdure_activities.providers.registry import default_providers, preload
from perdure_api.gateway import Gateway
from perdure_api.schemas import NewRun
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from perdure_workflows.agent_run import AgentRun
from tests.harness import InProcessModel, agent, assert_valid, serving, transcript, wish

SOON = 5.0
"""Seconds, on a machine that does other things besides; `make bench` measures what it really takes."""


async def test_a_cancellation_while_money_is_given_back_is_not_lost(client: Client) -> None:
    """It comes as soon as the run asks, which is when it tells the ledger that it needs nothing for now."""
    app = App()

    @app.tool(approval="ask")
    def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    app.add(agent(tools=("pay",)))
    async with serving(client, app, InProcessModel(lambda _: wish(("pay", {"amount": 1})))) as settings:
        gateway = Gateway(client, app, settings)

        async def cancelled() -> str:
            run_id = (await gateway.runs.start(NewRun(agent="tester", input="go"))).run_id
            while not (await gateway.runs.get(run_id)).pending_approvals:
                pass
            await gateway.runs.cancel(run_id)
            ended = await gateway.runs.result(run_id, timeout=timedelta(seconds=30))
            return ended.status.value if ended else "goes on"

        ends = [await cancelled() for _ in range(12)]

    assert set(ends) == {"cancelled"}


class Watch:
    """When calls began, and when each saw that it is cancelled."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self.seen: dict[str, float] = {}

    def begin(self, call_id: str) -> None:
        """Note that a call is under way; from any thread."""
        self.loop.call_soon_threadsafe(self.begun.put_nowait, call_id)

    def see(self, call_id: str) -> None:
        """Note that it is cancelled."""
        self.seen[call_id] = time.monotonic()


def waiter(watch: Watch, *, model: str) -> App:
    """An app whose tools, an async and a plain one, wait until they are cancelled."""
    app = App()

    @app.tool(timeout=60)
    async def wait(ctx: ToolContext) -> None:
        """Wait."""
        watch.begin(ctx.call_id)
        try:
            await asyncio.Event().wait()
        finally:
            watch.see(ctx.call_id)

    @app.tool(timeout=60, max_attempts=1)
    def work(ctx: ToolContext) -> None:
        """Work."""
        watch.begin(ctx.call_id)
        while not ctx.cancelled:
            time.sleep(0.01)
        watch.see(ctx.call_id)
        raise InterruptedError("it was cancelled")

    app.add(Agent(name="waiter", model=model, tools=("wait", "work")))
    return app


def script(request: ScriptedRequest) -> Turn:
    """Call both tools, and answer once they are answered."""
    return Turn(calls=[Call("wait"), Call("work")]) if request.turn == 0 else Turn("Then another time.")


@pytest.mark.parametrize("wire", ["anthropic", "openai", "openai-chat"])
async def test_a_conversation_goes_on_after_a_cancellation(
    client: Client, monkeypatch: pytest.MonkeyPatch, wire: str
) -> None:
    """Async and plain tools hear of it soon; every call is answered, so that each vendor takes what is said next."""
    await asyncio.to_thread(preload, [wire])
    watch = Watch()
    app = waiter(watch, model=f"{wire}:scripted")
    settings = Settings(task_queue=f"queue-{uuid.uuid4().hex[:12]}")
    gateway = Gateway(client, app, settings)
    async with ScriptedModel(Script(script)) as model:
        for name, value in model.environment().items():
            monkeypatch.setenv(name, value)
        async with build_worker(client, settings, Perdure(app, settings=settings)):
            run = await gateway.runs.start(NewRun(agent="waiter", input="Wait for me."))
            handle = client.get_workflow_handle_for(AgentRun.run, run.run_id)
            for _ in range(2):
                await watch.begun.get()
            asked = time.monotonic()
            await gateway.runs.cancel(run.run_id)
            with pytest.raises(WorkflowFailureError):
                await handle.result()
            messages = await transcript(handle)
        provider = default_providers()[wire]
        encoded = b",".join(provider.encode(message) for message in [*messages, UserMessage(text="Never mind.")])
        spec = app.resolve(app.agent("waiter"))
        reply = await provider.call(spec, encoded, timeout=timedelta(seconds=20), on_text=lambda _: None)
        await provider.close()

    assert len(watch.seen) == 2
    assert max(watch.seen.values()) - asked < SOON
    assert_valid(messages)
    assert reply.message.text == "Then another time."
