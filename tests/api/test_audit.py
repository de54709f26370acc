"""The audit over HTTP: filters, pages, JSON lines."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from perdure.audit.login import FailedLoginBatch
from perdure.audit.record import AuditEntry, Head, seal
from perdure.settings import Settings
from perdure_api import audit as audit_module
from perdure_api import login_record
from tests.api.conftest import Api, bearer, required
from tests.audit_stores import Place, folder_place

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SIGNALED = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    """An audit of two organisations, a record an hour."""
    place = folder_place(tmp_path)
    store = place.store()
    await store.prepare()
    for org in ("acme", "umbrella"):
        head, lines = Head(), []
        for number in range(1, 21):
            entry = AuditEntry(
                at=BEGIN + timedelta(hours=number),
                org=org,
                kind="tool.called" if number % 2 else "approval.asked",
                who="ann",
                run_id=f"run-{number % 4}",
                execution_id="e",
                source=f"e/{number}.0",
            )
            line, head = seal(entry, after=head, now=entry.at)
            lines.append(line)
        await store.append(org, lines, tail=Head(), head=head)
    return place


@pytest.fixture
async def http(client: Client, place: Place) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an open API with that audit."""
    async with Api(client, settings=Settings.model_validate(place.settings)).http as http:
        yield http


async def listed(http: httpx2.AsyncClient, **query: Any) -> dict[str, Any]:
    """Return a page."""
    response = await http.get("/v1/audit", params=query)
    assert response.status_code == 200, response.text
    page: dict[str, Any] = response.json()
    return page


async def test_records_are_filtered(http: httpx2.AsyncClient) -> None:
    """By organisation, time, kind and run."""
    query = {"org": "acme", "from": "2026-01-01T05:00:00Z", "to": "2026-01-01T09:00:00Z"}

    some = await listed(http, **query)
    few = await listed(http, **query, kind="approval", run_id="run-2")

    assert [item["seq"] for item in some["items"]] == [5, 6, 7, 8]
    assert [(item["seq"], item["org"], item["who"]) for item in few["items"]] == [(6, "acme", "ann")]
    assert some["next_page_token"] is None


async def test_pages_follow_each_other_across_chains(http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page everything comes once, also when a page ends before it is full."""
    monkeypatch.setattr(audit_module, "MAX_LOOKS", 7)
    found: list[tuple[str, int]] = []
    token: str | None = None

    for _ in range(20):
        page = await listed(http, limit=3, kind="tool", **({"page_token": token} if token else {}))
        found += [(item["org"], item["seq"]) for item in page["items"]]
        token = page["next_page_token"]
        if token is None:
            break

    assert found == [(org, seq) for org in ("acme", "umbrella") for seq in range(1, 21, 2)]


async def test_everything_is_sent_as_json_lines(http: httpx2.AsyncClient) -> None:
    """With `Accept: application/x-ndjson` all wanted records come as they stand in the chain, hashes included."""
    response = await http.get("/v1/audit", params={"org": "acme"}, headers={"Accept": "application/x-ndjson"})

    records = [json.loads(line) for line in response.text.splitlines()]
    assert response.headers["content-type"].startswith("application/x-ndjson")
    assert [record["seq"] for record in records] == list(range(1, 21))
    assert records[1]["prev"] == records[0]["hash"]


@pytest.mark.parametrize(
    "query",
    [
        {"from": "yesterday"},
        {"kind": "Tool Called"},
        {"limit": 0},
        {"page_token": "nonsense"},
        {"nonsense": "1"},
    ],
)
async def test_a_wrong_query_is_refused(http: httpx2.AsyncClient, query: dict[str, Any]) -> None:
    """What cannot be a query is a problem that names the field."""
    response = await http.get("/v1/audit", params=query)

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_page_token_of_another_query_is_refused(http: httpx2.AsyncClient) -> None:
    """A token goes on with the query that it came from, and with no other."""
    token = (await listed(http, org="acme", limit=5))["next_page_token"]

    response = await http.get("/v1/audit", params={"org": "umbrella", "page_token": token})

    assert response.status_code == 422


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_without_an_audit_the_answer_is_404(api: Api, accept: str) -> None:
    """An API that was not told where the audit is says so."""
    response = await api.http.get("/v1/audit", headers={"Accept": accept})

    assert response.status_code == 404
    assert response.json()["type"] == "urn:perdure:problem:audit-not-configured"


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
@pytest.mark.parametrize(
    ("holder", "query", "seen"),
    [
        ("acme", {}, {"acme"}),
        ("acme", {"org": "umbrella"}, set()),
        ("-", {}, set()),
        (None, {}, {"acme", "umbrella"}),
        (None, {"org": "umbrella"}, {"umbrella"}),
    ],
)
async def test_a_caller_sees_its_own_organisation(
    client: Client, place: Place, accept: str, holder: str | None, query: dict[str, str], seen: set[str]
) -> None:
    """Whatever it asks for; only a caller of no organisation sees them all."""
    api = Api(client, settings=required(**place.settings))
    headers = {**bearer(await api.key(holder)), "Accept": accept}

    async with api.http as http:
        response = await http.get("/v1/audit", params=query, headers=headers)

    assert response.status_code == 200
    assert {org for org in ("acme", "umbrella") if f'"org":"{org}"' in response.text} == seen


async def test_a_failed_login_is_in_temporal_before_the_401(
    client: Client, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an audit configured, an API key that does not count is recorded, under the key's organisation."""
    monkeypatch.setattr("perdure_api.login_record.AUDITOR_ID", f"auditor-{uuid.uuid4().hex}")
    api = Api(client, settings=required(**place.settings))
    key = await api.key("acme")

    async with api.http as http:
        response = await http.get("/v1/runs", headers=bearer(key[:-1] + ("a" if key[-1] != "a" else "b")))

    handle = client.get_workflow_handle(vars(login_record)["AUDITOR_ID"])
    events = (await handle.fetch_history()).events
    await handle.terminate()
    [signal] = [event.workflow_execution_signaled_event_attributes for event in events if event.event_type == SIGNALED]
    [failed] = FailedLoginBatch.model_validate_json(signal.input.payloads[0].data).failures
    assert response.status_code == 401
    assert (failed.reason, failed.org, failed.credential) == ("wrong_secret", "acme", key.split("_")[1])
