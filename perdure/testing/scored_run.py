"""A run that has ended, made up for the test of a scorer."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.contracts import RunStatus
from perdure.scored_run import ScoredCall, ScoredRun


def scored_run(
    *,
    input: str = "",  # noqa: A002  # the field's name
    output: str | None = None,
    tool_calls: Iterable[ScoredCall] = (),
    status: RunStatus = RunStatus.COMPLETED,
    run_id: str = "run-1",
    agent: str = "test",
    version: str = "1",
    user: str | None = None,
    org: str | None = None,
) -> ScoredRun:
    """Make a run for a scorer to judge.

    assert cites_the_order(scored_run(input="Where is A-1001?", output="A-1001 has left.")) == 1
    """
    return ScoredRun(
        run_id=run_id,
        agent=agent,
        version=version,
        user=user,
        org=org,
        status=status,
        input=input,
        output=output,
        tool_calls=tuple(tool_calls),
    )
