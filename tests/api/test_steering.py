"""Messages, pauses and resumes over HTTP: stored without a worker, refused when they cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.contracts import MAX_MESSAGE_BYTES
from perdure.messages import UserMessage
from perdure.testing import eventually
from tests.api.conftest import Api
from tests.harness import answer, in_turns, wish

REFUND = wish(("refund", {"order": "o1", "amount": 5}))
CALLS = ("messages", "pause", "resume")


async def test_a_run_is_paused_spoken_to_and_resumed(api: Api) -> None:
    """Status and lists say so with a worker and without one, and the events tell it."""
    async with api.worker(in_turns(REFUND)):
        run_id = await api.start()
        asked = await api.approval(run_id)
        paused = await api.http.post(f"/v1/runs/{run_id}/pause", json={"by": "ann", "reason": "lunch"})
        [listed] = await api.listed(agent="tester", status="paused")
        live = await api.get(f"/v1/runs/{run_id}")
        waiting = (await api.get("/v1/runs", status="waiting"))["items"]
        running = (await api.get("/v1/runs", status="running"))["items"]
    stored = await api.get(f"/v1/runs/{run_id}")
    said = await api.http.post(f"/v1/runs/{run_id}/messages", json={"text": "Hurry.", "from": "ann"})
    resumed = await api.http.post(f"/v1/runs/{run_id}/resume")
    async with api.worker(lambda messages: answer(f"heard {messages[-1] == UserMessage(text='Hurry.')}")):
        decision = {"decision": "approve", "decided_by": "ann"}
        await eventually(lambda: _resumed(api, run_id))
        await api.http.post(f"/v1/runs/{run_id}/approvals/{asked['approval_id']}", json=decision)
        ended = await api.ended(run_id)
    kinds = [event["kind"] for event in (await api.get(f"/v1/runs/{run_id}/events"))["items"]]

    assert (paused.status_code, said.status_code, resumed.status_code) == (202, 202, 202)
    assert paused.json() == {"run_id": run_id}
    assert (live["status"], stored["status"], listed["run_id"]) == ("paused", "paused", run_id)
    assert live["paused"]["by"] == stored["paused"]["by"] == "ann"
    assert stored["pending_approvals"] == [asked]
    assert run_id not in [run["run_id"] for run in waiting + running]
    assert (ended["output"], ended["paused"]) == ("heard True", None)
    assert [kind for kind in kinds if kind in ("run.paused", "message.received", "run.resumed")] == [
        "run.paused",
        "message.received",
        "run.resumed",
    ]


@pytest.mark.parametrize("call", CALLS)
async def test_what_has_ended_or_never_was_cannot_be_steered(api: Api, call: str) -> None:
    """An ended run is a conflict, an unknown one is not found."""
    async with api.worker(in_turns(answer("done"))):
        run_id = await api.start()
        await api.ended(run_id)

    ended = await api.http.post(f"/v1/runs/{run_id}/{call}", json={"text": "hi"} if call == "messages" else {})
    unknown = await api.http.post(f"/v1/runs/nope/{call}", json={"text": "hi"} if call == "messages" else {})

    assert (ended.status_code, ended.json()["type"]) == (409, "urn:perdure:problem:conflict")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:perdure:problem:run-not-found")


@pytest.mark.parametrize(
    ("call", "body", "status"),
    [
        ("messages", {}, 422),
        ("messages", {"text": "  "}, 422),
        ("messages", {"text": "hi", "from": "two\nlines"}, 422),
        ("messages", {"text": "hi", "by": "ann"}, 422),
        ("messages", {"text": "x" * (MAX_MESSAGE_BYTES + 1)}, 413),
        ("pause", {"by": ""}, 422),
        ("resume", {"because": "why not"}, 422),
    ],
)
async def test_what_cannot_count_is_refused_before_it_is_sent(
    api: Api, call: str, body: dict[str, Any], status: int
) -> None:
    """A signal could not be refused: nothing of it reaches the run."""
    run_id = await api.start()

    response = await api.http.post(f"/v1/runs/{run_id}/{call}", json=body)
    events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]

    assert response.status_code == status
    assert [event["kind"] for event in events] == ["run.started"]


async def _resumed(api: Api, run_id: str) -> bool:
    run: dict[str, Any] = await api.get(f"/v1/runs/{run_id}")
    return run["live"] is True and run["status"] == "waiting"
