"""The guide to versions: its code runs as it stands, and its commands print what it shows."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console

from perdure import App
from perdure.rollout import Rollout, VersionSource, drawn_version, shares
from perdure_api.comparison import verdict
from perdure_api.comparison_schemas import Scores, VersionComparison, VersionRecord
from perdure_api.proportion import wilson
from perdure_api.rollout_schemas import AgentRollout
from perdure_api.run_statistics import RunStatistics
from perdure_workers.cli.actions.comparison import print_comparison
from perdure_workers.cli.actions.rollouts import print_rollout

GUIDE = (Path(__file__).parents[2] / "docs" / "versions.md").read_text()
WEIGHTS = {"1": 90, "2": 10}


def printed(show: Callable[[Console], None]) -> str:
    """Return what is printed, as the guide has it."""
    written = io.StringIO()
    show(Console(file=written, width=200))
    return written.getvalue()


def record(version: str, runs: int, completed: int, *, cost: str, **numbers: Any) -> VersionRecord:
    """Return what a comparison says of a version."""
    opinions = {name: numbers.pop(name) for name in ("feedback", "scorers")}
    return VersionRecord(
        version=version,
        registered=True,
        share=0,
        ended=runs,
        statistics=RunStatistics(runs=runs, judged=runs, success_rate=completed / runs, **numbers),
        success=wilson(completed, runs),
        cost_mean_usd=Decimal(cost),
        **opinions,
    )


def test_the_guides_app_has_two_versions() -> None:
    """The later one is the newest, and is what runs start with."""
    names: dict[str, Any] = {"__name__": "guide"}
    [block] = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)

    exec(compile(block, "versions.md", "exec", dont_inherit=True), names)

    app: App = names["app"]
    app.check()
    assert app.versions("support") == ("1", "2")
    assert app.agent("support").version == "2"


def test_a_rollout_is_shown_as_the_guide_has_it() -> None:
    """With the weights of its command."""
    set_at = datetime(2026, 11, 27, 14, 3, tzinfo=UTC)
    rollout = Rollout(agent="support", weights=WEIGHTS, created_by="ann", created_at=set_at)
    found = AgentRollout(agent="support", newest="2", shares=shares(WEIGHTS), rollout=rollout)

    assert printed(lambda out: print_rollout(found, out)) in GUIDE
    assert "perdure agents rollout support " + " ".join(f"{name}={weight}" for name, weight in WEIGHTS.items()) in GUIDE


def test_a_comparison_is_shown_as_the_guide_has_it() -> None:
    """Intervals and verdict are those of the numbers beside them."""
    first = record(
        "1", 914, 835, cost="0.0212", tool_calls=2310, tool_failure_rate=0.0121,
        duration_p50_seconds=8.2, duration_p95_seconds=31,
        feedback=Scores(count=61, mean=0.78), scorers={"helpful": Scores(count=92, mean=0.71)},
    )  # fmt: skip
    second = record(
        "2", 103, 100, cost="0.0188", tool_calls=251, tool_failure_rate=0.004,
        duration_p50_seconds=7.9, duration_p95_seconds=28,
        feedback=Scores(count=9, mean=0.84), scorers={"helpful": Scores(count=11, mean=0.8)},
    )  # fmt: skip
    records = (first, second)
    now = datetime.now(UTC)
    found = VersionComparison(agent="support", since=now, until=now, versions=records, verdict=verdict(records))

    assert printed(lambda out: print_comparison(found, out)) in GUIDE


def test_a_ninth_moves_as_the_guide_says() -> None:
    """From 90/10 to 80/20 one user in nine of the first version moves, and nobody the other way."""
    people = [f"user-{number}" for number in range(9000)]

    def drawn(weights: dict[str, int]) -> list[str | None]:
        return [drawn_version(weights, agent="support", org=None, key=one) for one in people]

    moves = list(zip(drawn({"1": 90, "2": 10}), drawn({"1": 80, "2": 20}), strict=True))
    stayers = sum(before == "1" for before, _ in moves)

    assert ("2", "1") not in moves
    assert abs(moves.count(("1", "2")) / stayers - 1 / 9) < 0.015


def test_the_guide_names_every_way_to_a_version() -> None:
    """A reader of `version_source` finds what it means."""
    assert [source for source in VersionSource if f"`{source}`" not in GUIDE] == []
