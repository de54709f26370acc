"""Encrypted runs: keys rotate under them, a missing key is named and loses nothing, signals by hand are heard."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from perdure import App
from perdure.codec import data_converter
from perdure.contracts import RunStatus
from perdure.encryption import KEY_ID, Keyring, new_key
from perdure.errors import ConfigurationError, DecryptionError
from perdure.events import RunEnded, RunReset, WorkerTrouble
from perdure.grant import GRANT_PREFIX, GRANT_WORKFLOW, Grant
from perdure.history import export, fetch_executions, load, project, read_events
from perdure.messages import Message
from perdure.search_attributes import MEMO_GRANT, ORG
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_activities.grants import find_grant
from perdure_activities.providers.provider import ProviderReply
from perdure_api.gateway import Gateway
from perdure_api.recovery_schemas import RetryRequest
from perdure_api.schemas import GrantFilter
from perdure_workers import Perdure
from perdure_workers.replay import replay
from perdure_workers.worker import build_worker
from perdure_workflows.agent_run import AgentRun
from tests.harness import InProcessModel, agent, answer, in_turns, pending, serving, start, wish

KEYS = {"old": new_key(), "new": new_key()}
SOON = timedelta(seconds=30)


def shop() -> App:
    """An app whose refunds need an approval."""
    app = App()

    @app.tool(effect="once", approval="ask")
    async def refund(order: str) -> str:
        """Pay back."""
        return f"refunded {order}"

    app.add(agent(tools=("refund",)))
    return app


def model() -> InProcessModel:
    """A model that refunds and says so."""
    return InProcessModel(in_turns(wish(("refund", {"order": "o1"})), answer("done")))


async def with_keys(env: WorkflowEnvironment, *ids: str) -> Client:
    """A client that encrypts with the last of these keys."""
    keyring = Keyring({key_id: KEYS[key_id] for key_id in ids}, current=ids[-1])
    return await env.connect_client(data_converter=data_converter(keyring=keyring))


async def keys_of(client: Client, run_id: str) -> set[str]:
    """Return the ids of the keys that a run's inputs and results are encrypted with."""
    events = (await client.get_workflow_handle(run_id).fetch_history()).events
    payloads = [
        payload
        for event in events
        for payload in (
            *event.workflow_execution_started_event_attributes.input.payloads,
            *event.activity_task_completed_event_attributes.result.payloads,
            *event.workflow_execution_completed_event_attributes.result.payloads,
        )
    ]
    assert payloads
    return {payload.metadata[KEY_ID].decode() for payload in payloads}


async def test_keys_rotate_under_a_run(env: WorkflowEnvironment) -> None:
    """What was written before and after is read together; without the old key, the error names it."""
    app = shop()
    before = await with_keys(env, "old")
    after = await with_keys(env, "old", "new")
    only_new = await with_keys(env, "new")

    async with serving(before, app, model()) as settings:
        handle = await start(before, app, settings, text="refund o1")
        [asked] = await pending(handle)
    async with serving(after, app, model(), task_queue=settings.task_queue):
        rotated = after.get_workflow_handle(handle.id)
        await rotated.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await rotated.result()

    assert await keys_of(after, handle.id) == {"old", "new"}
    [*_, last] = await read_events(after, handle.id)
    assert isinstance(last, RunEnded)
    assert (last.status, last.output) == (RunStatus.COMPLETED, "done")
    with pytest.raises(DecryptionError, match="'old', which is not among") as raised:
        await read_events(only_new, handle.id)
    assert raised.value.key_id == "old"


async def test_a_worker_without_the_key_holds_the_run_up_and_loses_nothing(env: WorkflowEnvironment) -> None:
    """The run's events name the key, and the run goes on as soon as a worker has it."""
    app = shop()
    ahead, behind = await with_keys(env, "old", "new"), await with_keys(env, "old")

    async with serving(behind, app, model()) as settings:
        handle = await start(ahead, app, settings)

        async def troubled() -> list[WorkerTrouble]:
            return [event for event in await read_events(ahead, handle.id) if isinstance(event, WorkerTrouble)]

        [trouble, *_] = await eventually(troubled, within=SOON, what="the failed workflow task")
    async with serving(ahead, app, model(), task_queue=settings.task_queue):
        [asked] = await pending(handle)
        await handle.signal("reject", {"approval_id": asked.approval_id, "decided_by": "ann"})
        result = await handle.result()

    assert "the key 'new', which is not among PERDURE_ENCRYPTION_KEYS (old)" in trouble.error
    assert result.output == "done"


