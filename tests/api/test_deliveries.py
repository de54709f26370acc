"""Deliveries over HTTP: whom a run has told what, why something did not arrive, and sending it again."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from perdure.codec import data_converter
from perdure.encryption import Keyring, new_key
from perdure.settings import Settings
from perdure.testing import eventually
from tests.api.conftest import Api, bearer, required
from tests.harness import InProcessModel, answer, in_turns, serving
from tests.receiver import receiving, status

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
SIGNING: dict[str, Any] = {"webhook_secrets": [SECRET], "callback_allowed_networks": ["127.0.0.1/32"]}


@pytest.fixture
async def api(client: Client) -> AsyncIterator[Api]:
    """The API of the shop, which signs and may call loopback."""
    api = Api(client, settings=Settings(task_queue=f"queue-{uuid.uuid4().hex[:12]}", **SIGNING))
    async with api.http:
        yield api


@asynccontextmanager
async def worker(api: Api) -> AsyncIterator[None]:
    """A worker of the shop, which signs and may call loopback too."""
    model = InProcessModel(in_turns(answer("Done.")))
    async with serving(api.temporal, api.app, model, task_queue=api.settings.task_queue, cached_runs=10, **SIGNING):
        yield


async def listed(api: Api, run_id: str, **wanted: Any) -> dict[str, Any]:
    """Wait until the run's only delivery stands like this, and return it."""

    async def stands() -> dict[str, Any]:
        items = (await api.get(f"/v1/runs/{run_id}/deliveries"))["items"]
        return items[0] if len(items) == 1 and wanted.items() <= items[0].items() else {}

    return await eventually(stands, within=timedelta(seconds=20), what=f"a delivery with {wanted}")


async def test_a_delivery_says_that_it_has_arrived(api: Api) -> None:
    """To which host, about what, how it was answered and when; the rest of the address is nobody's business."""
    async with receiving() as receiver, worker(api):
        run_id = await api.start(callback_url=receiver.url("/hook-of-acme"))
        await api.ended(run_id)
        told = await listed(api, run_id, status="delivered")

    assert (told["about"], told["host"], told["format"]) == ("run.ended", "127.0.0.1", "webhook")
    assert (told["attempts"], told["answered"], told["error"]) == (1, 200, None)
    assert told["notice_id"] == receiver.received[0].headers["webhook-id"]
    assert told["ended_at"]
    assert "hook-of-acme" not in str(told)


async def test_a_delivery_that_is_tried_again_says_why_and_when(api: Api) -> None:
    """As long as the receiver is away."""
    async with receiving(status(503)) as receiver, worker(api):
        run_id = await api.start(callback_url=receiver.url())

        async def waits() -> dict[str, Any]:
            told = await listed(api, run_id, status="under_way")
            return told if told["next_attempt_at"] else {}

        told = await eventually(waits, within=timedelta(seconds=20), what="the pause before another attempt")

    assert told["attempts"] >= 1
    assert told["error"] == {"type": "delivery_failed", "message": "127.0.0.1 answered 503"}
    assert told["ended_at"] is None


async def test_what_was_given_up_can_be_sent_again_once(api: Api) -> None:
    """The receiver knows it by its `webhook-id`, and the signature of the second try is right too."""
    async with receiving(status(410)) as receiver, worker(api):
        run_id = await api.start(callback_url=receiver.url())
        given_up = await listed(api, run_id, status="failed")
        path = f"/v1/runs/{run_id}/deliveries/{given_up['delivery_id']}/redeliver"
        again = await api.http.post(path)
        arrived = await listed(api, run_id, status="delivered")
        once_more = await api.http.post(path)

    first, second = receiver.received
    assert given_up["error"] == {"type": "delivery_refused", "message": "127.0.0.1 answered 410"}
    assert (again.status_code, again.json()["delivery_id"]) == (202, given_up["delivery_id"])
    assert (arrived["delivery_id"], arrived["answered"]) == (given_up["delivery_id"], 200)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == arrived["notice_id"]
    assert first.verified(SECRET) == second.verified(SECRET)
    assert (once_more.status_code, once_more.json()["type"]) == (409, "urn:perdure:problem:conflict")


async def test_a_delivery_is_sent_again_for_its_own_run_only(api: Api) -> None:
    """Neither a made-up id nor one of another run, nor another workflow, is a delivery of the run."""
    async with receiving(status(410)) as receiver, worker(api):
        run_id = await api.start(callback_url=receiver.url())
        other = await api.start()
        given_up = await listed(api, run_id, status="failed")
        unknown = await api.http.post(f"/v1/runs/{run_id}/deliveries/none/redeliver")
        foreign = await api.http.post(f"/v1/runs/{other}/deliveries/{given_up['delivery_id']}/redeliver")

    assert unknown.json()["type"] == foreign.json()["type"] == "urn:perdure:problem:delivery-not-found"
    assert len(receiver.received) == 1
    assert await api.get(f"/v1/runs/{other}/deliveries") == {"items": []}


async def test_deliveries_of_another_organisation_are_not_there(client: Client) -> None:
    """Neither are they told, nor sent again."""
    keyed = Api(client, settings=required(**SIGNING))
    async with keyed.http, receiving(status(410)) as receiver, worker(keyed):
        ann, eve = bearer(await keyed.key("acme")), bearer(await keyed.key("evil", name="eve"))
        body = {"agent": "tester", "input": "go", "callback_url": receiver.url()}
        path = f"/v1/runs/{(await keyed.http.post('/v1/runs', json=body, headers=ann)).json()['run_id']}/deliveries"

        async def failed() -> list[Any]:
            items = (await keyed.http.get(path, headers=ann)).json()["items"]
            return [item for item in items if item["status"] == "failed"]

        [given_up] = await eventually(failed, within=timedelta(seconds=20), what="the end of the delivery")
        seen = await keyed.http.get(path, headers=eve)
        sent = await keyed.http.post(f"{path}/{given_up['delivery_id']}/redeliver", headers=eve)
        own = await keyed.http.post(f"{path}/{given_up['delivery_id']}/redeliver", headers=ann)

    assert (seen.status_code, sent.status_code, own.status_code) == (404, 404, 202)


async def test_an_encrypted_delivery_is_told_in_plain_text(env: WorkflowEnvironment) -> None:
    """What Temporal keeps of it can be read with the key alone, the reason of its failure included."""
    client = await env.connect_client(data_converter=data_converter(keyring=Keyring({"k": new_key()}, current="k")))
    api = Api(client, settings=Settings(task_queue=f"queue-{uuid.uuid4().hex[:12]}", **SIGNING))
    async with api.http, receiving(status(410)) as receiver, worker(api):
        run_id = await api.start(callback_url=receiver.url())
        told = await listed(api, run_id, status="failed")

    assert told["error"]["message"] == "127.0.0.1 answered 410"
