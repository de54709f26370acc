"""`GET /v1/agents/{name}/health`: how an agent's runs went, for whom they are."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from temporalio.client import Client

from perdure.contracts import RunStatus
from perdure.testing import eventually
from perdure_api.run_statistics import EndedRun, by_version, statistics
from tests.api.conftest import Api, bearer, required
from tests.harness import answer, turn, wish
from tests.workflows.money import new_org


def run(status: RunStatus, *, seconds: float = 1, version: str = "1", **changes: Any) -> EndedRun:
    """Return a run that ended."""
    made = EndedRun(
        run_id="r", version=version, status=status, duration=timedelta(seconds=seconds), cost_usd=Decimal("0.5")
    )
    return EndedRun(**{**vars(made), **changes})


async def health(api: Api, ended: int, **query: Any) -> dict[str, Any]:
    """Wait until so many runs are in the statistics, as lists are a little behind, and return them."""

    async def found() -> dict[str, Any]:
        said: dict[str, Any] = await api.get("/v1/agents/tester/health", **query)
        return said if said["ended"] >= ended else {}

    return await eventually(found, within=timedelta(seconds=20), what=f"{ended} ended runs")


def test_statistics_judge_the_runs_that_the_agent_ended() -> None:
    """What people cancelled is no failure; percentiles are durations that a run had; a cost without a price is told."""
    runs = [run(RunStatus.COMPLETED, seconds=n, tool_calls=4, tool_errors=1) for n in range(1, 20)]
    runs += [run(RunStatus.FAILED, seconds=20, cost_usd=None), run(RunStatus.CANCELLED, seconds=999)]

    told = statistics(runs)

    assert (told.runs, told.success_rate) == (21, 0.95)
    assert (told.duration_p50_seconds, told.duration_p95_seconds) == (10, 19)
    assert (told.results_read, told.tool_calls, told.tool_failure_rate) == (19, 76, 0.25)
    assert (told.cost_usd, told.unpriced_runs) == (Decimal(10), 1)


def test_nothing_is_said_of_nothing() -> None:
    """Without runs there are no rates, rather than rates of zero; versions stand apart."""
    parts = by_version([run(RunStatus.FAILED, version="2"), run(RunStatus.CANCELLED)])

    assert statistics([]).success_rate is None
    assert statistics([]).duration_p95_seconds is None
    assert list(parts) == ["1", "2"]
    assert (parts["1"].success_rate, parts["2"].success_rate) == (None, 0.0)


async def test_health_is_of_the_runs_that_ended(api: Api) -> None:
    """Ends, durations and failed tool calls come from the runs themselves, for one organisation."""
    org = new_org()

    def script(messages: list[Any]) -> Any:
        if turn(messages) == 0:
            return wish(("look", {"order": "7"}), ("look", {"wrong": 1}))
        return answer("paid")

    async with api.worker(script):
        for _ in range(3):
            await api.ended(await api.start(org=org))
        told = await health(api, 3, org=org, window="10m")

    assert (told["agent"], told["ended"], told["open"], told["truncated"]) == ("tester", 3, 0, False)
    assert told["statistics"]["statuses"] == {"completed": 3}
    assert told["statistics"]["success_rate"] == 1
    assert told["statistics"]["tool_calls"] == 6
    assert told["statistics"]["tool_failure_rate"] == 0.5
    assert told["statistics"]["duration_p95_seconds"] > 0
    assert list(told["versions"].values()) == [told["statistics"]]


async def test_health_is_of_ones_own_organisation(client: Client) -> None:
    """A caller sees its own organisation's runs; asking for another's finds none."""
    org = new_org()
    api = Api(client, settings=required())
    async with api.http, api.worker(lambda _: answer("done")):
        mine, other = bearer(await api.key(org)), bearer(await api.key(new_org()))
        run_id = (await api.http.post("/v1/runs", json={"agent": "tester", "input": "go"}, headers=mine)).json()[
            "run_id"
        ]
        await api.http.get(f"/v1/runs/{run_id}/result", headers=mine)

        async def seen() -> bool:
            said = (await api.http.get("/v1/agents/tester/health", headers=mine)).json()
            return bool(said["ended"] == 1)

        await eventually(seen, what="the run")
        foreign = (await api.http.get("/v1/agents/tester/health", headers=other)).json()
        asked = (await api.http.get(f"/v1/agents/tester/health?org={org}", headers=other)).json()
        unscoped = await api.http.get(
            "/v1/agents/tester/health", headers=bearer(await api.key(org, scopes=("usage:read",)))
        )

    assert (foreign["ended"], foreign["open"]) == (0, 0)
    assert (asked["ended"], asked["open"]) == (0, 0)
    assert unscoped.status_code == 403


async def test_an_agent_that_nobody_knows_is_refused(api: Api) -> None:
    """A misspelled name is told, and no time is too long or too short without a word."""
    unknown = await api.http.get("/v1/agents/nobody/health")
    known = await api.get("/v1/agents/tester/health", org=new_org())
    windows = [await api.http.get(f"/v1/agents/tester/health?window={text}") for text in ("1s", "91d", "soon")]

    assert unknown.status_code == 422
    assert unknown.json()["type"].endswith("unknown-agent")
    assert known["statistics"]["success_rate"] is None
    assert [response.status_code for response in windows] == [422, 422, 422]
