"""Approvals over HTTP: the inbox over all runs, decisions that count, and those that are refused unsent."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client

from perdure.messages import Message
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from tests.api.conftest import Api
from tests.harness import answer, last_results, turn, wish

REFUND = wish(("refund", {"order": "o1", "amount": 5}))


def echo(messages: list[Message]) -> ProviderReply:
    """Ask for a refund, then answer with what the model hears of it."""
    return REFUND if turn(messages) == 0 else answer(last_results(messages)[0])


async def decide(api: Api, run_id: str, approval_id: str, **request: Any) -> httpx2.Response:
    """Decide as ann."""
    return await api.http.post(
        f"/v1/runs/{run_id}/approvals/{approval_id}",
        content=json.dumps({"decided_by": "ann", **request}),
        headers={"Content-Type": "application/json"},
    )


async def test_an_approval_lets_the_call_run(api: Api) -> None:
    """The answer says that the run has taken the decision."""
    async with api.worker(echo):
        run_id = await api.start()
        asked = await api.approval(run_id)
        response = await decide(api, run_id, asked["approval_id"], decision="approve", digest=asked["digest"])
        run = await api.ended(run_id)

    assert (response.status_code, response.json()["confirmed"]) == (200, True)
    assert run["output"] == "refunded 5 for o1"


async def test_a_rejection_tells_the_model_why(api: Api) -> None:
    """The run goes on with the reason."""
    async with api.worker(echo):
        run_id = await api.start()
        asked = await api.approval(run_id)
        response = await decide(api, run_id, asked["approval_id"], decision="reject", reason="too late")
        run = await api.ended(run_id)

    assert response.status_code == 200
    assert run["output"] == "Rejected by ann: too late"


async def test_edited_arguments_run_in_place_of_the_models(api: Api) -> None:
    """They are checked against the tool's schema first."""
    async with api.worker(echo):
        run_id = await api.start()
        asked = await api.approval(run_id)
        wrong = await decide(
            api, run_id, asked["approval_id"], decision="approve", arguments={"order": "o1", "amount": "lots"}
        )
        right = await decide(
            api, run_id, asked["approval_id"], decision="approve", arguments={"order": "o1", "amount": 3}
        )
        run = await api.ended(run_id)

    assert (wrong.status_code, right.status_code) == (422, 200)
    assert "amount" in wrong.json()["detail"]
    assert run["output"].endswith("refunded 3 for o1")


async def test_a_decision_counts_once(api: Api) -> None:
    """Of two people who decide at the same time one is told that the other was first; later ones are too."""
    async with api.worker(echo):
        run_id = await api.start()
        asked = await api.approval(run_id)
        responses = await asyncio.gather(
            *[
                decide(api, run_id, asked["approval_id"], decision=decision, decided_by=name)
                for name, decision in [("ann", "approve"), ("bob", "reject")]
            ]
        )
        await api.ended(run_id)
        late = await decide(api, run_id, asked["approval_id"], decision="approve")

    assert sorted(response.status_code for response in responses) == [200, 409]
    assert late.status_code == 409


async def test_a_decision_is_kept_until_a_worker_comes(api: Api) -> None:
    """Without a worker the answer is 202, and the decision takes effect when there is one."""
    async with api.worker(echo):
        run_id = await api.start()
        asked = await api.approval(run_id)
        await eventually(lambda: api.listed(status="waiting"))
    response = await decide(api, run_id, asked["approval_id"], decision="approve")
    async with api.worker(echo):
        run = await api.ended(run_id)

    assert (response.status_code, response.json()["confirmed"]) == (202, False)
    assert run["output"] == "refunded 5 for o1"


REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "another digest": ({"decision": "approve", "digest": "0" * 64}, 409, "digest"),
    "no digest": ({"decision": "approve", "digest": "yes"}, 422, "digest"),
    "nobody": ({"decision": "approve", "decided_by": " "}, 422, "decided_by"),
    "no decision": ({}, 422, "decision"),
    "another decision": ({"decision": "maybe"}, 422, "decision"),
    "an outcome of a call that did not run": ({"decision": "approve", "outcome": "done"}, 422, "outcome"),
    "a result without an outcome": ({"decision": "approve", "result": "ok"}, 422, "result"),
    "a rejection with arguments": ({"decision": "reject", "arguments": {}}, 422, "arguments"),
    "arguments that are no object": ({"decision": "approve", "arguments": [1]}, 422, "arguments"),
    "half a surrogate pair": ({"decision": "approve", "arguments": {"order": "\ud800", "amount": 1}}, 422, "surrogate"),
    "large arguments": ({"decision": "approve", "arguments": {"order": "x" * 300_000, "amount": 1}}, 413, "262,144"),
    "unknown field": ({"decision": "approve", "by": "ann"}, 422, "by"),
}


