"""Failed logins on their way into the audit: none is lost, and a flood does no harm."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from perdure.audit.contracts import AUDITOR_ID
from perdure.audit.login import LOGIN_FAILED, FailedLoginBatch, FailedLogins
from perdure.codec import data_converter
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_api import login_record
from perdure_api.login_record import MAX_KINDS, RecordedLoginFailures
from perdure_api.logins import LoginFailure
from perdure_workers.ports import LOOPBACK, free_port


def failure(*, credential: str = "k1", address: str = "10.0.0.1", org: str | None = None) -> LoginFailure:
    """Return a failed login."""
    return LoginFailure("unknown_key", credential, address, org)


@pytest.fixture
async def failures(client: Client, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RecordedLoginFailures]:
    """A recorder whose auditor is this test's own."""
    monkeypatch.setattr("perdure_api.login_record.AUDITOR_ID", f"{AUDITOR_ID}-{uuid.uuid4().hex}")
    recorder = RecordedLoginFailures(client, task_queue=Settings().task_queue)
    yield recorder
    await auditor(client).terminate()


def auditor(client: Client) -> WorkflowHandle[Any, Any]:
    """Return the auditor of this test."""
    return client.get_workflow_handle(vars(login_record)["AUDITOR_ID"])


async def signals(client: Client) -> list[FailedLoginBatch]:
    """Return what the auditor's history holds; nothing while there is no auditor."""
    try:
        history = await auditor(client).fetch_history()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return []
    found = [event.workflow_execution_signaled_event_attributes for event in history.events]
    return [
        FailedLoginBatch.model_validate_json(signal.input.payloads[0].data)
        for signal in found
        if signal.signal_name == LOGIN_FAILED
    ]


def total(batches: list[FailedLoginBatch]) -> int:
    """Return how many failures are told of."""
    return sum(failed.count for batch in batches for failed in batch.failures)


async def test_a_failure_is_in_temporal_before_the_caller_hears(
    client: Client, failures: RecordedLoginFailures
) -> None:
    """When the recorder returns, a history has the failure, with no worker running."""
    await failures.record(failure(org="acme"))

    [batch] = await signals(client)
    assert batch.failures == (FailedLogins(reason="unknown_key", credential="k1", address="10.0.0.1", org="acme"),)


async def test_a_flood_makes_few_signals_and_loses_nothing(client: Client, failures: RecordedLoginFailures) -> None:
    """A thousand failures at once are two signals, which tell those apart that differ and count those that do not."""
    many = [failure(address=f"10.0.0.{number % 3}", credential="k" * (1 + number % 2)) for number in range(1000)]

    await failures.record(failure())
    await asyncio.gather(*(failures.record(one) for one in many))

    batches = await signals(client)
    assert len(batches) == 2
    assert total(batches) == 1001
    assert len(batches[1].failures) == 6


async def test_failures_that_all_differ_do_not_make_a_signal_large(
    client: Client, failures: RecordedLoginFailures
) -> None:
    """Beyond a hundred kinds they are counted together, and still none is lost."""
    await asyncio.gather(*(failures.record(failure(address=f"address-{number}")) for number in range(300)))

    [batch] = await signals(client)
    assert len(batch.failures) == MAX_KINDS + 1
    assert total([batch]) == 300
    assert batch.failures[-1].reason == "more"


async def test_what_an_attacker_sends_is_cut_to_a_line(client: Client, failures: RecordedLoginFailures) -> None:
    """Names come from outside: long ones are cut, and control characters left out."""
    await failures.record(failure(credential="a\x1b[31m\nb" + "x" * 10_000))

    [batch] = await signals(client)
    [failed] = batch.failures
    assert failed.credential.startswith("a[31m bxxx")
    assert len(failed.credential) <= 255


async def test_without_temporal_the_caller_is_answered_all_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 401 goes out within seconds, and the log has what could not be recorded."""
    monkeypatch.setattr(login_record, "TIMEOUT", login_record.GATHER)
    away: Any = await Client.connect(f"{LOOPBACK}:{free_port()}", lazy=True, data_converter=data_converter())
    recorder = RecordedLoginFailures(away, task_queue="q")
    begin = time.monotonic()

    await recorder.record(failure())

    assert time.monotonic() - begin < 5
    assert "login_failures_not_recorded" in capsys.readouterr().out


async def test_a_caller_that_leaves_takes_no_failure_with_it(client: Client, failures: RecordedLoginFailures) -> None:
    """Closing the connection early is no way not to be recorded."""
    leaving = asyncio.create_task(failures.record(failure()))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait({leaving})

    async def told() -> int:
        return total(await signals(client))

    assert await eventually(told, what="the signal") == 1
