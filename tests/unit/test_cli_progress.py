"""The progress line of `perdure run --wait`: what it says at each moment of a run."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from perdure.activities import Finish
from perdure.contracts import RunStatus, Usage
from perdure.events import ApprovalAsked, ModelCalled, ModelReplied, RequestedCall, RunEnded, RunEvent, ToolCalled
from perdure_workers.watching import Progress

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def asked() -> RunEvent:
    """Return the first model call's start."""
    return ModelCalled(id="0.5", at=NOW, step=1, model="anthropic:claude")


def replied(*, cost: Decimal | None = Decimal("0.0123")) -> RunEvent:
    """Return a reply that calls a tool."""
    return ModelReplied(
        id="0.7",
        at=NOW,
        step=1,
        model="claude",
        finish=Finish.TOOL_CALLS,
        usage=Usage(input_tokens=1200, output_tokens=40),
        cost_usd=cost,
        tool_calls=(RequestedCall(step=2, provider_id="c1", tool="refund"),),
    )


def waits() -> RunEvent:
    """Return the question to a human."""
    return ApprovalAsked(id="0.9", at=NOW, step=2, approval_id="a1", tool="refund")


def calls() -> RunEvent:
    """Return the tool call's dispatch."""
    return ToolCalled(id="0.12", at=NOW, step=2, call_id="c", tool="refund", arguments={}, effect="once")


def ended() -> RunEvent:
    """Return the run's end."""
    return RunEnded(id="0.20", at=NOW, status=RunStatus.MAX_STEPS)


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([], "0 steps · 0→0 tok · $0.0000 · goes on"),
        ([asked()], "1 step · 0→0 tok · $0.0000 · asks anthropic:claude"),
        ([asked(), replied(), waits()], "2 steps · 1.2k→40 tok · $0.0123 · waits for approval of refund"),
        ([asked(), replied(), calls()], "2 steps · 1.2k→40 tok · $0.0123 · runs refund"),
        ([asked(), replied(), calls(), ended()], "2 steps · 1.2k→40 tok · $0.0123 · max_steps"),
        ([asked(), replied(cost=None), calls()], "2 steps · 1.2k→40 tok · unpriced · runs refund"),
    ],
)
def test_the_line_says_how_far_what_it_cost_and_what_goes_on(events: list[RunEvent], line: str) -> None:
    """One line holds steps, tokens, cost, and what the run does or waits for."""
    progress = Progress()

    for event in events:
        progress.add(event)

    assert progress.line == line
