"""Replay of the auditor: one that is at work when Perdure is updated goes on under the new code."""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from perdure.codec import data_converter
from perdure.history import load
from perdure_workers.sandbox import strict
from perdure_workflows.auditor import Auditor

HISTORIES = sorted((Path(__file__).parent / "auditor").glob("*.json"))


def stored(path: Path) -> WorkflowHistory:
    """Return a stored execution."""
    [history] = load(path.read_text())
    return history


def test_there_are_histories() -> None:
    """Of an auditor that filled its history, and of one whose turn was over."""
    assert [path.stem for path in HISTORIES] == ["filled_up", "turn_over"]


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_todays_auditor_makes_the_decisions_of_a_stored_one(path: Path) -> None:
    """In the sandbox, from its start until it continues as new."""
    history = stored(path)
    replayer = Replayer(workflows=[Auditor], data_converter=data_converter(), workflow_runner=strict())

    replayed = await replayer.replay_workflow(history, raise_on_replay_failure=False)

    assert history.events[-1].HasField("workflow_execution_continued_as_new_event_attributes")
    assert replayed.replay_failure is None
