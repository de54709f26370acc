"""API keys in Temporal: made without a worker, found, listed, expired, revoked; and what of them is stored."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer

from perdure.api_key import KeyText, workflow_id
from perdure.codec import data_converter
from perdure.connection import connect
from perdure.encryption import Keyring, new_key
from perdure.errors import ApiKeyNotFoundError, ConflictError, DecryptionError, PerdureError, ServerUnreachableError
from perdure.principal import Scope
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_api.keys import DEFAULT_SCOPES, ApiKeys, KeyFilter, ListedKey, NewKey, Revocation
from perdure_workers.dev_server import find_temporal
from perdure_workers.plugin import Perdure
from tests.api.conftest import Api, shop
from tests.harness import answer, in_turns

REVOCATION = Revocation(by="ann", reason="lost")


@pytest.fixture
def keys(client: Client) -> ApiKeys:
    """The keys of a namespace whose task queue nobody polls."""
    return ApiKeys(client, task_queue=f"queue-{uuid.uuid4().hex[:12]}")


def wanted(**changes: Any) -> NewKey:
    """Ask for a key of an organisation that no other test has."""
    return NewKey.model_validate({"name": "shop", "org": f"acme-{uuid.uuid4().hex[:8]}", **changes})


async def listed(keys: ApiKeys, org: str | None, state: str) -> ListedKey:
    """Wait until the organisation's only key is listed in a state."""

    async def found() -> list[ListedKey]:
        return [key for key in await keys.list(KeyFilter(org=org)) if key.state == state]

    [key] = await eventually(found, what=f"a key that is {state}")
    return key


async def test_a_key_works_before_there_is_a_worker(keys: ApiKeys) -> None:
    """It is found as soon as it is made, with all that was said of it, and is nobody else's."""
    new = wanted(user="ann", roles=["support", "support"], scopes=["runs:read"], expires="90d")

    key, record = await keys.create(new, by="ops")
    found = await keys.find(key.key_id)

    assert found is not None
    assert (found.record, found.state) == (record, "active")
    assert (record.name, record.user, record.org, record.created_by) == ("shop", "ann", new.org, "ops")
    assert (record.roles, record.scopes) == (("support",), (Scope.RUNS_READ,))
    assert record.expires_at == record.created_at + timedelta(days=90)
    assert key.opens(record)
    assert record.principal.credential == key.key_id


async def test_what_is_not_said_is_little(keys: ApiKeys) -> None:
    """By default a key acts under its own name, without roles, and decides on nothing."""
    _, record = await keys.create(wanted(name="shop"), by="ops")

    assert (record.user, record.roles, record.scopes, record.expires_at) == ("shop", (), DEFAULT_SCOPES, None)
    assert Scope.APPROVALS_DECIDE not in record.scopes


async def test_the_secret_is_stored_nowhere(keys: ApiKeys, client: Client) -> None:
    """Neither the history nor the description of the key's workflow has it."""
    key, _ = await keys.create(wanted(), by="ops")
    handle = client.get_workflow_handle(workflow_id(key.key_id))

    stored = f"{await handle.fetch_history()} {(await handle.describe()).raw_description}"

    assert key.digest in stored
    assert key.secret not in stored


async def test_a_worker_takes_the_key_and_changes_nothing(api: Api) -> None:
    """Its one task ends without a command; the key goes on until it is revoked, under a worker too."""
    keys = ApiKeys(api.temporal, task_queue=api.settings.task_queue)
    async with api.worker(in_turns(answer("done"))):
        key, _ = await keys.create(wanted(), by="ops")
        handle = api.temporal.get_workflow_handle(workflow_id(key.key_id))

        async def events() -> int:
            found = (await handle.describe()).history_length
            return found if found > 3 else 0

        length = await eventually(events, what="the worker's answer")
        before = await keys.find(key.key_id)
        await keys.revoke(key.key_id, REVOCATION)
        after = await keys.find(key.key_id)
    replayed = await Replayer(workflows=[], plugins=[Perdure(shop())]).replay_workflow(await handle.fetch_history())

    assert replayed.replay_failure is None
    assert length == 4  # started, task scheduled, started, completed
    assert before is not None
    assert after is not None
    assert (before.state, after.state) == ("active", "revoked")


async def test_a_revoked_key_is_listed_with_who_and_why(keys: ApiKeys) -> None:
    """As long as Temporal keeps its workflow."""
    new = wanted()
    key, _ = await keys.create(new, by="ops")
    await listed(keys, new.org, "active")

    await keys.revoke(key.key_id, REVOCATION)
    revoked = await listed(keys, new.org, "revoked")

    assert (revoked.key_id, revoked.ended_because) == (key.key_id, "by ann: lost")
    assert revoked.ended_at is not None


async def test_a_key_is_revoked_once(keys: ApiKeys) -> None:
    """A second time is a conflict, and what is no key cannot be revoked."""
    key, _ = await keys.create(wanted(), by="ops")
    await keys.revoke(key.key_id, REVOCATION)

    with pytest.raises(ConflictError, match="already revoked"):
        await keys.revoke(key.key_id, REVOCATION)
    with pytest.raises(ApiKeyNotFoundError, match="keys list"):
        await keys.revoke("0" * 16, REVOCATION)