async def test_what_does_not_fit_is_refused_and_not_sent(api: Api) -> None:
    """Each answer says what is wrong; the run has heard of none of them and still waits."""
    async with api.worker(echo):
        run_id = await api.start()
        asked = await api.approval(run_id)
        responses = [await decide(api, run_id, asked["approval_id"], **request) for request, _, _ in REFUSED.values()]
        unknown = await decide(api, run_id, "c9-ffffffff", decision="approve")
        elsewhere = await decide(api, "run-0", asked["approval_id"], decision="approve")
        run = await api.get(f"/v1/runs/{run_id}")
        events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]

    for response, (name, (_, status, said)) in zip(responses, REFUSED.items(), strict=True):
        assert (response.status_code, said in response.json()["detail"]) == (status, True), (name, response.text)
    assert (unknown.status_code, elsewhere.status_code) == (404, 404)
    assert unknown.json()["type"] == "urn:perdure:problem:approval-not-found"
    assert (run["status"], [event for event in events if event["kind"] == "signal.received"]) == ("waiting", [])


async def test_an_approval_of_an_ended_run_is_a_conflict(api: Api) -> None:
    """The run is over, and the answer says how."""
    async with api.worker(echo):
        run_id = await api.start()
        asked = await api.approval(run_id)
        await api.http.post(f"/v1/runs/{run_id}/cancel")
        await api.ended(run_id)

    response = await decide(api, run_id, asked["approval_id"], decision="approve")

    assert response.status_code == 409
    assert "cancelled" in response.json()["detail"]


async def test_the_inbox_has_what_waits_in_all_runs(api: Api) -> None:
    """Oldest first, with the run that asks, by filters, and without a worker."""
    org = f"acme-{uuid.uuid4().hex[:8]}"
    async with api.worker(echo):
        first = await api.start(org=org, user="ann", input="refund o1")
        await api.approval(first)
        second = await api.start(org=org, user="bob")
        await api.approval(second)

    async def inbox(**query: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await api.get("/v1/approvals", org=org, **query))["items"]
        return items

    async def both() -> bool:
        return len(await inbox()) == 2

    await eventually(both, within=timedelta(seconds=10), what="both approvals in the inbox")
    everything = await inbox()
    assert [item["run_id"] for item in everything] == [first, second]
    assert [item["run_id"] for item in await inbox(limit=1)] == [first]
    assert [item["run_id"] for item in await inbox(user="bob", agent="tester", tool="refund")] == [second]
    assert await inbox(tool="look") == await inbox(user="carl") == []
    item = everything[0]
    assert (item["tool"], item["arguments"], item["input"]) == ("refund", {"order": "o1", "amount": 5}, "refund o1")


async def test_a_decided_approval_leaves_the_inbox(api: Api) -> None:
    """The inbox has only what is still to be decided."""
    org = f"acme-{uuid.uuid4().hex[:8]}"
    async with api.worker(echo):
        run_id = await api.start(org=org)
        asked = await api.approval(run_id)
        await decide(api, run_id, asked["approval_id"], decision="approve")
        await api.ended(run_id)

    async def empty() -> bool:
        return not (await api.get("/v1/approvals", org=org))["items"]

    assert await eventually(empty, what="an empty inbox")


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"user": "a\nb"}, {"who": "ann"}])
async def test_a_wrong_filter_of_the_inbox_is_refused(api: Api, query: dict[str, Any]) -> None:
    """A filter nobody knows is a mistake, not an empty inbox."""
    response = await api.http.get("/v1/approvals", params=query)

    assert response.status_code == 422


async def test_the_web_ui_says_what_a_run_waits_for(api: Api, client: Client) -> None:
    """The current details of a waiting run name the approval, and no longer do once it is decided."""

    async def details(run_id: str) -> str:
        query = client.get_workflow_handle(run_id).query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
        found: WorkflowMetadata = await query
        return found.current_details

    async with api.worker(echo):
        run_id = await api.start()
        approval = await api.approval(run_id)
        waiting = await details(run_id)
        await decide(api, run_id, approval["approval_id"], decision="approve")
        await api.ended(run_id)
        ended = await details(run_id)

    assert f"`refund` waits for a decision on `{approval['approval_id']}`" in waiting
    assert "waits" not in ended
