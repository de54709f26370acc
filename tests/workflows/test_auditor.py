"""The auditor against a real server: everything that happens is recorded, once, whatever happens to the auditor."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import (
    DeleteWorkflowExecutionRequest,
    ResetWorkflowExecutionRequest,
)
from temporalio.client import Client, WorkflowFailureError
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from perdure import App
from perdure.activities import call_digest
from perdure.agent import Limits
from perdure.audit.anchors import read_anchors
from perdure.audit.contracts import AUDITOR_ID, AUDITOR_WORKFLOW, Anchors, AuditorState
from perdure.audit.facts import keyed
from perdure.audit.folder import FolderStore
from perdure.audit.login import LOGIN_FAILED, FailedLoginBatch, FailedLogins
from perdure.audit.reading import AuditFilter, verify_chain
from perdure.audit.record import AuditRecord
from perdure.audit.store import AuditStore
from perdure.audit.verification import Fault
from perdure.codec import data_converter
from perdure.encryption import Keyring, new_key, seal
from perdure.policy import Policy
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_activities.audit import auditor as auditor_module
from perdure_activities.audit.auditor import Auditor
from perdure_workers.auditing import ensure_auditor
from perdure_workers.dev_server import find_temporal, server_arguments
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from tests.audit_stores import (
    assert_complete,
    bucket_place,
    facts_in_chains,
    facts_in_histories,
    folder_place,
    recorded,
)
from tests.harness import Handle, InProcessModel, agent, answer, in_turns, pending, start, wish

SOON = timedelta(seconds=30)


@asynccontextmanager
async def running_server(*suggestions: str) -> AsyncIterator[WorkflowEnvironment]:
    """Run a Temporal server of the test's own, as an auditor looks at all that there is."""
    settings = [part for suggestion in suggestions for part in ("--dynamic-config-value", suggestion)]
    async with await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(enabled=False),
        dev_server_existing_path=find_temporal(),
        dev_server_extra_args=[*server_arguments(time_skipping=True), *settings],
        dev_server_log_level="error",
        data_converter=data_converter(),
    ) as environment:
        yield environment


@pytest.fixture
async def server() -> AsyncIterator[WorkflowEnvironment]:
    """A Temporal server."""
    async with running_server() as environment:
        yield environment


@pytest.fixture
async def restless() -> AsyncIterator[Client]:
    """A client of a server that suggests to continue as new all the time."""
    often = ("limit.historyCount.suggestContinueAsNew=20", 'history.continueAsNewMinInterval="10ms"')
    async with running_server(*often) as environment:
        yield environment.client