async def test_a_key_expires_without_a_worker(keys: ApiKeys, client: Client) -> None:
    """Temporal ends it, and no revocation is needed any more."""
    key, _ = await keys.create(wanted(expires="1s"), by="ops")
    handle = client.get_workflow_handle(workflow_id(key.key_id))

    async def expired() -> bool:
        return (await handle.describe()).status == WorkflowExecutionStatus.TIMED_OUT

    await eventually(expired, what="the key's end")
    found = await keys.find(key.key_id)
    assert found is not None
    assert found.state == "expired"
    with pytest.raises(ConflictError, match="already expired"):
        await keys.revoke(key.key_id, REVOCATION)


async def test_a_key_has_expired_when_its_time_is_over_whatever_temporal_says(keys: ApiKeys) -> None:
    """A late timer of the server gives nobody more time."""
    key, _ = await keys.create(wanted(expires="0.3s"), by="ops")

    async def state() -> bool:
        found = await keys.find(key.key_id)
        return found is not None and found.state == "expired"

    await eventually(state, what="the key's end")


async def test_an_organisation_lists_its_own_keys(keys: ApiKeys) -> None:
    """Without a filter all are listed, an operator's too, the newest first."""
    ours, theirs = wanted(), wanted()
    first, _ = await keys.create(ours, by="ops")
    second, _ = await keys.create(theirs, by="ops")
    third, _ = await keys.create(wanted(org=None), by="ops")
    made = [third.key_id, second.key_id, first.key_id]

    async def everything() -> list[str]:
        found = [key.key_id for key in await keys.list(KeyFilter()) if key.key_id in made]
        return found if len(found) == len(made) else []

    assert await eventually(everything, what="all keys") == made
    assert [key.key_id for key in await keys.list(KeyFilter(org=ours.org))] == [first.key_id]


async def test_a_workflow_that_is_no_key_opens_nothing(keys: ApiKeys, client: Client) -> None:
    """Neither another workflow under a key's id, nor one with another key's record."""
    key, record = KeyText.new(), (await keys.create(wanted(), by="ops"))[1]
    other, damaged = KeyText.new(), KeyText.new()
    for text, workflow, memo in [(key, "Other", {"api_key": record}), (other, "ApiKey", {"api_key": record})]:
        await client.start_workflow(workflow, id=workflow_id(text.key_id), task_queue="nobody", memo=memo)
    await client.start_workflow(
        "ApiKey", id=workflow_id(damaged.key_id), task_queue="nobody", memo={"api_key": {"name": "?"}}
    )

    found = [await keys.find(text.key_id) for text in (key, other, damaged, KeyText.new())]

    assert found == [None, None, None, None]


async def test_without_temporal_nobody_knows_the_keys() -> None:
    """That is no "there is no such key", nor is a namespace that is not there."""
    away = ApiKeys(await connect(Settings(), address="127.0.0.1:1", lazy=True), task_queue="any")

    with pytest.raises(ServerUnreachableError):
        await away.find("0" * 16)


async def test_a_namespace_that_is_not_there_says_nothing_of_keys(client: Client) -> None:
    """The mistake is the operator's, not the caller's."""
    elsewhere = Client(client.service_client, namespace="nowhere", data_converter=client.data_converter)

    with pytest.raises(PerdureError, match="nowhere"):
        await ApiKeys(elsewhere, task_queue="any").find("0" * 16)


async def test_an_encrypted_installation_keeps_its_keys_encrypted(env: WorkflowEnvironment) -> None:
    """Neither whose they are nor why they were revoked is in plain text; one whose key is gone hides no other."""
    both = {"k1": new_key(), "k2": new_key()}
    before = ApiKeys(await _encrypting(env, both, current="k2"), task_queue="nobody")
    after = ApiKeys(await _encrypting(env, {"k1": both["k1"]}), task_queue="nobody")
    old, new = wanted(name="a quince"), wanted(name="a quince")
    key, record = await before.create(old, by="ops")
    other, _ = await after.create(new, by="ops")
    await before.revoke(key.key_id, Revocation(by="ann", reason="a quince"))

    revoked = await listed(before, old.org, "revoked")
    described = await env.client.get_workflow_handle(workflow_id(key.key_id)).describe()
    history = await env.client.get_workflow_handle(workflow_id(key.key_id)).fetch_history()
    readable = [found.key_id for found in await after.list(KeyFilter()) if found.key_id in (key.key_id, other.key_id)]

    assert (revoked.name, revoked.ended_because) == ("a quince", "by ann: a quince")
    stored = described.raw_description.SerializeToString() + b"".join(e.SerializeToString() for e in history.events)
    assert b"quince" not in stored
    assert record.digest.encode() not in stored
    assert readable == [other.key_id]
    with pytest.raises(DecryptionError, match="the key 'k2'"):
        await after.find(key.key_id)


async def _encrypting(env: WorkflowEnvironment, keys: dict[str, SecretStr], *, current: str | None = None) -> Client:
    return await env.connect_client(data_converter=data_converter(keyring=Keyring(keys, current=current)))


async def test_a_fresh_namespace_gets_its_search_attributes_with_the_first_key() -> None:
    """A key can be made before any worker or API has been there."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=find_temporal(), dev_server_log_level="error", data_converter=data_converter()
    ) as fresh:
        keys = ApiKeys(fresh.client, task_queue="perdure")
        key, record = await asyncio.wait_for(keys.create(wanted(org="acme"), by="ops"), timeout=60)

        found = await keys.find(key.key_id)
        ours = await listed(keys, "acme", "active")

    assert found is not None
    assert (found.record, ours.key_id) == (record, key.key_id)
