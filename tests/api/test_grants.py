"""Standing grants, several approvers and many decisions at once, over HTTP."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from temporalio.client import Client

from perdure.policy import Policy
from perdure.testing import eventually
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.state import RunArguments
from tests.api.conftest import Api
from tests.api.test_approvals import decide, echo

VIEWERS = 500
ABSENT = f"perdure-grant:{'0' * 32}"


async def start_under(api: Api, rules: dict[str, Any], **fields: Any) -> str:
    """Start a run under a policy and return its id."""
    chosen = next(api.app.agents())
    policy = Policy.model_validate({"rules": [{"tool": "refund", "permission": "ask", "approval": rules}]})
    arguments = RunArguments(spec=api.app.resolve(chosen), input="go", policy=policy, **fields)
    run_id = f"run-{uuid.uuid4().hex}"
    await api.temporal.start_workflow(AgentRun.run, arguments, id=run_id, task_queue=api.settings.task_queue)
    return run_id


async def _watch(url: str, run_id: str, connected: asyncio.Semaphore) -> list[str]:
    """Follow a run's events by a raw connection to the end, and return their kinds."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    request = f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
    writer.write(request.encode())
    kinds: list[str] = []
    while line := await reader.readline():
        if line.startswith(b"event: "):
            kinds.append(line.decode().split()[1])
            if kinds[-1] == "approval.asked":
                connected.release()
            if kinds[-1] == "run.ended":
                break
    writer.close()
    return kinds


async def test_a_vote_says_how_many_more_must_approve(api: Api) -> None:
    """The first of two is taken, and the answer tells that another is needed."""
    async with api.worker(echo):
        run_id = await start_under(api, {"quorum": 2})
        asked = await api.approval(run_id)
        first = await decide(api, run_id, asked["approval_id"], decision="approve")
        again = await decide(api, run_id, asked["approval_id"], decision="approve")
        second = await decide(api, run_id, asked["approval_id"], decision="approve", decided_by="bob")
        run = await api.ended(run_id)

    assert (first.json()["confirmed"], first.json()["missing"]) == (True, 1)
    assert (again.status_code, "has approved already" in again.json()["detail"]) == (409, True)
    assert (second.json()["missing"], run["status"]) == (0, "completed")


async def test_the_inbox_shows_what_a_role_may_decide(api: Api) -> None:
    """A question for directors is not in the inbox of managers."""
    async with api.worker(echo):
        run_id = await start_under(api, {"approvers": ["director"]})
        await api.approval(run_id)

        async def listed(role: str) -> list[str]:
            items = (await api.get("/v1/approvals", role=role, limit=1000))["items"]
            return [item["run_id"] for item in items if item["run_id"] == run_id]

        await eventually(lambda: listed("director"), what="the question in the inbox")
        managers = await listed("manager")
        await api.http.post(f"/v1/runs/{run_id}/cancel")

    assert managers == []


async def test_many_decisions_count_each_by_itself(api: Api) -> None:
    """One that names nothing holds none of the others up, and is told as it would be alone."""
    async with api.worker(echo):
        runs = [await api.start() for _ in range(3)]
        asked = await asyncio.gather(*(api.approval(run_id) for run_id in runs))
        decision = {"decision": "approve", "decided_by": "ann"}
        items = [
            {**decision, "run_id": run_id, "approval_id": one["approval_id"], "digest": one["digest"]}
            for run_id, one in zip(runs, asked, strict=True)
        ]
        items.insert(1, {**decision, "run_id": "run-none", "approval_id": "c1"})
        response = await api.http.post("/v1/approvals/decisions", json={"items": items})
        ended = await asyncio.gather(*(api.ended(run_id) for run_id in runs))

    outcomes = response.json()["items"]
    assert [outcome["status"] for outcome in outcomes] == [200, 404, 200, 200]
    assert "no run has the id 'run-none'" in outcomes[1]["error"]
    assert [run["output"] for run in ended] == ["refunded 5 for o1"] * 3


async def test_a_grant_is_listed_and_revoked(api: Api) -> None:
    """Given with a decision it lets the next run's call pass; revoked, the next one is asked about; once is enough."""
    org = f"org-{uuid.uuid4().hex[:8]}"
    async with api.worker(echo):
        run_id = await api.start(org=org)
        asked = await api.approval(run_id)
        await decide(api, run_id, asked["approval_id"], decision="approve", grant="1h", reason="a good customer")
        await api.ended(run_id)
        await api.ended(await api.start(org=org))

        async def listed() -> list[dict[str, Any]]:
            items: list[dict[str, Any]] = (await api.get("/v1/grants", org=org, tool="refund"))["items"]
            return items

        [grant] = await eventually(listed, what="the grant in the list")
        address = f"/v1/grants/{grant['grant_id']}/revoke"
        revoked = await api.http.post(address, json={"by": "bob", "reason": "enough"})
        again = await api.http.post(address)
        third = await api.start(org=org)
        await api.approval(third)
        await api.http.post(f"/v1/runs/{third}/cancel")

    assert (grant["granted_by"], grant["reason"], grant["run_id"]) == (["ann"], "a good customer", run_id)
    assert (revoked.status_code, again.status_code) == (204, 409)


async def test_a_grant_for_a_run_is_in_the_run_and_revoked_there(api: Api) -> None:
    """It is no standing grant of its own: the run holds it."""
    async with api.worker(echo):
        run_id = await start_under(api, {"quorum": 1})
        asked = await api.approval(run_id)
        await decide(api, run_id, asked["approval_id"], decision="approve", grant="run")
        await api.ended(run_id)

    kinds = [event["kind"] for event in (await api.get(f"/v1/runs/{run_id}/events"))["items"]]
    assert "grant.created" in kinds
    response = await api.http.post(f"/v1/runs/{run_id}/grants/{ABSENT}/revoke")
    assert response.status_code == 409


async def test_what_is_no_grant_is_not_found(api: Api, client: Client) -> None:
    """A made-up id is answered 404, by its own problem."""
    response = await api.http.post(f"/v1/grants/{ABSENT}/revoke")

    assert (response.status_code, response.json()["type"]) == (404, "urn:perdure:problem:grant-not-found")


async def test_five_hundred_viewers_do_not_lock_an_approval_out(api: Api) -> None:
    """With 500 event streams on one run the decision is taken, and every stream tells of it and ends."""
    async with api.worker(echo), api.server() as (_, url, _):
        run_id = await api.start()
        asked = await api.approval(run_id)
        connected = asyncio.Semaphore(0)
        watching = [asyncio.create_task(_watch(url, run_id, connected)) for _ in range(VIEWERS)]
        for _ in watching:
            await connected.acquire()
        response = await decide(api, run_id, asked["approval_id"], decision="approve")
        seen = await asyncio.gather(*watching)

    assert (response.status_code, response.json()["confirmed"]) == (200, True)
    assert len(seen) == VIEWERS
    assert all("approval.approved" in kinds and kinds[-1] == "run.ended" for kinds in seen)