@pytest.fixture
def temporal(server: WorkflowEnvironment) -> Client:
    """A client of that server."""
    return server.client


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Executions are looked at as soon as they are there, not only when they have settled."""
    monkeypatch.setattr(auditor_module, "SETTLING", timedelta(0))


@pytest.fixture(params=["folder", "bucket"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AuditStore:
    """A new store of either kind."""
    is_folder = request.param == "folder"
    place = folder_place(tmp_path) if is_folder else bucket_place(request.getfixturevalue("s3"))
    return place.store()


@pytest.fixture
async def folder(tmp_path: Path) -> FolderStore:
    """A new folder."""
    opened = folder_place(tmp_path).store()
    assert isinstance(opened, FolderStore)
    return opened


def shop() -> App:
    """An app whose agent may refund an order after an approval."""
    app = App()

    @app.tool(effect="once", approval="ask")
    async def refund(order: str, amount: int) -> str:
        """Pay back."""
        return f"refunded {amount} for {order}"

    @app.tool()
    async def look(order: str) -> str:
        """Look an order up."""
        return f"{order} is paid"

    app.add(agent(tools=("refund", "look")))
    return app


REFUND = wish(("refund", {"order": "A1", "amount": 5}))
LOOK = wish(("look", {"order": "A1"}))


@asynccontextmanager
async def working(
    client: Client, *, place: Mapping[str, Any] | None = None, queue: str = ""
) -> AsyncIterator[Settings]:
    """Run a worker whose model looks an order up, wants a refund, and answers."""
    settings = Settings(
        task_queue=queue or f"queue-{uuid.uuid4().hex[:8]}",
        shutdown_grace_seconds=0,
        audit_interval_seconds=0.1,
        **(place or {}),
    )
    model = InProcessModel(in_turns(LOOK, REFUND, answer("done")))
    async with build_worker(client, settings, Perdure(shop(), settings=settings, providers={"in-process": model})):
        yield settings


async def auditor_of(client: Client, store: AuditStore, *, anchors: Anchors | None = None) -> Auditor:
    """Return an auditor that has begun."""
    auditor = Auditor(
        client,
        store,
        await store.prepare(),
        anchors=anchors or Anchors(),
        digest=keyed(None),
        execution=f"auditor-{uuid.uuid4().hex[:8]}",
    )
    await auditor.begin()
    return auditor


async def sweep(auditor: Auditor, *, times: int = 2) -> None:
    """Have it look at everything; what it finds open has its turn in the next sweep."""
    for _ in range(times):
        vars(auditor)["_far_due"] = 0.0
        for followed in vars(auditor)["_open"].values():
            followed.due = 0.0
        async for _ in auditor.sweep():
            pass


def cursors_of(auditor: Auditor) -> str:
    """Return the name of the file that keeps how far an auditor is."""
    return str(vars(auditor)["_file"])


async def visible(client: Client, query: str, *, count: int = 1) -> None:
    """Wait until visibility tells of so many executions."""

    async def listed() -> bool:
        return (await client.count_workflows(query)).count >= count

    await eventually(listed, within=SOON, what=f"{count} of {query}")


async def approved(handle: Handle, *, by: str = "carl") -> None:
    """Approve what the run asks, and wait for its end."""
    [asked] = await pending(handle)
    await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": by, "reason": "fine"})
    await handle.result()


def kinds(records: list[AuditRecord]) -> list[str]:
    """Return what records tell of, in order."""
    return [record.kind for record in records]


async def test_a_runs_deeds_are_recorded_in_order(temporal: Client, store: AuditStore) -> None:
    """From its start to its end: who, what, on which arguments, and what came of it, in its organisation's chain."""
    async with working(temporal) as settings:
        handle = await start(temporal, shop(), settings, org="acme", user="ann", requested_by="bob")
        await approved(handle)
    await visible(temporal, "ExecutionStatus = 'Completed'")

    await sweep(await auditor_of(temporal, store))

    records = await recorded(store, "acme")
    assert kinds(records) == [
        "run.started",
        "tool.called",
        "tool.finished",
        "approval.asked",
        "signal.received",
        "tool.called",
        "approval.approved",
        "tool.finished",
        "run.ended",
    ]
    assert [(record.who, record.user) for record in records if record.who][::2] == [("bob", "ann"), ("carl", "ann")]
    assert records[3].arguments_digest == records[5].arguments_digest == records[7].arguments_digest != ""
    await assert_complete(temporal, store)


async def test_a_policys_decisions_and_every_vote_are_recorded(temporal: Client, folder: FolderStore) -> None:
    """Which rule asked, who voted, and which rule denied, with the digest of what it was about."""
    policy = Policy.model_validate(
        {
            "rules": [
                {"name": "two leads", "tool": "refund", "permission": "ask", "approval": {"quorum": 2}},
                {"name": "no looking", "tool": "look", "permission": "deny"},
            ]
        }
    )
    async with working(temporal) as settings:
        handle = await start(temporal, shop(), settings, org="acme", policy=policy)
        [asked] = await pending(handle)
        for who in ("carl", "dora"):
            await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": who})
        await handle.result()
    await visible(temporal, "ExecutionStatus = 'Completed'")

    await sweep(await auditor_of(temporal, folder))

    records = await recorded(folder, "acme")
    decisions = [record for record in records if record.kind == "policy.decided"]
    assert [(one.outcome, one.rule) for one in decisions] == [("deny", "no looking"), ("ask", "two leads")]
    assert [one.arguments_digest for one in decisions] == [call_digest("look", {"order": "A1"}), asked.digest]
    votes = [(one.kind, one.who) for one in records if one.kind.startswith("approval.") and one.who]
    assert votes == [("approval.voted", "carl"), ("approval.approved", "dora")]
    await assert_complete(temporal, folder)


