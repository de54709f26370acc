"""Scorings over HTTP: who has judged a run, and who has failed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from temporalio.client import Client

from perdure import ScoredRun
from perdure.testing import eventually
from tests.api.conftest import Api, shop
from tests.harness import answer, in_turns


async def test_a_run_tells_who_has_judged_it_and_who_has_failed(client: Client) -> None:
    """The score is in the run's feedback too, by the scorer's name; the failure touches nothing else."""
    app = shop(scorers=("answered", "broken"))

    @app.scorer()
    def answered(run: ScoredRun) -> bool:
        return bool(run.output)

    @app.scorer(max_attempts=1)
    def broken(run: ScoredRun) -> float:
        raise LookupError("no customer AKIAIOSFODNN7EXAMPLE")

    api = Api(client, app=app)
    async with api.http, api.worker(in_turns(answer("Done."))):
        run_id = await api.start()
        run = await api.ended(run_id)

        async def over() -> list[dict[str, Any]]:
            items: list[dict[str, Any]] = (await api.get(f"/v1/runs/{run_id}/scorings"))["items"]
            return items if [item["status"] for item in items].count("under_way") == 0 and len(items) == 2 else []

        items = await eventually(over, within=timedelta(seconds=20), what="both scorings")
        [given] = (await api.get(f"/v1/runs/{run_id}/feedback"))["items"]

    by_name = {item["scorer"]: item for item in items}
    assert run["status"] == "completed"
    assert (by_name["answered"]["status"], by_name["answered"]["score"], by_name["answered"]["error"]) == (
        "done",
        1,
        None,
    )
    assert (by_name["broken"]["status"], by_name["broken"]["attempts"]) == ("failed", 1)
    assert by_name["broken"]["error"]["type"] == "scorer_broke"
    assert "AKIA" not in str(items)
    assert (given["by"], given["score"]) == ("scorer:answered", 1)