async def test_signals_by_hand_are_heard(env: WorkflowEnvironment) -> None:
    """The `temporal` command sends plain payloads; an approval must work with nothing else at hand."""
    app = shop()
    encrypted, by_hand = await with_keys(env, "new"), await env.connect_client(data_converter=data_converter())

    async with serving(encrypted, app, model()) as settings:
        handle = await start(encrypted, app, settings)
        [asked] = await pending(handle)
        decision = {"approval_id": asked.approval_id, "decided_by": "ann"}
        await by_hand.get_workflow_handle(handle.id).signal("approve", decision)
        result = await handle.result()

    assert (result.status, result.totals.tool_calls) == (RunStatus.COMPLETED, 1)


async def test_an_exported_run_replays_without_a_key(env: WorkflowEnvironment) -> None:
    """The file is plain text, and today's code makes the same decisions from it."""
    app = shop()
    client = await with_keys(env, "new")

    async with serving(client, app, model()) as settings:
        handle = await start(client, app, settings, text="refund o1")
        [asked] = await pending(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await handle.result()
        events = await read_events(client, handle.id)
    histories = load(export(await fetch_executions(client, handle.id)))

    assert list(project(histories)) == events
    assert (await replay(histories)).deterministic


async def test_an_encrypted_run_is_retried(env: WorkflowEnvironment) -> None:
    """From its failed step, though neither its failure nor who had it retried can be read in Temporal."""
    app, client = shop(), await with_keys(env, "old")
    trouble = ["the model is gone, says secret-vendor"]

    def script(messages: list[Message]) -> ProviderReply:
        if trouble:
            raise ApplicationError(trouble.pop(), type="model_unknown", non_retryable=True)
        return answer("done")

    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        order = RetryRequest(by="secret-ann", reason="secret-reason")
        await Gateway(client, app, settings).recovery.retry(handle.id, order)
        result = await client.get_workflow_handle_for(AgentRun.run, handle.id).result()
        [told] = [event for event in await read_events(client, handle.id) if isinstance(event, RunReset)]
        stored = str((await client.get_workflow_handle(handle.id).fetch_history()).events)

    assert (result.status, result.output) == (RunStatus.COMPLETED, "done")
    assert (told.by, told.reason) == ("secret-ann", "secret-reason")
    assert "secret-" not in stored


async def test_a_grant_whose_key_is_gone_holds_no_longer(env: WorkflowEnvironment) -> None:
    """It lets nothing run unasked, and does not keep other grants from being listed."""
    before, after = await with_keys(env, "old"), await with_keys(env, "new")
    org, at = f"org-{uuid.uuid4().hex}", datetime.now(UTC)
    ids = {key: f"{GRANT_PREFIX}{uuid.uuid4().hex}" for key in ("old", "new")}
    for key, client in (("old", before), ("new", after)):
        grant = Grant(grant_id=ids[key], org=org, agent="a", tool="t", run_id="r", approval_id="p", at=at)
        await client.start_workflow(
            GRANT_WORKFLOW,
            grant,
            id=ids[key],
            task_queue="nobody",
            execution_timeout=timedelta(minutes=5),
            memo={MEMO_GRANT: grant},
            search_attributes=TypedSearchAttributes([SearchAttributePair(ORG, org)]),
        )

    found = {key: await find_grant(after, grant_id) for key, grant_id in ids.items()}
    await eventually(lambda: _both(before, org), what="both grants in visibility")
    listed = await Gateway(after, App(), Settings()).grants.list(GrantFilter(org=org))

    assert found["old"] is None
    assert found["new"] is not None
    assert [grant.grant_id for grant in listed] == [ids["new"]]


async def _both(client: Client, org: str) -> bool:
    return (await client.count_workflows(f"{ORG.name} = '{org}'")).count == 2


def given(keys: dict[str, SecretStr]) -> Settings:
    """Settings with these keys."""
    return Settings(encryption_keys=keys, encryption_key_id=None, task_queue="embedded-and-encrypted")


async def test_an_embedded_worker_encrypts_with_the_settings_keys(env: WorkflowEnvironment) -> None:
    """The plugin on a user's client is all there is to do."""
    app, settings = shop(), given({"only": new_key()})
    plugin = Perdure(app, settings=settings, providers={"in-process": model()})
    client = await env.connect_client(plugins=[plugin])

    async with Worker(client, task_queue=settings.task_queue):
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        result = await handle.result()

    assert result.output == "done"
    assert await keys_of(client, handle.id) == {"only"}


async def test_a_worker_whose_client_would_not_encrypt_is_refused(env: WorkflowEnvironment) -> None:
    """Keys in the settings and a client without them are a mistake, told before anything is written."""
    plugin = Perdure(shop(), settings=given({"only": new_key()}), providers={})

    with pytest.raises(ConfigurationError, match="PERDURE_ENCRYPTION_KEYS is set"):
        build_worker(await env.connect_client(data_converter=data_converter()), Settings(), plugin)