async def test_nothing_is_added_to_a_runs_history(temporal: Client, folder: FolderStore) -> None:
    """A run under audit has the same events as one without."""

    async def events_of(place: Mapping[str, Any] | None) -> list[str | None]:
        async with working(temporal, place=place) as settings:
            handle = await start(temporal, shop(), settings)
            await approved(handle)
            if place:
                await eventually(lambda: recorded(folder), within=SOON, what="records")
            return [event.WhichOneof("attributes") for event in (await handle.fetch_history()).events]

    assert await events_of({"audit_url": folder.url}) == await events_of(None)


async def test_open_runs_are_recorded_as_they_go(temporal: Client, folder: FolderStore) -> None:
    """What has happened in a run that waits for a human is recorded while it waits, and nothing of it again later."""
    auditor = await auditor_of(temporal, folder)
    async with working(temporal) as settings:
        handle = await start(temporal, shop(), settings, org="acme")
        await pending(handle)
        await sweep(auditor)
        waiting = kinds(await recorded(folder, "acme"))
        await sweep(auditor)
        unchanged = kinds(await recorded(folder, "acme"))
        await approved(handle)
        await visible(temporal, "ExecutionStatus = 'Completed'")
        await sweep(auditor)

    assert waiting == unchanged == ["run.started", "tool.called", "tool.finished", "approval.asked"]
    assert kinds(await recorded(folder, "acme"))[4:] == [
        "signal.received",
        "tool.called",
        "approval.approved",
        "tool.finished",
        "run.ended",
    ]
    await assert_complete(temporal, folder)


async def test_a_run_that_waits_for_days_is_recorded_to_its_end(
    server: WorkflowEnvironment, folder: FolderStore
) -> None:
    """An approval that nobody gave for three days is told as expired, by a run's clock far ahead of the auditor's."""
    temporal = server.client
    auditor = await auditor_of(temporal, folder)
    async with working(temporal) as settings:
        limits = Limits(run_timeout=timedelta(days=7), approval_timeout=timedelta(days=3))
        handle = await start(temporal, shop(), settings, org="acme", limits=limits)
        await pending(handle)
        await sweep(auditor)
        await server.fast_forward(handle, timedelta(days=4))
        await handle.result()
        ahead = await start(temporal, shop(), settings, org="acme")  # what ends later by the server's own clock
        await approved(ahead)
        await visible(temporal, "ExecutionStatus = 'Completed'", count=2)
        await sweep(auditor)

    records = await recorded(folder, "acme")
    asked = next(record for record in records if record.kind == "approval.asked")
    expired = next(record for record in records if record.kind == "approval.expired")
    assert expired.at - asked.at >= timedelta(days=3)
    await assert_complete(temporal, folder)


async def test_a_terminated_run_is_recorded_with_who_did_it(temporal: Client, folder: FolderStore) -> None:
    """A run that could not speak any more has an end in the audit, with who, why, and what it had asked."""
    async with working(temporal) as settings:
        handle = await start(temporal, shop(), settings, org="acme")
        await pending(handle)
        await handle.terminate(reason="enough")
        with pytest.raises(WorkflowFailureError):
            await handle.result()
    await visible(temporal, "ExecutionStatus = 'Terminated'")

    await sweep(await auditor_of(temporal, folder))

    last = (await recorded(folder, "acme"))[-1]
    assert (last.kind, last.outcome, last.reason) == ("run.ended", "terminated", "enough")
    assert last.who == temporal.identity
    await assert_complete(temporal, folder)


