"""Fork: a new run goes on from a step of another one, with something changed, and repeats no effect before it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.client import Client

from perdure import App, Limits, ToolContext
from perdure.contracts import ForkOrigin, RunStatus
from perdure.errors import ConflictError, InvalidInputError
from perdure.events import RunStarted
from perdure.history import fetch_executions, read_events
from perdure.messages import Message, ToolMessage, UserMessage
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_api.gateway import Gateway
from perdure_api.recovery_schemas import ForkRequest
from perdure_workers.replay import replay
from perdure_workflows.agent_run import AgentRun
from tests.harness import (
    Handle,
    InProcessModel,
    agent,
    answer,
    assert_valid,
    in_turns,
    last_results,
    pending,
    serving,
    start,
    transcript,
    turn,
    wish,
)

WORK = wish(("look", {"order": "o1"}), ("pay", {"order": "o1"}))


def shop(size: int = 10, **changes: Any) -> tuple[App, list[str]]:
    """An app with a harmless tool and one with an effect, and what was called of them."""
    app = App()
    made: list[str] = []

    @app.tool()
    def look(order: str) -> str:
        """Look an order up."""
        made.append(f"look {order}")
        return f"{order} is paid" + "." * size

    @app.tool(effect="once", approval="allow", max_result_bytes=1024 * 1024)
    async def pay(ctx: ToolContext, order: str) -> str:
        """Pay back."""
        made.append(f"pay {order}")
        return "paid"

    app.add(agent(tools=("look", "pay"), **changes))
    return app, made


async def fork(client: Client, app: App, settings: Settings, origin: Handle, **request: Any) -> Handle:
    """Fork a run, and return the fork's handle."""
    started = await Gateway(client, app, settings).recovery.fork(origin.id, ForkRequest.model_validate(request))
    return client.get_workflow_handle_for(AgentRun.run, started.run_id)


def says(messages: list[Message]) -> str:
    """Return what the model was told last."""
    return str(messages[-1])


async def test_a_fork_goes_on_from_a_model_call_and_repeats_no_effect(client: Client) -> None:
    """The model is asked what it was asked, by other instructions and with a message; each run names the other."""
    app, made = shop()
    model = InProcessModel(lambda messages: WORK if turn(messages) == 0 else answer(says(messages)))

    async with serving(client, app, model) as settings:
        origin = await start(client, app, settings)
        await origin.result()
        handle = await fork(client, app, settings, origin, step=4, instructions="Be rude.", message="Quickly!")
        result = await handle.result()
        messages = await transcript(handle)
        gateway = Gateway(client, app, settings)
        detail = await gateway.runs.get(handle.id)
        forks = await eventually(lambda: _forks(gateway, origin.id), what="the link back")
        events = await read_events(client, handle.id)
        replayed = await replay(await fetch_executions(client, handle.id))

    assert result.status is RunStatus.COMPLETED
    assert "Quickly!" in (result.output or "")
    assert sorted(made) == ["look o1", "pay o1"]
    assert model.seen[2] == [*model.seen[1], UserMessage(text="Quickly!")]
    assert result.totals.steps == 4
    assert result.totals.model_calls == 1
    assert detail.forked_from == ForkOrigin(run_id=origin.id, step=4)
    assert forks == (handle.id,)
    assert isinstance(events[0], RunStarted)
    assert events[0].forked_from == detail.forked_from
    assert_valid(messages)
    assert replayed.deterministic


async def _forks(gateway: Gateway, run_id: str) -> tuple[str, ...]:
    return (await gateway.runs.get(run_id)).forks


async def test_a_call_is_made_with_other_arguments_or_taken_to_have_returned_something(client: Client) -> None:
    """The other call of its turn keeps its result, and its effect is not repeated."""
    app, made = shop()
    model = InProcessModel(lambda messages: WORK if turn(messages) == 0 else answer("; ".join(last_results(messages))))

    async with serving(client, app, model) as settings:
        origin = await start(client, app, settings)
        await origin.result()
        edited = await (await fork(client, app, settings, origin, step=2, arguments={"order": "o2"})).result()
        given = await (await fork(client, app, settings, origin, step=2, result={"state": "lost"})).result()

    assert sorted(made) == ["look o1", "look o2", "pay o1"]
    assert "o2 is paid" in (edited.output or "")
    assert (given.output or "").startswith('{"state": "lost"}; paid')


