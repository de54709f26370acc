"""Replay of ledgers: one that is open goes on under today's code, whatever it had to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.worker import Replayer

from perdure.codec import data_converter
from perdure.history import load
from perdure_workers.sandbox import strict
from perdure_workflows.ledger import Ledger

LEDGERS = Path(__file__).parent / "ledgers"
STORED = sorted(LEDGERS.glob("*.json"))


@pytest.mark.parametrize("stored", [path.read_text() for path in STORED], ids=[path.stem for path in STORED])
async def test_todays_code_goes_on_with_a_stored_ledger(stored: str) -> None:
    """A ledger lives as long as its organisation has runs: each of its commands comes where it came."""
    replayer = Replayer(workflows=[Ledger], data_converter=data_converter(), workflow_runner=strict())

    for history in load(stored):
        result = await replayer.replay_workflow(history, raise_on_replay_failure=False)

        assert result.replay_failure is None


def test_there_is_a_stored_ledger() -> None:
    """The test above has looked at something."""
    assert STORED