async def test_a_reset_run_is_recorded_in_both_executions_and_nothing_twice(
    temporal: Client, folder: FolderStore
) -> None:
    """The old execution's own deeds stand once, the new one's begin with the reset."""
    auditor = await auditor_of(temporal, folder)
    async with working(temporal) as settings:
        handle = await start(temporal, shop(), settings, org="acme")
        await approved(handle)
        await sweep(auditor)
        events = (await handle.fetch_history()).events
        turn = [one.event_id for one in events if one.HasField("workflow_task_completed_event_attributes")][2]
        reset = await temporal.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=temporal.namespace,
                workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.result_run_id or ""),
                reason="once more",
                workflow_task_finish_event_id=turn,
                request_id=uuid.uuid4().hex,
            )
        )
        again = temporal.get_workflow_handle(handle.id, run_id=reset.run_id)
        await eventually(lambda: ended(again), within=SOON, what="the end of the new execution")
        await visible(temporal, "ExecutionStatus = 'Completed'", count=2)
        await sweep(auditor)

    records = await recorded(folder, "acme")
    by_execution = [kinds([one for one in records if one.execution_id == run]) for run in (reset.run_id,)]
    assert kinds(records).count("run.started") == 1
    assert by_execution[0][0] == "run.reset"
    assert kinds(records).count("run.ended") == 2
    await assert_complete(temporal, folder)


async def ended(handle: Any) -> bool:
    """Say whether an execution is over, approving what it asks."""
    description = await handle.describe()
    if description.close_time is None:
        memo = await description.memo_value("approvals", {})
        for asked in memo.get("pending", ()):
            await handle.signal("approve", {"approval_id": asked["approval_id"], "decided_by": "carl"})
    return description.close_time is not None


async def test_a_run_of_several_executions_is_one_story(restless: Client, folder: FolderStore) -> None:
    """Continue-as-new starts nothing anew in the audit: one start, one end, all calls."""
    looks = 10
    model = InProcessModel(in_turns(*[LOOK] * looks, answer("done")))
    settings = Settings(task_queue="long", shutdown_grace_seconds=0)
    async with build_worker(restless, settings, Perdure(shop(), settings=settings, providers={"in-process": model})):
        handle = await start(restless, shop(), settings, org="acme")
        await handle.result()
    await visible(restless, "ExecutionStatus = 'ContinuedAsNew'", count=3)
    await visible(restless, "ExecutionStatus = 'Completed'")

    await sweep(await auditor_of(restless, folder))

    found = kinds(await recorded(folder, "acme"))
    assert (found.count("run.started"), found.count("run.ended")) == (1, 1)
    assert found.count("tool.called") == found.count("tool.finished") == looks
    await assert_complete(restless, folder)


async def test_keys_and_grants_are_recorded(temporal: Client, folder: FolderStore) -> None:
    """Workflows that stand for a record are audited while no worker runs: made, and revoked or expired."""
    key = {"key_id": "k1", "org": "acme", "created_by": "carl", "digest": "0123"}
    await temporal.start_workflow("ApiKey", key, id="perdure-key:k1", task_queue="nobody")
    grant = {"grant_id": "g1", "org": "acme", "granted_by": ["carl"], "tool": "refund"}
    await temporal.start_workflow("Grant", grant, id="g1", task_queue="nobody", execution_timeout=timedelta(seconds=1))
    auditor = await auditor_of(temporal, folder)
    await visible(temporal, "ExecutionStatus = 'Running'", count=2)
    await sweep(auditor)
    await temporal.get_workflow_handle("perdure-key:k1").terminate(reason="revoked by dora: it leaked")
    await visible(temporal, "ExecutionStatus IN ('Terminated', 'TimedOut')", count=2)
    await sweep(auditor)

    records = await recorded(folder, "acme")
    told = [(record.kind, record.who) for record in records]
    assert sorted(told[:2]) == [("grant.created", "carl"), ("key.created", "carl")]
    assert sorted(told[2:]) == [("grant.expired", ""), ("key.revoked", "dora")]
    await assert_complete(temporal, folder)


