"""The benchmarks themselves: that they run, measure and judge."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.budget import against_a_cap
from benchmarks.history import growth_exponent
from benchmarks.report import Figure, Report
from benchmarks.speaker import TOKENS_A_SECOND
from benchmarks.stage import open_stage
from benchmarks.stream import open_studio
from perdure.contracts import RunStatus


def test_a_missed_goal_is_told() -> None:
    """A figure beyond its goal makes its report unmet, and its line says so."""
    met, missed = Figure("queries", 3, goal=4), Figure("time / floor", 1.2, "×", goal=1.12)

    report = Report("example", "As an example.", [met, missed])

    assert not report.met
    assert "| queries | 3 | ≤ 4 | met |" in report.markdown()
    assert "| time / floor | 1.20× | ≤ 1.12× | **missed** |" in report.markdown()


@pytest.mark.parametrize("exponent", [1, 2])
def test_the_exponent_of_growth_is_found(exponent: int) -> None:
    """Growth in proportion has the exponent 1, growth by the square 2."""
    points = [(n, 7 * n**exponent) for n in (50, 100, 200, 400, 1000)]

    assert growth_exponent(points) == pytest.approx(exponent)


@pytest.mark.e2e
def test_history_stays_linear() -> None:
    """A run whose worker is killed half way keeps a linear history, and asks once for its conversation."""
    command = [sys.executable, "-m", "benchmarks", "history", "--quick"]

    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert found.returncode == 0, found.stdout + found.stderr
    assert "transcript Queries" in found.stdout


@pytest.mark.e2e
def test_organisations_take_turns() -> None:
    """Beside another organisation's flood a few runs take less than twice as long as alone."""
    command = [sys.executable, "-m", "benchmarks", "fairness", "--quick"]

    found = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)

    assert found.returncode == 0, found.stdout + found.stderr
    assert "without fairness keys: until done" in found.stdout


async def test_a_budget_holds_while_workers_are_killed() -> None:
    """Whatever dies meanwhile, what is settled is what the runs cost, within the cap, and nothing stays reserved."""
    async with open_stage() as stage:
        crowd = await against_a_cap(stage, runs=20, kill_every=2, kills=3)

    assert crowd.kills == 3
    assert {result.status for result in crowd.results} <= {RunStatus.COMPLETED, RunStatus.OUT_OF_BUDGET}
    assert RunStatus.OUT_OF_BUDGET in {result.status for result in crowd.results}
    assert crowd.standing.spent_usd == crowd.cost <= crowd.cap
    assert crowd.standing.reserved_usd == 0
    assert (crowd.view.waiting_runs, crowd.view.queued_runs) == (0, 0)


@pytest.mark.e2e
async def test_viewers_add_nothing_to_a_history() -> None:
    """Who watches a model speak sees each word, and leaves no event behind, while approvals go through."""
    async with open_studio() as studio:
        unseen = await studio.show(seconds=3, viewers=0)
        shown = await studio.show(seconds=3, viewers=5)

    assert shown.added == 0
    assert shown.events == unseen.events
    assert len(shown.delays) == 5 * 3 * TOKENS_A_SECOND
    assert min(shown.delays) > 0
    assert len(shown.approvals) > 0
