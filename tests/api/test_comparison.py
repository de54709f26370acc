"""`GET /v1/agents/{name}/versions/compare`: versions side by side, by real runs and what was thought of them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from perdure import App
from perdure.messages import Message
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_api import run_statistics
from perdure_api.comparison import verdict
from perdure_api.comparison_schemas import VersionRecord
from perdure_api.proportion import wilson
from perdure_api.run_statistics import RunStatistics
from tests.api.conftest import Api, bearer, required
from tests.harness import InProcessModel, agent, answer, serving, turn, used, wish
from tests.workflows.money import PRICES, new_org

PATH = "/v1/agents/tester/versions/compare"


def library(**changes: Any) -> App:
    """An app with two versions of an agent that looks things up."""
    app = App()

    @app.tool()
    def look(order: str) -> str:
        """Look an order up."""
        return f"{order} is paid"

    @app.scorer()
    def answered(run: Any) -> float:
        """Say whether there is an answer."""
        return 1.0 if run.output else 0.0

    for version in ("1", "2"):
        app.add(agent(version=version, tools=("look",), **changes))
    return app


def script(messages: list[Message]) -> ProviderReply:
    """Look once as it should be and once as it cannot, then answer; each call costs ten cents."""
    said = wish(("look", {"order": "7"}), ("look", {"wrong": 1})) if turn(messages) == 0 else answer("paid")
    return used(said, input_tokens=900, output_tokens=100)


def record(version: str, part: int, whole: int) -> VersionRecord:
    """Return what is known of a version that succeeded so often."""
    return VersionRecord(
        version=version,
        registered=True,
        share=0,
        ended=whole,
        statistics=RunStatistics(runs=whole, judged=whole),
        success=wilson(part, whole) if whole else None,
    )


async def ended(api: Api, org: str, *, version: str, count: int, **fields: Any) -> list[str]:
    """Start runs of a version, wait until they are over, and return their ids."""
    runs = [await api.start(org=org, version=version, **fields) for _ in range(count)]
    for run_id in runs:
        await api.ended(run_id)
    return runs


async def compared(api: Api, *counts: int, **query: Any) -> dict[str, Any]:
    """Wait until so many runs of each version have ended and were scored, as lists are a little behind."""

    async def found() -> dict[str, Any]:
        said: dict[str, Any] = await api.get(PATH, **query)
        return said if [version["ended"] for version in said["versions"]] == list(counts) else {}

    return await eventually(found, within=timedelta(seconds=20), what=f"{counts} ended runs")


async def test_versions_stand_side_by_side(client: Client) -> None:
    """Success with its interval, durations, cost, failed tool calls, and what people and scorers gave, for each."""
    org = new_org()
    api = Api(client, app=library(scorers=("answered",)))
    queue = api.settings.task_queue
    async with (
        api.http,
        serving(client, api.app, InProcessModel(script), task_queue=queue, cached_runs=100, prices=PRICES),
    ):
        await api.http.put("/v1/agents/tester/rollout", json={"weights": {"1": 3, "2": 1}, "org": org, "by": "ann"})
        good = await ended(api, org, version="1", count=5)
        await ended(api, org, version="2", count=5, limits={"max_steps": 1})
        for run_id, score in zip(good, (1, 0.5), strict=False):
            await api.http.post(f"/v1/runs/{run_id}/feedback", json={"score": score, "by": "ann"})

        async def scored() -> dict[str, Any]:
            said = await compared(api, 5, 5, org=org, window="1h")
            first, second = said["versions"]
            heard = (first["feedback"] or {}).get("count") == 2
            judged = all(one["scorers"].get("answered", {}).get("count") == 5 for one in (first, second))
            return said if heard and judged else {}

        told = await eventually(scored, within=timedelta(seconds=30), what="the opinions")

    first, second = told["versions"]
    assert [(one["version"], one["registered"], one["share"]) for one in (first, second)] == [
        ("1", True, 0.75), ("2", True, 0.25),
    ]  # fmt: skip
    assert (first["statistics"]["success_rate"], second["statistics"]["success_rate"]) == (1, 0)
    assert (first["success"], second["success"]) == ({"low": 0.5655, "high": 1}, {"low": 0, "high": 0.4345})
    assert told["verdict"] == "1 succeeds more often than 2, by more than chance: their 95 % intervals are apart."
    assert (first["statistics"]["tool_calls"], first["statistics"]["tool_failure_rate"]) == (10, 0.5)
    assert first["statistics"]["duration_p95_seconds"] >= first["statistics"]["duration_p50_seconds"] > 0
    assert (float(first["cost_mean_usd"]), float(first["statistics"]["cost_usd"])) == (0.2, 1)
    assert float(second["cost_mean_usd"]) == 0.1
    assert first["feedback"] == {"count": 2, "mean": 0.75}
    assert second["feedback"] is None
    assert first["scorers"] == {"answered": {"count": 5, "mean": 1}}


async def test_a_rare_version_is_seen_among_many_runs_of_another(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has as many runs in its statistics as there may be, not what the other leaves."""
    monkeypatch.setattr(run_statistics, "MAX_ROWS", 3)
    org = new_org()
    api = Api(client, app=library())
    async with api.http, api.worker(lambda _: answer("done")):
        await ended(api, org, version="2", count=1)
        await ended(api, org, version="1", count=4)
        told = await compared(api, 4, 1, org=org)

    assert [one["statistics"]["runs"] for one in told["versions"]] == [3, 1]