async def test_a_deleted_history_is_told(temporal: Client, folder: FolderStore) -> None:
    """Whoever deletes a run under the auditor's eyes leaves a record of that."""
    auditor = await auditor_of(temporal, folder)
    async with working(temporal) as settings:
        handle = await start(temporal, shop(), settings, org="acme")
        await pending(handle)
        await sweep(auditor)
        await temporal.workflow_service.delete_workflow_execution(
            DeleteWorkflowExecutionRequest(
                namespace=temporal.namespace, workflow_execution=WorkflowExecution(workflow_id=handle.id)
            )
        )
        await eventually(lambda: gone(temporal, handle.id), within=SOON, what="the deletion")
        await sweep(auditor)

    assert kinds(await recorded(folder, "acme"))[-1] == "audit.history_deleted"


async def gone(client: Client, run_id: str) -> bool:
    """Say whether visibility no longer has a workflow."""
    return (await client.count_workflows(f"WorkflowId = '{run_id}'")).count == 0


@pytest.mark.parametrize("kept", ["everything", "no cursors", "damaged cursors", "old cursors"])
async def test_a_new_auditor_goes_on_where_the_last_one_was(temporal: Client, store: AuditStore, kept: str) -> None:
    """With the cursors, with those of an hour ago, or with none: nothing is recorded twice, and nothing left out."""
    first = await auditor_of(temporal, store)
    async with working(temporal) as settings:
        waiting = await start(temporal, shop(), settings, org="acme")
        await pending(waiting)
        await sweep(first)
        await first.save()
        old = await store.load(cursors_of(first))
        ending = await start(temporal, shop(), settings, org="other")
        await approved(ending)
        await visible(temporal, "ExecutionStatus = 'Completed'")
        await sweep(first)
        await first.save()
        cursors = {"no cursors": b"", "damaged cursors": b'{"store": 1', "old cursors": old}.get(kept)
        if cursors is not None:
            await store.save(cursors_of(first), cursors)
        await approved(waiting)
        await visible(temporal, "ExecutionStatus = 'Completed'", count=2)
        await sweep(await auditor_of(temporal, store))

    await assert_complete(temporal, store)


async def test_two_auditors_at_once_write_one_chain(temporal: Client, store: AuditStore) -> None:
    """One that was thought dead and its successor work side by side: each fact stands once."""
    one, two = await auditor_of(temporal, store), await auditor_of(temporal, store)
    async with working(temporal) as settings:
        handles = [await start(temporal, shop(), settings, org=f"org-{number % 2}") for number in range(8)]
        for round_ in range(4):
            for handle in handles[2 * round_ : 2 * round_ + 2]:
                await approved(handle)
            await asyncio.gather(sweep(one, times=1), sweep(two, times=1))
        await visible(temporal, "ExecutionStatus = 'Completed'", count=8)
        await asyncio.gather(sweep(one), sweep(two))

    await assert_complete(temporal, store)


