"""A caller of the HTTP API who does not give up: each request is repeated until the API answers it."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

import httpx2

from perdure.contracts import RunStatus
from perdure.messages import JsonObject
from perdure.oversight import PendingApproval
from perdure.testing import eventually
from perdure_api.schemas import DecisionRequest, InboxApproval, RunDetail

PATIENCE = timedelta(seconds=60)
AWAY = (502, 503, 504)
"""What an API whose Temporal server is away may answer."""


class Caller:
    """Starts runs and decides on approvals, over connections that break."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self.starts: Counter[bool] = Counter()
        """Answers to requests for a run: how many created one, and how many found it there."""

    async def start(self, task: str, *, key: str) -> str:
        """Start a run and return its id; whoever asks twice gets the same run."""

        async def ask() -> str:
            answer = await self._answer("POST", "/v1/runs", json={"agent": "clerk", "input": task}, key=key)
            if answer is None:
                return ""
            started = _content(answer, 202)
            self.starts[bool(started["created"])] += 1
            return str(started["run_id"])

        run_id = await eventually(ask, within=PATIENCE, what=f"the start of {task!r}")
        if random.random() < 0.5:  # as a client does that never saw the first answer
            assert await eventually(ask, within=PATIENCE, what=f"the repeated start of {task!r}") == run_id
        return run_id

    async def run(self, run_id: str) -> RunDetail:
        """Return a run as it is now."""

        async def ask() -> RunDetail | None:
            answer = await self._answer("GET", f"/v1/runs/{run_id}")
            return None if answer is None else RunDetail.model_validate(_content(answer, 200))

        detail = await eventually(ask, within=PATIENCE, what=f"the run {run_id!r}")
        assert detail is not None
        return detail

    async def ended_runs(self) -> int:
        """Return how many runs have ended, by the lists; none while the API does not answer."""
        answer = await self._answer("GET", "/v1/runs?limit=1000")
        if answer is None:
            return 0
        return sum(RunStatus(item["status"]).ended for item in _content(answer, 200)["items"])

    async def inbox(self) -> list[InboxApproval] | None:
        """Return the pending approvals of all runs; None while the API does not answer."""
        answer = await self._answer("GET", "/v1/approvals")
        if answer is None:
            return None
        return [InboxApproval.model_validate(item) for item in _content(answer, 200)["items"]]

    async def decide(self, run_id: str, approval: PendingApproval, decision: DecisionRequest) -> bool:
        """Decide once; False if the API did not answer, so that nobody knows whether it heard."""
        path = f"/v1/runs/{run_id}/approvals/{approval.approval_id}"
        answer = await self._answer("POST", path, json=decision.model_dump(mode="json", exclude_none=True))
        if answer is None:
            return False
        assert answer.status_code in (200, 202, 409), answer.text  # 409: an earlier request got through after all
        return True

    async def _answer(
        self, method: str, path: str, *, json: JsonObject | None = None, key: str | None = None
    ) -> httpx2.Response | None:
        headers = {"Idempotency-Key": key} if key else {}
        try:
            answer = await self._http.request(method, path, json=json, headers=headers)
        except httpx2.TransportError:
            return None
        return None if answer.status_code in AWAY else answer


def _content(answer: httpx2.Response, expected: int) -> JsonObject:
    assert answer.status_code == expected, f"{answer.request.method} {answer.request.url}: {answer.text}"
    content: JsonObject = answer.json()
    return content
