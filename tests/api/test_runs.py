"""Looking at runs: status, lists, pages, steps, history, and cancelling; most of it without a worker."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from perdure import history
from perdure.activities import Finish
from perdure.codec import data_converter
from perdure.contracts import RunStatus
from perdure.encryption import Keyring, new_key
from perdure.messages import Message
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from tests.api.conftest import Api, shop
from tests.harness import answer, in_turns, wish

REFUND = wish(("refund", {"order": "o1", "amount": 5}))
LOOK = wish(("look", {"order": "o1"}), text="Let me look.")


def unique(name: str) -> str:
    """Return a name that no other test's runs have."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


async def test_a_run_that_is_over_tells_all(api: Api) -> None:
    """Status, answer, tokens and steps are there after the worker is gone."""
    async with api.worker(in_turns(LOOK, answer("It is paid."))):
        run_id = await api.start()
        await api.ended(run_id)
    run = await api.get(f"/v1/runs/{run_id}")
    steps = (await api.get(f"/v1/runs/{run_id}/steps"))["items"]

    assert (run["status"], run["output"], run["steps"], run["live"]) == ("completed", "It is paid.", 3, True)
    assert run["totals"]["usage"]["input_tokens"] == 20
    assert [(step["kind"], step["name"], step["status"]) for step in steps] == [
        ("model", "scripted", "completed"),
        ("tool", "look", "completed"),
        ("model", "scripted", "completed"),
    ]


async def test_a_failed_run_tells_why_and_what_it_had(api: Api) -> None:
    """The error has a stable type and the provider's words; the totals are kept."""
    async with api.worker(in_turns(LOOK, answer("", finish=Finish.REFUSAL, detail="I will not."))):
        run_id = await api.start()
        run = await api.ended(run_id)

    assert run["status"] == "failed"
    assert run["error"] == {"type": "model_refused", "message": "I will not."}
    assert (run["steps"], run["output"]) == (3, "Let me look.")


@pytest.mark.parametrize("keyring", [None, Keyring({"k": new_key()}, current="k")], ids=["plain", "encrypted"])
async def test_a_run_whose_models_do_not_answer_shows_what_it_waits_for(
    env: WorkflowEnvironment, keyring: Keyring | None
) -> None:
    """Which attempt is next and when, and why the last one failed; also when no worker is there to ask."""
    client = await env.connect_client(data_converter=data_converter(keyring=keyring))
    api = Api(client, app=shop(on_outage="park"))

    def busy(messages: list[Message]) -> ProviderReply:
        raise ApplicationError("Overloaded", type="model_overloaded", next_retry_delay=timedelta(minutes=3))

    async def call_of(run_id: str) -> dict[str, Any]:
        run = await api.get(f"/v1/runs/{run_id}")
        assert [call["attempt"] for call in run["pending_calls"]] == [2]
        return {**run["pending_calls"][0], "live": run["live"]}

    async with api.http:
        async with api.worker(busy):
            run_id = await api.start()
            parked = await eventually(lambda: call_of(run_id), what="the second attempt")
        stored = await call_of(run_id)
        await api.http.post(f"/v1/runs/{run_id}/cancel")

    assert (parked["activity"], parked["running"], parked["max_attempts"]) == ("call_model", False, None)
    assert parked["last_failure"] == {"type": "model_overloaded", "message": "Overloaded"}
    wait = datetime.fromisoformat(parked["next_attempt_at"]) - datetime.now(UTC)
    assert timedelta(minutes=2) < wait <= timedelta(minutes=3)
    assert stored == {**parked, "live": False}


async def test_a_waiting_run_is_known_without_a_worker(api: Api) -> None:
    """Status, steps and the question come from visibility when no worker answers, and the answer says so."""
    async with api.worker(in_turns(REFUND)):
        run_id = await api.start()
        asked = await api.approval(run_id)
        live = await api.get(f"/v1/runs/{run_id}")
        await api.listed(agent="tester", status="waiting")
    stored = await api.get(f"/v1/runs/{run_id}")

    assert (live["status"], live["live"], stored["status"], stored["live"]) == ("waiting", True, "waiting", False)
    assert stored["pending_approvals"] == live["pending_approvals"] == [asked]
    assert stored["waiting_for"] == [asked["approval_id"]]
    assert stored["steps"] == live["steps"] == 2