async def test_two_namespaces_in_one_store_do_not_hide_each_other(
    temporal: Client, folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two servers that share a store by mistake, what one has seen is not taken for what the other has."""
    monkeypatch.setattr(auditor_module, "FAR", timedelta(0))
    monkeypatch.setattr(auditor_module, "NEAR", timedelta(0))
    async with running_server() as other:
        clients = (other.client, temporal)
        for client in clients:
            async with working(client) as settings:
                await approved(await start(client, shop(), settings, org="acme"))
            await visible(client, "ExecutionStatus = 'Completed'")
        for client in reversed(clients):  # what ended first is looked at last
            auditor = await auditor_of(client, folder)
            await sweep(auditor)
            await auditor.save()
        facts = await facts_in_histories(temporal) | await facts_in_histories(other.client)

    assert sorted(await facts_in_chains(folder)) == sorted(facts.items())


async def test_what_was_cut_off_is_not_written_over(temporal: Client, folder: FolderStore) -> None:
    """An auditor that knows of more records than the store has goes on behind them: the gap stays to be seen."""
    auditor = await auditor_of(temporal, folder)
    async with working(temporal) as settings:
        await approved(await start(temporal, shop(), settings, org="acme"))
        await visible(temporal, "ExecutionStatus = 'Completed'")
        await sweep(auditor)
        cut_off(folder, keep=4)
        await approved(await start(temporal, shop(), settings, org="acme"))
        await visible(temporal, "ExecutionStatus = 'Completed'", count=2)
        await sweep(auditor)

    report = await verify_chain(folder, "acme")
    assert [(one.fault, one.seq, one.last) for one in report.problems] == [(Fault.REMOVED, 5, 9)]
    assert report.records == 18


async def test_a_chain_cut_off_while_no_auditor_ran_is_found_by_the_anchors(
    temporal: Client, folder: FolderStore
) -> None:
    """With chain, head and cursors all cut back, what Temporal has noted is enough to go on behind the gap."""
    auditor = await auditor_of(temporal, folder)
    async with working(temporal) as settings:
        await approved(await start(temporal, shop(), settings, org="acme"))
        await visible(temporal, "ExecutionStatus = 'Completed'")
        await sweep(auditor)
        anchors = auditor.stretch.anchors
        cut_off(folder, keep=4)
        await folder.save("chains/acme/head.json", b"")
        await folder.save(cursors_of(auditor), b"")
        await sweep(await auditor_of(temporal, folder, anchors=anchors))

    report = await verify_chain(folder, "acme", anchor=anchors.heads["acme"])
    assert [(one.fault, one.seq, one.last) for one in report.problems] == [(Fault.REMOVED, 5, 9)]
    facts = await facts_in_histories(temporal)
    assert {record.source for record in await recorded(folder, "acme")} == set(facts)  # the lost facts are there again


async def test_a_chain_written_anew_is_told_in_it(temporal: Client, folder: FolderStore) -> None:
    """A chain whose noted end has another hash now gets a record of that, for as long as it exists."""
    auditor = await auditor_of(temporal, folder)
    async with working(temporal) as settings:
        await approved(await start(temporal, shop(), settings, org="acme"))
        await visible(temporal, "ExecutionStatus = 'Completed'")
        await sweep(auditor)
    anchors = auditor.stretch.anchors
    moved = anchors.heads["acme"].model_copy(update={"hash": "f" * 64})

    later = await auditor_of(temporal, folder, anchors=anchors.model_copy(update={"heads": {"acme": moved}}))
    await sweep(later)

    last = (await recorded(folder, "acme"))[-1]
    assert last.kind == "audit.rewritten"
    assert "f" * 64 in last.reason
    again = await auditor_of(temporal, folder, anchors=later.stretch.anchors)
    await sweep(again)
    assert kinds(await recorded(folder, "acme")).count("audit.rewritten") == 1


def cut_off(folder: FolderStore, *, keep: int) -> None:
    """Leave only the first records of the chain `acme`, and no head."""
    [segment] = vars(folder)["_folder"].glob("chains/acme/*.jsonl")
    segment.write_bytes(b"".join(segment.read_bytes().splitlines(keepends=True)[:keep]))


async def test_an_unreadable_history_holds_up_no_other(
    temporal: Client, folder: FolderStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A history whose payloads cannot be decoded waits for its next turn; everything else is recorded."""
    async with working(temporal) as settings:
        bad = await start(temporal, shop(), settings, org="acme", run_id="bad")
        await approved(bad)
        await approved(await start(temporal, shop(), settings, org="acme", run_id="good"))
    await visible(temporal, "ExecutionStatus = 'Completed'", count=2)
    auditor = await auditor_of(temporal, folder)
    executions = vars(auditor)["_executions"]
    read = executions.read

    async def failing(followed: Any, **arguments: Any) -> Any:
        if followed.row.run_id == "bad":
            raise ValueError("no key for this payload")
        async for entry in read(followed, **arguments):
            yield entry

    monkeypatch.setattr(executions, "read", failing)
    await sweep(auditor)
    only_good = {record.run_id for record in await recorded(folder, "acme")}
    monkeypatch.undo()
    for followed in vars(auditor)["_closed"].values():
        followed.due = 0.0
    behind = auditor.stretch
    await sweep(auditor)

    assert only_good == {"good"}
    assert behind.waiting == 1
    assert behind.behind_seconds > 0
    await assert_complete(temporal, folder)


async def test_encrypted_histories_are_recorded_with_the_key_alone(
    server: WorkflowEnvironment, folder: FolderStore
) -> None:
    """An auditor without the key records nothing rather than something wrong; one with the key has all of it."""
    temporal = await server.connect_client(data_converter=data_converter(keyring=Keyring({"k1": new_key()})))
    grant = {"grant_id": "g1", "org": "acme", "granted_by": ["carl"], "tool": "refund"}
    handle = await temporal.start_workflow("Grant", grant, id="g1", task_queue="nobody")
    await handle.terminate(reason=await seal("revoked by dora: enough", temporal.data_converter))
    await visible(temporal, "ExecutionStatus = 'Terminated'")

    blind = await auditor_of(server.client, folder)
    await sweep(blind)
    nothing = await folder.chains()
    await sweep(await auditor_of(temporal, folder))

    assert nothing == []
    assert blind.stretch.waiting == 1
    records = await recorded(folder, "acme")
    assert [(record.kind, record.who) for record in records] == [("grant.created", "carl"), ("grant.revoked", "dora")]


async def test_personal_data_leaves_reasons_and_resources_if_that_is_asked_for(
    temporal: Client, folder: FolderStore
) -> None:
    """What the redactor of the settings finds is masked before it is hashed; who did it stays."""

    class Masking:
        def redact(self, text: str) -> str:
            return text.replace("ann@example.com", "[email]")

    grant = {"grant_id": "g1", "org": "acme", "granted_by": ["carl"], "resource": "mailbox:ann@example.com"}
    handle = await temporal.start_workflow("Grant", grant, id="g1", task_queue="nobody")
    await handle.terminate(reason="revoked by dora: ann@example.com asked for it")
    await visible(temporal, "ExecutionStatus = 'Terminated'")
    auditor = await auditor_of(temporal, folder)
    vars(auditor)["_redactor"] = Masking()

    await sweep(auditor)

    _, revoked = await recorded(folder, "acme")
    assert (revoked.who, revoked.reason, revoked.resource) == ("dora", "[email] asked for it", "mailbox:[email]")


async def test_the_workers_keep_an_auditor(temporal: Client, store: AuditStore, tmp_path: Path, s3: str) -> None:
    """With the setting, a worker's start is all it takes: runs are recorded, and the chains' ends are anchored."""
    place = {"audit_url": store.url}
    if not isinstance(store, FolderStore):
        place = bucket_place(s3, store.url.split("/")[2]).settings
    async with working(temporal, place=place) as settings:
        handle = await start(temporal, shop(), settings, org="acme")
        await approved(handle)

        async def ended_in_audit() -> bool:
            return kinds(await recorded(store, "acme"))[-1:] == ["run.ended"]

        await eventually(ended_in_audit, within=SOON, what="the run's end in the audit")

        async def anchored() -> bool:
            anchors = await read_anchors(temporal)
            head = await store.head("acme")
            anchor = anchors.heads.get("acme")
            return bool(anchor and head and (anchor.seq, anchor.hash) == (head.seq, head.hash))

        await eventually(anchored, within=SOON, what="the anchor")


async def test_the_anchors_outlive_the_worker(temporal: Client, folder: FolderStore) -> None:
    """A worker that stops hands its turn back; the next one begins with what was recorded, and repeats nothing."""
    place = {"audit_url": folder.url}
    for round_ in (1, 2):
        async with working(temporal, place=place, queue="same") as settings:
            await approved(await start(temporal, shop(), settings, org="acme"))

            async def recorded_to(count: int = 9 * round_) -> bool:
                return len(await recorded(folder, "acme")) >= count

            await eventually(recorded_to, within=SOON, what="the records")
    anchors = await read_anchors(temporal)

    assert anchors.heads["acme"].seq == 18
    assert (await verify_chain(folder, "acme", anchor=None)).sound


async def test_failed_logins_are_recorded_and_the_auditor_stays_small(restless: Client, folder: FolderStore) -> None:
    """Failures signalled before, while and after the auditor continues as new are all recorded, each once."""
    batch = FailedLoginBatch(failures=(FailedLogins(reason="unknown_key", address="10.0.0.1", count=2),))

    async def fail() -> None:
        await restless.start_workflow(
            AUDITOR_WORKFLOW,
            AuditorState(),
            id=AUDITOR_ID,
            task_queue="same",
            start_signal=LOGIN_FAILED,
            start_signal_args=[batch],
        )

    for _ in range(3):
        await fail()
    async with working(restless, place={"audit_url": folder.url}, queue="same"):
        for _ in range(27):
            await fail()

        async def all_recorded() -> bool:
            return len(await recorded(folder, wanted=AuditFilter(kind="login.failed"))) == 30

        await eventually(all_recorded, within=SOON, what="the failures")
        executions = (await restless.count_workflows(f"WorkflowId = '{AUDITOR_ID}'")).count

    failures = await recorded(folder, wanted=AuditFilter(kind="login"))
    assert executions > 1
    assert {record.details["count"] for record in failures} == {2}
    assert len({record.source for record in failures}) == 30


async def test_a_worker_takes_over_from_a_task_queue_that_nobody_polls(temporal: Client, folder: FolderStore) -> None:
    """After the task queue was renamed the auditor goes on where there are workers, with the anchors that it had."""
    await temporal.start_workflow(AUDITOR_WORKFLOW, AuditorState(), id=AUDITOR_ID, task_queue="renamed")
    async with working(temporal, place={"audit_url": folder.url}, queue="new"):
        await eventually(lambda: recorded(folder), within=SOON, what="records")
        description = await temporal.get_workflow_handle(AUDITOR_ID).describe()

    assert description.task_queue == "new"
    assert ("auditor.revoked", "no worker polls its task queue 'renamed'; 'new' takes over") in [
        (record.kind, record.reason) for record in await recorded(folder)
    ]


async def test_a_worker_that_is_there_is_not_taken_over_from(temporal: Client, folder: FolderStore) -> None:
    """Two apps with a task queue each share one auditor."""
    place = {"audit_url": folder.url}
    async with working(temporal, place=place, queue="one"):
        before = await eventually(lambda: running_auditor(temporal), within=SOON, what="the auditor")
        async with working(temporal, place=place, queue="two"):
            await ensure_auditor(temporal, task_queue="two")
            after = await running_auditor(temporal)

    assert before == after != ""


async def running_auditor(client: Client) -> str:
    """Return the execution of the auditor that runs."""
    async for execution in client.list_workflows(f"WorkflowId = '{AUDITOR_ID}' AND ExecutionStatus = 'Running'"):
        return execution.run_id
    return ""


async def test_without_the_setting_nothing_is_started(temporal: Client) -> None:
    """No audit is configured: no auditor, and runs go on as ever."""
    async with working(temporal) as settings:
        await approved(await start(temporal, shop(), settings))
        await visible(temporal, "ExecutionStatus = 'Completed'")

    assert await running_auditor(temporal) == ""
