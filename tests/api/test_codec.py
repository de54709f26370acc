"""The codec of an encrypted installation: plain text for those who may, and runs whose key is gone."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.testing import WorkflowEnvironment

from perdure.activities import Finish
from perdure.codec import data_converter
from perdure.contracts import RunError
from perdure.encryption import Keyring, new_key
from perdure.errors import HistoryFileError
from perdure.events import RunEnded
from perdure.history import load, project
from perdure.principal import Scope
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_workers.dev_server import find_temporal
from tests.api.conftest import Api, bearer
from tests.harness import answer, in_turns, wish

KEYS = {"k1": new_key(), "k2": new_key()}
KEYRING = Keyring(KEYS, current="k1")
SECRET = Payload(metadata={"encoding": b"json/plain"}, data=b'"a quince"')
REFUND = wish(("refund", {"order": "o1", "amount": 5}))


async def encrypted_api(env: WorkflowEnvironment, *, current: str = "k1", **settings: Any) -> Api:
    """The shop's API with keys."""
    client = await env.connect_client(data_converter=data_converter(keyring=Keyring(KEYS, current=current)))
    queue = f"queue-{uuid.uuid4().hex[:12]}"
    given = Settings(encryption_keys=KEYS, encryption_key_id=current, task_queue=queue, **settings)
    return Api(client, settings=given)


@pytest.fixture
async def guarded(env: WorkflowEnvironment) -> AsyncIterator[Api]:
    """An encrypted installation whose API asks who calls."""
    api = await encrypted_api(env, auth="required", ui_url="https://ui.example/")
    async with api.http:
        yield api


@pytest.fixture
async def operator(guarded: Api) -> dict[str, str]:
    """The header of an operator's key."""
    return bearer(await guarded.key(None))


def body(*payloads: Payload) -> Any:
    """Payloads as Temporal sends them to a codec."""
    return MessageToDict(Payloads(payloads=payloads))


def read(response: httpx2.Response) -> list[Payload]:
    """The payloads of an answer, which must be a success."""
    assert response.status_code == 200, response.text
    return list(ParseDict(response.json(), Payloads()).payloads)


@pytest.mark.parametrize("direction", ["encode", "decode"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}])
async def test_plain_text_takes_a_key(guarded: Api, direction: str, headers: dict[str, str]) -> None:
    """Without one nothing is decoded, and nothing encoded."""
    response = await guarded.http.post(f"/codec/{direction}", json=body(KEYRING.encrypt(SECRET)), headers=headers)

    assert response.status_code == 401
    assert "quince" not in response.text


async def test_the_codec_undoes_what_it_does(guarded: Api, operator: dict[str, str]) -> None:
    """With a key, payloads are encrypted and come back; plain ones stay."""
    encoded = read(await guarded.http.post("/codec/encode", json=body(SECRET), headers=operator))

    decoded = read(await guarded.http.post("/codec/decode", json=body(*encoded, SECRET), headers=operator))

    assert b"quince" not in encoded[0].SerializeToString()
    assert decoded == [SECRET, SECRET]


async def test_a_browser_may_send_the_key_from_the_web_uis_page(guarded: Api, operator: dict[str, str]) -> None:
    """The Web UI passes its user's token on, from an origin of its own."""
    asked = "authorization,content-type,x-namespace"
    preflight = {
        "Origin": "https://ui.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": asked,
    }

    allowed = await guarded.http.options("/codec/decode", headers=preflight)
    decoded = await guarded.http.post(
        "/codec/decode", json=body(KEYRING.encrypt(SECRET)), headers={**operator, "Origin": "https://ui.example"}
    )

    assert allowed.status_code == 200
    assert set(asked.split(",")) <= {
        name.strip() for name in allowed.headers["Access-Control-Allow-Headers"].lower().split(",")
    }
    assert read(decoded) == [SECRET]
    assert decoded.headers["Access-Control-Allow-Origin"] == "*"


async def test_a_payload_of_a_missing_key_is_told_by_its_id(guarded: Api, operator: dict[str, str]) -> None:
    """So an operator knows which key to bring back."""
    foreign = Keyring({"lost": new_key()}).encrypt(SECRET)

    response = await guarded.http.post("/codec/decode", json=body(foreign), headers=operator)

    assert response.status_code == 422
    assert "the key 'lost', which is not among PERDURE_ENCRYPTION_KEYS (k1, k2)" in response.json()["detail"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:8233"}, 200),
        ({"Origin": "http://localhost:8233"}, 200),
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://localhost:8233"}, 403),
        ({"Origin": "http://evil.example:8233"}, 403),
        ({"Origin": "http://localhost.evil.example:8233"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "http://localhost:99999"}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example", "Origin": "http://127.0.0.1:8233"}, 403),
    ],
)
async def test_an_open_api_decodes_for_this_machine_and_the_web_ui(
    env: WorkflowEnvironment, headers: dict[str, str], status: int
) -> None:
    """Every web page that the user has open could ask; only the Web UI's is answered."""
    api = await encrypted_api(env, ui_url="http://127.0.0.1:8233")
    async with api.http:
        response = await api.http.post("/codec/decode", json=body(KEYRING.encrypt(SECRET)), headers=headers)

    assert response.status_code == status
    assert ("YSBxdWluY2Ui" in response.text or "ImEgcXVpbmNlIg==" in response.text) == (status == 200)