async def test_a_version_that_is_gone_is_compared_too(client: Client) -> None:
    """As long as it had runs; one that is there and had none is listed."""
    org = new_org()
    api = Api(client, app=library())
    async with api.http, api.worker(lambda _: answer("done")):
        await ended(api, org, version="1", count=1)
    successor = App()
    successor.add(agent(version="3"))
    later = Api(client, app=successor, settings=api.settings)
    async with later.http:
        told = await compared(later, 1, 0, org=org)

    assert [(one["version"], one["registered"], one["share"]) for one in told["versions"]] == [
        ("1", False, 0), ("3", True, 1),
    ]  # fmt: skip
    assert told["versions"][1]["success"] is None
    assert told["verdict"] == "There are no runs of two versions to compare."


async def test_versions_are_compared_by_ones_own_organisations_runs(client: Client) -> None:
    """Another's are not counted, asked for or not; nor is an agent known that only another runs."""
    org = new_org()
    api = Api(client, app=library(), settings=required())
    async with api.http, api.worker(lambda _: answer("done")):
        mine, other = bearer(await api.key(org)), bearer(await api.key(new_org()))
        body = {"agent": "tester", "input": "go"}
        run_id = (await api.http.post("/v1/runs", json=body, headers=mine)).json()["run_id"]
        await api.http.get(f"/v1/runs/{run_id}/result", headers=mine)
        await api.http.post(f"/v1/runs/{run_id}/feedback", json={"score": 1}, headers=mine)

        async def seen() -> bool:
            [_, own] = (await api.http.get(PATH, headers=mine)).json()["versions"]
            return bool(own["ended"] == 1 and own["feedback"])

        await eventually(seen, what="the run and what is thought of it")
        foreign = [(await api.http.get(path, headers=other)).json() for path in (PATH, f"{PATH}?org={org}")]
        unknown = await api.http.get("/v1/agents/nobody/versions/compare", headers=mine)

    versions = [one for told in foreign for one in told["versions"]]
    assert {(one["ended"], one["feedback"]) for one in versions} == {(0, None)}
    assert (unknown.status_code, unknown.json()["type"]) == (422, "urn:perdure:problem:unknown-agent")


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "There are no runs of two versions to compare."),
        ([record("1", 9, 10), record("2", 0, 0)], "There are no runs of two versions to compare."),
        (
            [record("1", 90, 100), record("2", 85, 100)],
            "No version succeeds more often than another by more than chance may do: their 95 % intervals overlap.",
        ),
        (
            [record("1", 80, 100), record("2", 990, 1000), record("3", 97, 100), record("4", 1, 100)],
            "2 succeeds more often than 1 and 4, by more than chance: their 95 % intervals are apart.",
        ),
    ],
)
def test_a_verdict_is_given_only_where_intervals_are_apart(records: list[VersionRecord], said: str) -> None:
    """Else it says that nothing can be said."""
    assert verdict(records) == said
