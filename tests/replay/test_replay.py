"""Replay: old runs go on under today's code, and where they would not, it says so."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory

from perdure.errors import HistoryFileError
from perdure.history import load
from perdure_workers.debugger import StepDebugger
from perdure_workers.replay import replay

HISTORIES = Path(__file__).parent / "histories"
DEPARTED = "departed"


def recorded(name: str) -> list[WorkflowHistory]:
    """Return a stored run."""
    return load((HISTORIES / f"{name}.json").read_text())


@pytest.mark.parametrize("name", sorted(path.stem for path in HISTORIES.glob("*.json") if path.stem != DEPARTED))
async def test_todays_code_makes_the_decisions_of_a_stored_run(name: str) -> None:
    """Whatever was released goes on where it was, in the sandbox, without worker, server or the user's app."""
    histories = recorded(name)

    report = await replay(histories)

    assert report.deterministic, report.verdict
    assert report.verdict == "deterministic: yes"
    assert report.executions == len(histories)


async def test_a_departure_is_named_by_event_and_step() -> None:
    """Where history says no and the code hears yes, replay names the first event that differs."""
    report = await replay(recorded(DEPARTED))

    assert report.departure
    assert report.departure.event_type == "WorkflowPropertiesModified"
    assert report.departure.step == 7
    assert report.departure.instead == "call_tool for step 7"
    assert report.verdict.startswith(f"deterministic: no, departs at event {report.departure.event_id} (")


async def test_another_call_than_the_recorded_one_is_a_departure() -> None:
    """Temporal's words for it name no event, so replay finds the event itself."""
    histories = recorded("everything")
    second = [event for event in histories[0].events if event.HasField("activity_task_scheduled_event_attributes")][1]
    second.activity_task_scheduled_event_attributes.activity_type.name = "send_mail"

    report = await replay(histories)

    assert report.departure
    assert (report.departure.event_id, report.departure.step) == (second.event_id, 2)
    assert report.departure.instead == "call_tool for step 2"


async def test_code_that_fails_on_a_history_is_reported_with_its_error() -> None:
    """A result that today's code cannot read is no departure in Temporal's sense, but no success either."""
    histories = recorded("failed")
    for event in histories[0].events:
        for payload in event.activity_task_completed_event_attributes.result.payloads:
            payload.data = b'{"unreadable": true}'

    report = await replay(histories)

    assert report.departure
    assert report.departure.event_id is None
    assert report.departure.step == 1
    assert "Failed decoding arguments" in report.verdict


async def test_a_run_may_be_replayed_at_every_turn_it_took() -> None:
    """A run that still goes on replays as far as it got, from its very first event on."""
    [whole] = recorded("everything")
    turns = [event.event_id for event in whole.events if event.HasField("workflow_task_scheduled_event_attributes")]
    ends = [1, 2, 3, *(turn - 1 for turn in turns[1::3])]

    reports = [await replay([WorkflowHistory(whole.workflow_id, whole.events[:end])]) for end in ends]

    assert [report.verdict for report in reports] == ["deterministic: yes"] * len(ends)


async def test_a_chain_of_executions_is_replayed_up_to_the_departure() -> None:
    """Each execution is replayed, and the report says in which one the code departs."""
    histories = recorded("continued")
    last = [event for event in histories[1].events if event.HasField("activity_task_scheduled_event_attributes")][-1]
    last.activity_task_scheduled_event_attributes.activity_type.name = "send_mail"

    report = await replay(histories)

    assert report.departure
    assert (report.departure.execution, report.departure.event_id) == (1, last.event_id)
    assert "execution 1" in report.verdict


async def test_another_workflows_history_is_refused() -> None:
    """Replaying it could only mislead."""
    histories = recorded("failed")
    histories[0].events[0].workflow_execution_started_event_attributes.workflow_type.name = "Invoice"

    with pytest.raises(HistoryFileError, match="'Invoice'"):
        await replay(histories)


async def test_the_debugger_stops_in_the_workflow_where_a_step_is_called_and_where_it_is_back() -> None:
    """Both times the run's own variables are there, and 'next' goes on in the run's code."""
    written = io.StringIO()
    commands = io.StringIO(
        "p ('called', step)\ncontinue\np ('back', __return__.finish.value)\nnext\nstep\nnext\nwhere\nquit\n"
    )
    debugger = StepDebugger(5, stdin=commands, stdout=written)

    report = await replay(recorded("everything"), debugger=debugger)

    assert report.stopped
    assert report.deterministic
    assert "('called', 5)" in written.getvalue()
    assert "('back', 'tool_calls')" in written.getvalue()
    assert "take()\n-> message = reply.message" in written.getvalue()


async def test_quitting_the_debugger_lets_the_run_come_to_its_end() -> None:
    """Leaving is not taken for a failure of the run's code."""
    written = io.StringIO()
    debugger = StepDebugger(6, stdin=io.StringIO("quit\n"), stdout=written)

    report = await replay(recorded("everything"), debugger=debugger)

    assert report.deterministic
    assert written.getvalue().count("Step 6:") == 1


async def test_a_step_that_calls_nothing_never_stops() -> None:
    """The report tells, so that the user is not left guessing."""
    debugger = StepDebugger(4, stdin=io.StringIO(), stdout=io.StringIO())

    report = await replay(recorded("everything"), debugger=debugger)

    assert not report.stopped