async def test_a_run_without_a_price_is_not_listed_as_free(api: Api) -> None:
    """The list and the run itself give no cost where nobody has a price."""
    org = unique("acme")
    async with api.worker(in_turns(answer("hello"))):
        run = await api.ended(await api.start(org=org))
    [listed] = await api.listed(org=org, status="completed")

    assert (run["cost_usd"], listed["cost_usd"]) == (None, None)


async def test_cancelling_works_without_a_worker(api: Api) -> None:
    """The request is stored, may be repeated, and takes effect when a worker comes; after the end it is a conflict."""
    run_id = await api.start()

    asked = await api.http.post(f"/v1/runs/{run_id}/cancel", json={"reason": "not needed"})
    again = await api.http.post(f"/v1/runs/{run_id}/cancel")
    async with api.worker(in_turns(answer("hello"))):
        run = await api.ended(run_id)
    late = await api.http.post(f"/v1/runs/{run_id}/cancel")
    events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]

    assert (asked.status_code, again.status_code, late.status_code) == (202, 202, 409)
    assert run["status"] == "cancelled"
    assert "not needed" in [event.get("reason") for event in events if event["kind"] == "run.cancel_requested"]


async def test_a_terminated_run_is_listed_as_one(api: Api, client: Client) -> None:
    """Ended by Temporal from outside, it no longer counts as running, whatever it said last."""
    org = unique("acme")
    run_id = await api.start(org=org)
    await client.get_workflow_handle(run_id).terminate(reason="gone wrong")

    run = await api.get(f"/v1/runs/{run_id}")
    [listed] = await api.listed(org=org, status="terminated")

    assert (run["status"], run["error"]["message"]) == ("terminated", "gone wrong")
    assert listed["run_id"] == run_id
    assert (await api.get("/v1/runs", org=org, status="running"))["items"] == []


async def test_each_filter_finds_its_runs(api: Api) -> None:
    """Agent, version, status, user, organisation and session narrow the list, alone and together."""
    org = unique("acme")
    ann = await api.start(org=org, user="ann", session_id="s1")
    bob = await api.start(org=org, user="bob", session_id="s1")
    await api.listed(2, org=org)

    async def found(**query: str) -> set[str]:
        return {run["run_id"] for run in (await api.get("/v1/runs", org=org, **query))["items"]}

    assert await found(user="ann") == {ann}
    assert await found(session_id="s1", agent="tester", version="1", status="running") == {ann, bob}
    assert await found(session_id="s1", user="bob") == {bob}
    assert await found(agent="other") == await found(status="waiting") == await found(version="2") == set()


@pytest.mark.parametrize("status", list(RunStatus))
async def test_every_status_can_be_asked_for(api: Api, status: RunStatus) -> None:
    """Temporal takes the query of each status."""
    page = await api.get("/v1/runs", org=unique("acme"), status=status.value)

    assert page["items"] == []


@pytest.mark.parametrize(
    "name", ["o'brien", "x' OR 'a' = 'a", "a' OR ExecutionStatus = 'Running", "100%", "semi;--", "é😀"]
)
async def test_a_filter_is_a_value_and_never_part_of_the_query(api: Api, name: str) -> None:
    """Whatever a user is called, the list has that user's runs and nobody else's."""
    org = unique("acme")
    wanted = await api.start(org=org, user=name)
    await api.start(org=org, user="somebody else")
    await api.listed(2, org=org)

    page = await api.get("/v1/runs", org=org, user=name)

    assert [run["run_id"] for run in page["items"]] == [wanted]


@pytest.mark.parametrize("value", ["' OR 'a' = 'a", "a'", 'a"b', "a\\b", "a\nb", "a\0b", "", " ", "a" * 256])
async def test_a_filter_that_no_run_can_have_is_refused(api: Api, value: str) -> None:
    """What cannot be a user is no query either."""
    response = await api.http.get("/v1/runs", params={"user": value})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "query.user"


