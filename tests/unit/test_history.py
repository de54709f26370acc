"""History files: what is written can be read again, and what is no history is refused with words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload

from perdure.codec import ZstdCodec
from perdure.encryption import Keyring, new_key
from perdure.errors import HistoryFileError
from perdure.history import export, load, project

HISTORIES = Path(__file__).parents[1] / "replay" / "histories"


def stored(name: str) -> str:
    """Return a stored history's file."""
    return (HISTORIES / f"{name}.json").read_text()


def content(name: str) -> Any:
    """Return a stored history's JSON."""
    return json.loads(stored(name))


@pytest.mark.parametrize("name", ["everything", "continued"])
def test_an_exported_run_is_read_again_unchanged(name: str) -> None:
    """One execution or several, the file holds all of it."""
    histories = load(stored(name))

    again = load(export(histories))

    assert [list(history.events) for history in again] == [list(history.events) for history in histories]
    assert [history.workflow_id for history in again] == [history.workflow_id for history in histories]


def test_one_execution_is_written_as_the_temporal_command_writes_it() -> None:
    """So Temporal's own tools read the file."""
    assert set(json.loads(export(load(stored("failed"))))) == {"events"}


def test_a_chain_of_executions_names_each() -> None:
    """Their run ids lead back to the server."""
    executions = json.loads(export(load(stored("continued"))))["executions"]

    assert len({execution["run_id"] for execution in executions}) == len(executions) == 3


async def test_payloads_that_the_temporal_command_exports_compressed_are_read() -> None:
    """`temporal workflow show` knows nothing of our codec."""
    histories = load(stored("failed"))
    plain = list(project(histories))
    for payload in histories[0].events[0].workflow_execution_started_event_attributes.input.payloads:
        payload.CopyFrom((await ZstdCodec(threshold=1).encode([payload]))[0])
    assert b"perdure-zstd" in histories[0].events[0].SerializeToString()

    again = load(export(histories))

    assert list(project(again)) == plain


async def test_failures_that_the_temporal_command_exports_encoded_are_read() -> None:
    """Where a codec keeps the words of failures apart, they are told and exported as ever."""
    histories = load(stored("failed"))
    plain = list(project(histories))
    *_, last = histories[0].events
    failure = last.workflow_execution_failed_event_attributes.failure
    said = {"message": failure.message, "stack_trace": failure.stack_trace}
    failure.encoded_attributes.CopyFrom(Payload(metadata={"encoding": b"json/plain"}, data=json.dumps(said).encode()))
    failure.message, failure.stack_trace = "Encoded failure", ""

    again = load(export(histories))

    assert said["message"]
    assert list(project(again)) == plain
    assert "Encoded failure" not in export(again)


def test_a_failure_that_another_converter_encoded_stays() -> None:
    """Only what the SDK's own converter writes is read."""
    histories = load(stored("failed"))
    *_, last = histories[0].events
    own = Payload(metadata={"encoding": b"binary/own"}, data=b"own")
    last.workflow_execution_failed_event_attributes.failure.encoded_attributes.CopyFrom(own)

    again = load(export(histories))

    assert list(again[0].events) == list(histories[0].events)


async def test_an_encrypted_file_is_refused_with_the_way_to_a_readable_one() -> None:
    """Without its key there is nothing to replay; the error names the key and the commands that write plain text."""
    histories = load(stored("failed"))
    keyring = Keyring({"k1": new_key()})
    for payload in histories[0].events[0].workflow_execution_started_event_attributes.input.payloads:
        payload.CopyFrom(keyring.encrypt(payload))

    with pytest.raises(HistoryFileError, match="key 'k1'; write the file with 'perdure runs export'"):
        load(export(histories))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no history"),
        ("null", "no history"),
        ('{"events": 7}', "no history"),
        ('{"executions": []}', "empty list"),
        ('{"executions": [7]}', "execution 0 is no history"),
        ('{"events": []}', "does not begin with"),
        ('{"events": [7]}', "not readable"),
        ('{"events": [{"eventId": "one"}]}', "not readable"),
        ('{"events": [{"eventId": "1", "workflowTaskScheduledEventAttributes": {}}]}', "does not begin with"),
    ],
)
def test_what_is_no_history_is_refused(text: str, problem: str) -> None:
    """The error says what is wrong with the file, never a traceback of the parser."""
    with pytest.raises(HistoryFileError, match=problem):
        load(text)


def test_a_history_with_a_gap_is_refused() -> None:
    """Replaying it could only mislead."""
    gap = content("failed")
    del gap["events"][3]

    with pytest.raises(HistoryFileError, match="event 5 where event 4 should be"):
        load(json.dumps(gap))
