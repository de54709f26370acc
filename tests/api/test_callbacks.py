"""Callbacks over HTTP: refused at once where they cannot be, and links that lead to the durable record."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest
from temporalio.client import Client

from perdure.outgoing import Outgoing
from perdure.settings import Settings
from perdure_api.gateway import Gateway
from tests.api.conftest import Api
from tests.harness import InProcessModel, answer, in_turns, serving, wish
from tests.receiver import receiving

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
REFUND = wish(("refund", {"order": "o1", "amount": 5}))


@pytest.fixture
async def api(client: Client) -> AsyncIterator[Api]:
    """The API of the shop, which signs and may call loopback."""
    settings = Settings(
        task_queue=f"queue-{uuid.uuid4().hex[:12]}",
        webhook_secrets=[SECRET],
        callback_allowed_networks=["127.0.0.1/32"],
        public_url="https://agents.example",
    )
    api = Api(client, settings=settings)
    async with api.http:
        yield api


async def refused(api: Api, url: str) -> str:
    """Return why a run with this callback is not started."""
    response = await api.http.post("/v1/runs", json={"agent": "tester", "input": "go", "callback_url": url})
    assert response.status_code == 422, response.text
    assert response.json()["type"] == "urn:perdure:problem:callback-refused"
    detail: str = response.json()["detail"]
    return detail


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://169.254.169.254/latest/meta-data/", "link-local address"),
        ("https://[::ffff:10.0.0.1]/", "private address"),
        ("https://127.0.0.2:8443/", "loopback address"),
        ("https://2130706433/", "no IPv4 address in its usual form"),
        ("https://user:pass@hooks.example/", "user name or password"),
        ("file:///etc/passwd", "https"),
    ],
)
async def test_a_callback_inside_is_refused_before_anything_starts(api: Api, url: str, why: str) -> None:
    """The caller is told what is wrong with it, and no run is started."""
    assert why in await refused(api, url)
    assert await api.started() == 0


async def test_a_callback_that_nothing_would_sign_is_refused(client: Client) -> None:
    """A receiver could not tell it from anybody's request."""
    api = Api(client)
    async with api.http:
        assert "PERDURE_WEBHOOK_SECRETS" in await refused(api, "https://hooks.example/")


async def test_a_name_that_cannot_be_resolved_now_does_not_hold_a_run_up(client: Client, api: Api) -> None:
    """Each attempt to deliver checks it anyhow."""

    async def away(host: str, port: int) -> Sequence[str]:
        raise TimeoutError

    api.asgi.state.gateway = Gateway(client, api.app, api.settings, outgoing=Outgoing(resolver=away))

    assert await api.start(callback_url="https://hooks.example/")


async def test_a_run_tells_its_callback_and_the_link_leads_to_the_record(api: Api, client: Client) -> None:
    """It shows the question while it is open, and for good what was decided, by whom and why."""
    model = InProcessModel(in_turns(REFUND, answer("Done.")))
    options = api.settings.model_dump(include={"webhook_secrets", "callback_allowed_networks", "public_url"})
    async with (
        receiving() as receiver,
        serving(client, api.app, model, task_queue=api.settings.task_queue, cached_runs=10, **options),
    ):
        run_id = await api.start(callback_url=receiver.url(), user="ann")
        [asked] = await receiver.told(1)
        links = asked.verified(SECRET)["data"]["links"]
        path = links["record"].removeprefix("https://agents.example")
        page = await api.http.get(links["console"].removeprefix("https://agents.example"))
        pending = await api.get(path)
        decision = {"decision": "approve", "decided_by": "bob", "reason": "the photo shows it"}
        decided = await api.http.post(path, json=decision)
        await api.ended(run_id)
        await receiver.told(2)
    record = await api.get(path)

    assert decided.status_code == 200
    assert "May <code>refund</code> run?" in page.text
    assert path == f"/v1/runs/{run_id}/approvals/{pending['approval_id']}"
    assert (pending["status"], pending["decided_by"]) == ("pending", "")
    assert (pending["tool"], pending["arguments"]) == ("refund", {"order": "o1", "amount": 5})
    assert pending["digest"]
    assert record["status"] == "approved"
    assert (record["decided_by"], record["decision_reason"]) == ("bob", "the photo shows it")
    assert record["decided_at"]
    assert record["arguments"] == pending["arguments"]


async def test_the_record_of_a_run_that_ended_first_says_so(api: Api) -> None:
    """A question that nobody answered is withdrawn, and the record is readable without a worker."""
    async with api.worker(in_turns(REFUND)):
        run_id = await api.start()
        asked = await api.approval(run_id)
        await api.http.post(f"/v1/runs/{run_id}/cancel")
        await api.ended(run_id)

    record = await api.get(f"/v1/runs/{run_id}/approvals/{asked['approval_id']}")

    assert record["status"] == "withdrawn"


async def test_an_approval_that_nobody_asked_is_not_found(api: Api) -> None:
    """And neither is one of a run that is not there."""
    run_id = await api.start()

    unknown = await api.http.get(f"/v1/runs/{run_id}/approvals/c9-00000000")
    nowhere = await api.http.get("/v1/runs/run-none/approvals/c9-00000000")

    assert unknown.json()["type"] == "urn:perdure:problem:approval-not-found"
    assert nowhere.json()["type"] == "urn:perdure:problem:run-not-found"


async def test_another_callback_is_another_request(api: Api) -> None:
    """An idempotency key belongs to all that was asked for."""
    body = {"agent": "tester", "input": "go"}
    headers = {"Idempotency-Key": uuid.uuid4().hex}

    first = await api.http.post("/v1/runs", json=body, headers=headers)
    other = await api.http.post("/v1/runs", json={**body, "callback_url": "http://127.0.0.1:9/"}, headers=headers)

    assert (first.status_code, other.status_code) == (202, 422)
    assert other.json()["type"] == "urn:perdure:problem:idempotency-key-reused"
