"""What `perdure runs show` says below the timeline."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

from rich.console import Console

from perdure.contracts import RunError, RunStatus
from perdure_api.schemas import PendingCall, RunDetail
from perdure_workers.cli.actions.runs import print_state


def shown(*calls: PendingCall) -> str:
    """Return what is printed of a running run with these calls under way."""
    detail = RunDetail(
        run_id="r",
        agent="a",
        version="1",
        status=RunStatus.RUNNING,
        input="go",
        started_at=datetime.now(UTC),
        live=True,
        execution_id="e",
        pending_calls=calls,
    )
    written = io.StringIO()
    print_state(detail, Console(file=written, width=80))
    return " ".join(written.getvalue().split())


def test_a_parked_call_says_when_it_is_tried_again_and_why() -> None:
    """Whoever looks at a run that stands still learns that it waits for a model, and for how long."""
    overloaded = RunError(type="model_overloaded", message="Anthropic answered with status 529: Overloaded")
    parked = PendingCall(
        activity="call_model",
        running=False,
        attempt=7,
        next_attempt_at=datetime.now(UTC) + timedelta(minutes=2, seconds=30),
        last_failure=overloaded,
    )
    counted = parked.model_copy(update={"max_attempts": 10, "running": True, "next_attempt_at": None})

    why = "after model_overloaded: Anthropic answered with status 529: Overloaded"
    assert shown(parked).startswith("call_model: attempt 7 in 2 m ")
    assert shown(parked).endswith(why)
    assert shown(counted) == f"call_model: attempt 7 of 10 is under way, {why}"


def test_a_call_that_never_failed_is_left_to_the_timeline() -> None:
    """It is under way, which the timeline says already."""
    assert shown(PendingCall(activity="call_tool", running=True, attempt=1)) == ""
