"""Retrying many runs by one request: which ones, how fast, and what became of each."""

from __future__ import annotations

from typing import Any

from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from perdure.messages import Message
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from tests.api.conftest import Api, bearer, required
from tests.api.test_organisations import org_name
from tests.harness import answer, turn, wish

LOOK = wish(("look", {"order": "o1"}))


class Outage:
    """A model that is gone until somebody mends it; the first turn of each run was before that."""

    def __init__(self) -> None:
        self.over = False

    def __call__(self, messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            return LOOK
        if not self.over:
            raise ApplicationError("the model is gone", type="model_unknown", non_retryable=True)
        return answer("Done.")


async def retries(api: Api, **request: Any) -> dict[str, Any]:
    """Send a request that is taken."""
    response = await api.http.post("/v1/retries", json=request)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


async def test_what_a_filter_finds_goes_on_page_by_page(client: Client) -> None:
    """A dry run changes nothing; then each run goes on, once, and no organisation reaches those of another."""
    api, org = Api(client, settings=required()), org_name()
    outage = Outage()
    async with api.http, api.worker(outage):
        api.http.headers.update(bearer(await api.key(org)))
        ids = [await api.start() for _ in range(3)]
        for run_id in ids:
            await api.ended(run_id)
        await api.listed(3, status="failed")
        wanted: dict[str, Any] = {"runs": {"error": "model_unknown"}, "reason": "it is back"}
        foreign = await api.http.post("/v1/retries", json={"runs": {}}, headers=bearer(await api.key("globex-" + org)))
        dry = await retries(api, **wanted, dry_run=True)
        untouched = await api.listed(3, status="failed")
        outage.over = True
        first = await retries(api, **wanted, limit=2)
        second = await retries(api, **wanted, limit=2, page_token=first["next_page_token"])
        ended = [await api.ended(run_id) for run_id in ids]
        again = await retries(api, **wanted)

    assert foreign.json()["items"] == []
    assert {item["run_id"] for item in dry["items"]} == {item["run_id"] for item in untouched} == set(ids)
    assert {(item["status"], item["error"], item["retried"]) for item in dry["items"]} == {(202, "", None)}
    done = [*first["items"], *second["items"]]
    assert (len(first["items"]), sorted(item["run_id"] for item in done)) == (2, sorted(ids))
    assert all(item["retried"]["created"] and item["error_type"] == "model_unknown" for item in done)
    assert {run["output"] for run in ended} == {"Done."}
    assert again["items"] == []


async def test_what_cannot_be_retried_is_told_why(client: Client) -> None:
    """In a dry run as in a real one, and the others go on all the same."""
    api, org = Api(client, settings=required()), org_name()
    async with api.http:
        api.http.headers.update(bearer(await api.key(org)))
        unserved = await api.start()
        await client.get_workflow_handle(unserved).terminate("nobody served it")
        async with api.worker(Outage()):
            served = await api.start()
            await eventually(lambda: _took_a_step(api, served), what="a step of the run")
            await client.get_workflow_handle(served).terminate("by mistake")
            await api.listed(2, status="terminated")
            dry = await retries(api, runs={"status": "terminated"}, dry_run=True)
            real = await retries(api, runs={"status": "terminated"})

    for told in (dry, real):
        became = {item["run_id"]: item for item in told["items"]}
        assert became[unserved]["status"] == 409
        assert "no worker had begun with it" in became[unserved]["error"]
        assert became[served]["status"] == 202
    assert {item["run_id"] for item in real["items"] if item["retried"]} == {served}


async def _took_a_step(api: Api, run_id: str) -> bool:
    return bool((await api.get(f"/v1/runs/{run_id}/steps"))["items"])


async def test_a_request_names_ends_that_can_be_retried(api: Api) -> None:
    """Answers, cancellations and open runs are no filter for it, nor is a rate of nothing."""
    for wrong in ({"runs": {"status": "completed"}}, {"per_second": 0}, {"limit": 101}, {"page_token": "nonsense"}):
        response = await api.http.post("/v1/retries", json=wrong)

        assert response.status_code == 422, wrong
