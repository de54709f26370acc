"""The benchmarks themselves: that they run, measure and judge."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.history import growth_exponent
from benchmarks.report import Figure, Report


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
