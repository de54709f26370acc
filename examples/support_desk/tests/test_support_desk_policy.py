"""The support desk's policy: what it comes to, case by case."""

from __future__ import annotations

from pathlib import Path

from support_desk.app import app

from perdure.policy_table import read_table

CASES = Path(__file__).with_name("policy_cases.yaml")


def test_the_policy_decides_as_agreed() -> None:
    """Each case of the table comes out as it says."""
    table = read_table(CASES)

    assert [str(failure) for failure in table.failures(app)] == []
    assert len(table.cases) == 9


def test_nothing_about_the_policy_is_odd() -> None:
    """Every rule is reached and fits a tool, and every tool has a rule."""
    assert app.check() == ()
