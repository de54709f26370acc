"""`perdure agents rollout`: what it prints, and what it takes."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from perdure.errors import InvalidInputError
from perdure.rollout import Rollout
from perdure_api.rollout_schemas import AgentRollout
from perdure_workers.cli.actions.rollouts import print_rollout, roll_out


def shown(found: AgentRollout) -> list[str]:
    """Return the lines that are printed, white space collapsed."""
    written = io.StringIO()
    print_rollout(found, Console(file=written, width=80))
    return [" ".join(one.split()) for one in written.getvalue().splitlines()]


def test_a_rollout_is_shown_with_shares_and_whose_word_it_is() -> None:
    """A version that the app does not have any more is named as such."""
    rollout = Rollout(
        agent="support",
        org="acme",
        weights={"0.9": 10, "1.0": 90, "1.1": 10},
        created_by="ann",
        created_at=datetime(2026, 11, 27, 14, 3, tzinfo=UTC),
    )
    found = AgentRollout(agent="support", newest="1.2", shares={"1.0": 0.9, "1.1": 0.1, "1.2": 0}, rollout=rollout)

    assert shown(found) == [
        "version weight new users",
        "1.0 90 90.0%",
        "1.1 10 10.0%",
        "1.2 – 0.0% newest",
        "0.9 10 – gone",
        "set by ann at 2026-11-27 14:03 UTC, for organisation acme",
    ]


def test_without_a_rollout_the_newest_is_named() -> None:
    """Which is where all runs go."""
    found = AgentRollout(agent="support", newest="1.1", shares={"1.0": 0, "1.1": 1})

    assert shown(found)[-2:] == ["1.1 – 100.0% newest", "no rollout: runs start with the newest version"]


@pytest.mark.parametrize(
    ("weights", "clear", "why"),
    [
        (["1.0"], False, "write VERSION=WEIGHT"),
        (["=5"], False, "write VERSION=WEIGHT"),
        (["1.0=5", "1.0=6"], False, "two weights"),
        (["1.0=5"], True, "leave the weights out"),
        (["1.0=many"], False, "weights.1.0"),
        (["1.0=0"], False, "no version has a weight above 0"),
    ],
)
async def test_what_cannot_be_a_rollout_is_told_in_a_line(weights: list[str], clear: bool, why: str) -> None:
    """Before anything is asked of a server."""
    with pytest.raises(InvalidInputError, match=why):
        await roll_out(
            "support",
            weights,
            clear=clear,
            org=None,
            by="ann",
            as_json=False,
            app="support_desk",
            address="127.0.0.1:1",
        )
