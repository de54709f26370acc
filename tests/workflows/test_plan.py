"""Plans: the model says what it means to do, people see it, and nothing else comes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from temporalio.client import Client

from perdure import App
from perdure.contracts import RunStatus
from perdure.errors import DuplicateNameError
from perdure.history import follow_events
from perdure.plan import MAX_PLANNED, NOTED, PlanStatus, latest_plan
from tests.harness import InProcessModel, agent, answer, in_turns, last_results, pending, serving, start, view, wish

ORDER = [{"step": "look", "status": "completed"}, {"step": "refund", "status": "in_progress"}]


def planning(**options: Any) -> App:
    """Return an app whose agent plans, and has a tool that asks."""
    app = App()

    @app.tool(effect="once", approval="ask")
    def refund(order: str) -> str:
        """Refund."""
        return f"refunded {order}"

    app.add(agent(tools=("refund",), plan=True, **options))
    return app


async def test_people_see_the_plan_while_the_run_waits_and_after_its_end(client: Client) -> None:
    """The latest plan is in the run's view and in its result; it is noted without a worker's call."""
    done = [{**step, "status": "completed"} for step in ORDER]
    script = in_turns(
        wish(("update_plan", {"plan": ORDER}), ("refund", {"order": "A-1"})),
        wish(("update_plan", {"plan": done})),
        answer("done"),
    )
    model = InProcessModel(script)
    async with serving(client, planning(), model) as settings:
        handle = await start(client, planning(), settings)
        [asked] = await pending(handle)
        waiting = await view(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        result = await handle.result()

    assert [(step.step, step.status) for step in waiting.plan] == [
        ("look", PlanStatus.COMPLETED),
        ("refund", PlanStatus.IN_PROGRESS),
    ]
    assert {step.status for step in result.plan} == {PlanStatus.COMPLETED}
    assert last_results(model.seen[1]) == [NOTED, "refunded A-1"]
    history = await handle.fetch_history()
    called = [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in history.events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]
    assert called == ["call_model", "check_call", "call_tool", "call_model", "call_model"]
    answered = [event async for event in follow_events(client, handle.id) if event.kind == "tool.answered"]
    assert len(answered) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"plan": "refund"},
        {"plan": [{"step": "", "status": "pending"}]},
        {"plan": [{"step": "refund", "status": "maybe"}]},
        {"plan": [{"step": "refund"}] * (MAX_PLANNED + 1)},
        {"plan": [], "more": 1},
    ],
)
async def test_what_is_no_plan_is_told_to_the_model(client: Client, arguments: dict[str, Any]) -> None:
    """The plan stays as it was, and the run goes on."""
    script = in_turns(wish(("update_plan", {"plan": ORDER})), wish(("update_plan", arguments)), answer("done"))
    model = InProcessModel(script)
    async with serving(client, planning(), model) as settings:
        result = await (await start(client, planning(), settings)).result()

    [told] = last_results(model.seen[2])
    assert told.startswith("This is no plan: ")
    assert result.status is RunStatus.COMPLETED
    assert [step.step for step in result.plan] == ["look", "refund"]


def test_an_agent_without_a_plan_has_no_such_tool() -> None:
    """It is offered where it was asked for, with a schema that any provider takes."""
    app = App()
    plain, plans = app.resolve(agent()), planning().resolve(agent(tools=("refund",), plan=True))

    assert plain.tools == ()
    assert [tool.name for tool in plans.tools] == ["refund", "update_plan"]
    assert "built_in" not in json.loads(plans.model_dump_json())["tools"][0]


def test_a_tool_of_that_name_is_refused() -> None:
    """Two tools of one name would be one too many."""
    app = App()

    @app.tool()
    def update_plan() -> str:
        """Plan."""
        return ""

    with pytest.raises(DuplicateNameError, match="update_plan"):
        app.resolve(agent(tools=("update_plan",), plan=True))


def test_a_fork_begins_with_the_plan_that_held_by_then() -> None:
    """Of a conversation's plans the latest counts, and what is none does not."""
    said = [wish(("update_plan", {"plan": ORDER[:1]})), wish(("update_plan", {"plan": ORDER})), answer("so be it")]
    wrong = wish(("update_plan", {"plan": "all"}))

    assert [step.step for step in latest_plan([one.message for one in (*said, wrong)])] == ["look", "refund"]
    assert [step.step for step in latest_plan([one.message for one in said[:1]])] == ["look"]
    assert latest_plan([]) == ()