async def test_an_open_api_without_a_web_ui_decodes_for_no_page(env: WorkflowEnvironment) -> None:
    """What is not configured is not let in."""
    api = await encrypted_api(env)
    async with api.http:
        response = await api.http.post("/codec/decode", json=body(SECRET), headers={"Origin": "http://localhost:8233"})

    assert response.status_code == 403


@pytest.mark.parametrize("direction", ["encode", "decode"])
async def test_plain_text_is_for_operators(guarded: Api, direction: str) -> None:
    """A payload does not say whose it is, so nobody of one organisation may have any decoded, nor one without scope."""
    keys = [
        await guarded.key("acme", scopes=[Scope.CODEC_DECODE]),
        await guarded.key(None, scopes=set(Scope) - {Scope.CODEC_DECODE}),
    ]

    responses = [
        await guarded.http.post(f"/codec/{direction}", json=body(KEYRING.encrypt(SECRET)), headers=bearer(key))
        for key in keys
    ]

    assert [response.status_code for response in responses] == [403, 403]
    assert "--all-orgs" in responses[0].json()["detail"]
    assert "codec:decode" in responses[1].json()["detail"]


async def temporal(*arguments: str, env: WorkflowEnvironment) -> str:
    """Run the real `temporal` command and return what it prints."""
    address = env.client.service_client.config.target_host
    process = await asyncio.create_subprocess_exec(
        *(find_temporal(), *arguments, "--address", address, "--command-timeout", "20s"),
        env={**os.environ, "TEMPORAL_CONFIG_FILE": os.devnull},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return printed.decode()


async def test_the_temporal_command_reads_and_writes_through_the_codec(
    guarded: Api, operator: dict[str, str], env: WorkflowEnvironment
) -> None:
    """`show`, `query` and `signal` work as without encryption, errors included, and show nothing without the key."""
    client, ends = guarded.temporal, in_turns(REFUND, answer("a quince", finish=Finish.REFUSAL, detail="a bad quince"))
    async with guarded.worker(ends), guarded.server() as (_, url, _):
        guarded.http.headers.update(operator)
        run_id = await guarded.start(input="a quince")
        asked = await guarded.approval(run_id)
        codec = ("--codec-endpoint", f"{url}/codec", "--codec-auth", operator["Authorization"])
        named = ("--workflow-id", run_id)
        decision = json.dumps({"approval_id": asked["approval_id"], "decided_by": "ann", "reason": "a quince"})
        view = await temporal("workflow", "query", *named, "--type", "view", *codec, env=env)
        await temporal("workflow", "signal", *named, "--name", "approve", "--input", decision, *codec, env=env)
        run = await guarded.ended(run_id)
        shown = await temporal("workflow", "show", *named, "--output", "json", *codec, env=env)
        bare = await temporal("workflow", "show", *named, "--output", "json", env=env)

    assert asked["approval_id"] in view
    assert run["error"]["message"] == "a bad quince"
    *_, ended = project(load(shown))
    assert isinstance(ended, RunEnded)
    assert ended.error == RunError.model_validate(run["error"])
    assert "a bad quince" in load(shown)[0].events[-1].workflow_execution_failed_event_attributes.failure.message
    history = await client.get_workflow_handle(run_id).fetch_history()
    assert b"quince" not in b"".join(event.SerializeToString() for event in history.events)
    with pytest.raises(HistoryFileError, match="encrypted with the key 'k1'"):
        load(bare)


@pytest.mark.parametrize("left", [Keyring({"k1": KEYS["k1"]}), None], ids=["another key", "no key"])
async def test_runs_whose_key_is_gone_do_not_hide_the_others(env: WorkflowEnvironment, left: Keyring | None) -> None:
    """They are listed without their input, and what cannot be told of them is refused with the key's id."""
    before, user = await encrypted_api(env, current="k2"), f"user-{uuid.uuid4().hex[:8]}"
    client = await env.connect_client(data_converter=data_converter(keyring=left))
    after = Api(client, settings=before.settings)
    async with before.http, after.http:
        async with before.worker(in_turns(REFUND, answer("done"))):
            old = await before.start(user=user)
            await before.approval(old)
            listed = await eventually(lambda: _inbox(before, user), what="the inbox")
        new = await after.start(user=user)
        rows = {row["run_id"]: row["input"] for row in await after.listed(2, user=user)}
        inbox = await _inbox(after, user)
        detail = await after.http.get(f"/v1/runs/{old}")

    assert [row["run_id"] for row in listed] == [old]
    assert rows[new] == "go"
    assert "the key 'k2', which is not among" in rows[old]
    assert inbox == []
    assert (detail.status_code, detail.json()["type"]) == (502, "urn:perdure:problem:decryption")
    assert "the key 'k2'" in detail.json()["detail"]


async def _inbox(api: Api, user: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await api.get("/v1/approvals", user=user))["items"]
    return found