async def test_an_effect_is_repeated_only_with_other_arguments(client: Client) -> None:
    """To fork at a once call that took effect is refused, unless it becomes another call."""
    app, made = shop()

    async with serving(client, app, InProcessModel(in_turns(WORK, answer("Done.")))) as settings:
        origin = await start(client, app, settings)
        await origin.result()
        with pytest.raises(ConflictError, match="must not be repeated"):
            await fork(client, app, settings, origin, step=3)
        await (await fork(client, app, settings, origin, step=3, arguments={"order": "o9"})).result()

    assert sorted(made) == ["look o1", "pay o1", "pay o9"]


async def test_a_run_goes_on_after_its_answer(client: Client) -> None:
    """One step behind the last, a message goes on with the conversation."""
    app, _ = shop()
    model = InProcessModel(in_turns(WORK, answer("Done."), answer("You are welcome.")))

    async with serving(client, app, model) as settings:
        origin = await start(client, app, settings)
        await origin.result()
        result = await (await fork(client, app, settings, origin, step=5, message="Thanks!")).result()
        with pytest.raises(InvalidInputError, match="say a message"):
            await fork(client, app, settings, origin, step=5)
        with pytest.raises(ConflictError, match="no step 9 yet"):
            await fork(client, app, settings, origin, step=9)
        with pytest.raises(InvalidInputError, match="no tool call"):
            await fork(client, app, settings, origin, step=4, result="x")

    assert result.output == "You are welcome."
    assert model.seen[-1][-1] == UserMessage(text="Thanks!")


async def test_a_failed_run_goes_on_with_another_limit(client: Client) -> None:
    """What a retry cannot change, a fork can."""
    app, made = shop(limits=Limits(max_steps=3))

    async with serving(client, app, InProcessModel(in_turns(WORK, WORK, answer("Done.")))) as settings:
        origin = await start(client, app, settings)
        stopped = await origin.result()
        handle = await fork(client, app, settings, origin, step=3, result="paid", limits={"max_steps": 20})
        result = await handle.result()

    assert stopped.status is RunStatus.MAX_STEPS
    assert result.output == "Done."
    assert made.count("pay o1") == 2  # the origin's, and the fork's own second turn


async def test_an_open_run_is_forked_and_goes_on(client: Client) -> None:
    """A call under way whose effect nobody knows is put to a human in the fork, never made again."""
    app = App()
    paying, let_go, made = asyncio.Event(), asyncio.Event(), list[str]()

    @app.tool()
    def look() -> str:
        """Look."""
        return "seen"

    @app.tool(effect="once", approval="allow", timeout=60)
    async def pay() -> str:
        """Pay."""
        made.append("pay")
        paying.set()
        await let_go.wait()
        return "paid"

    app.add(agent(tools=("look", "pay")))
    both = wish(("look", {}), ("pay", {}))
    model = InProcessModel(lambda messages: both if turn(messages) == 0 else answer("; ".join(last_results(messages))))
    async with serving(client, app, model) as settings:
        origin = await start(client, app, settings)
        await paying.wait()
        handle = await fork(client, app, settings, origin, step=2, result="not seen")
        [asked] = await pending(handle)
        decision = {
            "approval_id": asked.approval_id,
            "decided_by": "ann",
            "outcome": "done",
            "result": "paid, I saw",
        }
        await handle.signal("approve", decision)
        result = await handle.result()
        let_go.set()
        ended = await origin.result()

    assert asked.kind == "outcome"
    assert result.output == "not seen; paid, I saw"
    assert ended.output == "seen; paid"
    assert made == ["pay"]


async def test_a_large_conversation_is_pointed_to(client: Client) -> None:
    """It stays in the other run's history, and the fork's model reads it there."""
    app, made = shop(size=50_000)
    look = wish(("look", {"order": "o1"}))
    model = InProcessModel(in_turns(*[look] * 8, answer("Done.")))

    async with serving(client, app, model) as settings:
        origin = await start(client, app, settings)
        await origin.result()
        handle = await fork(client, app, settings, origin, message="Once more.")
        result = await handle.result()
        [history] = await fetch_executions(client, handle.id)

    assert result.output == "Done."
    assert model.seen[-1] == [*model.seen[-2], UserMessage(text="Once more.")]
    assert sum(isinstance(message, ToolMessage) for message in model.seen[-1]) == 8
    assert history.events[0].ByteSize() < 20_000
    assert len(made) == 8


async def test_what_the_app_does_not_have_cannot_be_forked_to(client: Client) -> None:
    """Changes are checked as an agent's own fields are."""
    app, _ = shop()

    async with serving(client, app, InProcessModel(in_turns(answer("Done.")))) as settings:
        origin = await start(client, app, settings)
        await origin.result()
        with pytest.raises(InvalidInputError, match="model"):
            await fork(client, app, settings, origin, model="nonsense")