async def test_pages_have_every_run_once(api: Api) -> None:
    """Following next_page_token to the end shows all runs, the newest first."""
    org = unique("acme")
    started = [await api.start(org=org) for _ in range(5)]
    await api.listed(5, org=org)

    seen: list[str] = []
    query: dict[str, Any] = {"org": org, "limit": 2}
    while True:
        page = await api.get("/v1/runs", **query)
        seen += [run["run_id"] for run in page["items"]]
        if page["next_page_token"] is None:
            break
        query["page_token"] = page["next_page_token"]

    assert seen == started[::-1]


async def test_a_page_token_is_good_for_its_own_list(api: Api) -> None:
    """Garbage, and the token of another list, are refused at once."""
    org = unique("acme")
    for _ in range(2):
        await api.start(org=org)
    await api.listed(2, org=org)
    token = (await api.get("/v1/runs", org=org, limit=1))["next_page_token"]

    refused = [
        await api.http.get("/v1/runs", params={"org": org, "limit": 1, "page_token": wrong})
        for wrong in ("nonsense", "", "aGVsbG8=", "é", token[:-4], "A" * 4000)
    ]
    elsewhere = await api.http.get("/v1/runs", params={"org": "globex", "limit": 1, "page_token": token})

    assert {response.status_code for response in [*refused, elsewhere]} == {422}


async def test_an_exported_history_is_what_replay_reads(api: Api) -> None:
    """The export loads, and tells the same events as the API."""
    async with api.worker(in_turns(LOOK, answer("It is paid."))):
        run_id = await api.start()
        await api.ended(run_id)
    exported = await api.http.get(f"/v1/runs/{run_id}/history")
    events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]

    loaded = list(history.project(history.load(exported.text)))
    assert [json.loads(event.model_dump_json()) for event in loaded] == events


@pytest.mark.parametrize("path", ["", "/steps", "/events", "/history"])
async def test_unknown_runs_are_not_found(api: Api, client: Client, path: str) -> None:
    """A 404 names the id; a workflow that is no run is unknown too, and an id that cannot be one is invalid."""
    stranger = unique("stranger")
    await client.start_workflow("Other", id=stranger, task_queue=api.settings.task_queue)

    unknown = await api.http.get(f"/v1/runs/run-0{path}")
    other = await api.http.get(f"/v1/runs/{stranger}{path}")
    impossible = await api.http.get(f"/v1/runs/a%00b{path}")

    assert (unknown.status_code, other.status_code, impossible.status_code) == (404, 404, 422)
    assert unknown.json()["type"] == "urn:perdure:problem:run-not-found"
    assert "'run-0'" in unknown.json()["detail"]


async def test_a_workflow_that_is_no_run_cannot_be_cancelled(api: Api, client: Client) -> None:
    """The API reaches runs only."""
    stranger = unique("stranger")
    handle = await client.start_workflow("Other", id=stranger, task_queue=api.settings.task_queue)

    response = await api.http.post(f"/v1/runs/{stranger}/cancel")

    assert response.status_code == 404
    assert not [e async for e in handle.fetch_history_events() if "CancelRequested" in str(e.WhichOneof("attributes"))]


async def test_a_run_of_several_executions_is_one_run(restless: Api) -> None:
    """After continue-as-new it is listed once, dated by its first start, and repeating its request starts nothing."""
    body, headers = {"agent": "tester", "input": "go"}, {"Idempotency-Key": "k"}
    looks = [LOOK] * 12
    async with restless.worker(in_turns(*looks, answer("done"))):
        first = (await restless.http.post("/v1/runs", json=body, headers=headers)).json()
        before = await restless.get(f"/v1/runs/{first['run_id']}")
        run = await restless.ended(first["run_id"])
    again = (await restless.http.post("/v1/runs", json=body, headers=headers)).json()
    listed = await eventually(lambda: restless.listed(status="completed"))
    executions = (await restless.temporal.count_workflows(f"WorkflowId = '{first['run_id']}'")).count

    assert executions > 2
    assert [item["run_id"] for item in listed] == [again["run_id"]] == [first["run_id"]]
    assert (first["created"], again["created"]) == (True, False)
    assert run["started_at"] == before["started_at"] == listed[0]["started_at"]
    assert (run["steps"], run["agent"], listed[0]["agent"]) == (25, "tester", "tester")
