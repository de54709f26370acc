"""`GET /v1/usage`: what was used, from closed days and from today, summed up as wanted, on whoever's word it takes."""

from __future__ import annotations

import csv
import io
import time
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.testing import WorkflowEnvironment

from perdure.contracts import Usage
from perdure.ledger.contracts import LEDGER_NAME, PAGE_NAME, ModelUse, PageRecord, UsageRow, page_id
from perdure.search_attributes import MEMO_DAY, ORG
from perdure.settings import Settings
from perdure.testing import eventually
from tests.api.conftest import Api, bearer, required, shop
from tests.harness import answer, in_turns
from tests.workflows.money import new_org


def row(user: str | None, agent: str, model: str, *, calls: int = 1, cost: str = "0", **tokens: int) -> UsageRow:
    """Return a row of usage."""
    use = ModelUse(calls=calls, usage=Usage(**tokens), cost_usd=Decimal(cost))
    return UsageRow(user=user, agent=agent, model=model, use=use)


async def write_page(client: Client, org: str, day: str, *rows: UsageRow, number: int = 0) -> None:
    """Have a day's page as a ledger would have written it; no worker ever sees it."""
    page = PageRecord(org=org, day=day, number=number, ledger=uuid.uuid4().hex, rows=rows)
    await client.start_workflow(
        PAGE_NAME,
        page,
        id=page_id(page),
        task_queue=f"nobody-{uuid.uuid4().hex}",
        memo={MEMO_DAY: day},
        search_attributes=TypedSearchAttributes([SearchAttributePair(ORG, org)]),
    )


async def read(api: Api, rows: int, **query: Any) -> dict[str, Any]:
    """Wait until a report has so many rows, as lists are a little behind, and return it."""

    async def report() -> dict[str, Any]:
        found: dict[str, Any] = await api.get("/v1/usage", **query)
        return found if len(found["items"]) == rows else {}

    return await eventually(report, within=timedelta(seconds=20), what=f"{rows} rows of usage")


@pytest.fixture
async def org(env: WorkflowEnvironment) -> str:
    """An organisation with three days of usage, on four pages."""
    client, name = env.client, new_org()
    await write_page(
        client,
        name,
        "2020-03-25",
        row("ann", "support", "m:a", calls=2, cost="0.5", input_tokens=100, cache_read_tokens=50, output_tokens=10),
        row("bob", "support", "m:b", cost="0.25", input_tokens=100),
    )
    await write_page(client, name, "2020-03-25", row("cat", "sales", "m:a", cost="0.05"), number=1)
    await write_page(client, name, "2020-03-26", row("ann", "sales", "m:a", cost="0.1", input_tokens=10))
    await write_page(client, name, "2020-03-27", row(None, "support", "m:a", cost="1"))
    return name


async def test_days_are_summed_up_as_wanted(api: Api, org: str) -> None:
    """Several pages of a day are one day; any of the five names sums up, and the total is of all rows."""
    report = await read(api, 3, **{"org": org, "from": "2020-03-25", "to": "2020-03-27"})
    by_user = await read(api, 4, **{"org": org, "from": "2020-03-25", "group_by": "user"})
    both = await read(api, 3, **{"org": org, "from": "2020-03-25", "group_by": "agent,model"})

    assert [(item["day"], item["calls"], item["cost_usd"]) for item in report["items"]] == [
        ("2020-03-25", 4, "0.80"),
        ("2020-03-26", 1, "0.1"),
        ("2020-03-27", 1, "1"),
    ]
    assert (report["from"], report["to"], report["complete"]) == ("2020-03-25", "2020-03-27", True)
    assert (report["total"]["calls"], Decimal(report["total"]["cost_usd"])) == (6, Decimal("1.9"))
    assert report["items"][0]["cached_share"] == 0.25
    assert [(item["user"], item["calls"]) for item in by_user["items"]] == [
        (None, 1),
        ("ann", 3),
        ("bob", 1),
        ("cat", 1),
    ]
    assert [(item["agent"], item["model"], item["calls"]) for item in both["items"]] == [
        ("sales", "m:a", 2),
        ("support", "m:a", 3),
        ("support", "m:b", 1),
    ]


async def test_filters_and_the_period_leave_rows_out(api: Api, org: str) -> None:
    """A report has what passes its filters, and nothing of another organisation or another day."""
    assert (await read(api, 1, **{"org": org, "from": "2020-03-26", "to": "2020-03-26"}))["total"]["calls"] == 1
    ann = {"org": org, "from": "2020-03-25", "user": "ann"}
    assert (await read(api, 2, **ann))["total"]["calls"] == 3
    assert (await read(api, 1, **ann, agent="sales"))["total"]["calls"] == 1
    assert (await read(api, 1, **{"org": org, "from": "2020-03-01", "model": "m:b"}))["total"]["calls"] == 1
    assert (await read(api, 0, **{"org": new_org(), "from": "2020-03-01"}))["total"]["calls"] == 0


async def test_a_report_can_be_csv(api: Api, org: str) -> None:
    """By `format` or by `Accept`; names that a spreadsheet would run are harmless."""
    await write_page(api.temporal, org, "2020-03-28", row('=cmd|"/c calc"!A1', "support", "m:a", cost="0.000001"))
    query = {"org": org, "from": "2020-03-25", "group_by": "user,model"}
    await read(api, 5, **query)

    asked = await api.http.get("/v1/usage", params={**query, "format": "csv"})
    accepted = await api.http.get("/v1/usage", params=query, headers={"Accept": "text/csv"})
    overruled = await api.http.get("/v1/usage", params={**query, "format": "json"}, headers={"Accept": "text/csv"})

    assert asked.text == accepted.text
    assert asked.headers["content-type"].startswith("text/csv")
    assert asked.headers["x-perdure-complete"] == "true"
    assert overruled.headers["content-type"] == "application/json"
    rows = list(csv.DictReader(io.StringIO(asked.text)))
    assert [(one["user"], one["model"], one["calls"], one["cost_usd"]) for one in rows] == [
        ("", "m:a", "1", "1"),
        ('\'=cmd|"/c calc"!A1', "m:a", "1", "0.000001"),
        ("ann", "m:a", "3", "0.6"),
        ("bob", "m:b", "1", "0.25"),
        ("cat", "m:a", "1", "0.05"),
    ]


async def test_today_is_asked_of_the_ledger(api: Api) -> None:
    """What a run used shows as soon as it has ended; without a worker the report says what it lacks."""
    org = new_org()
    async with api.worker(in_turns(answer("Done."))):
        await api.ended(await api.start(org=org, user="ann"))
        report = await read(api, 1, org=org, group_by="user,agent,model")
    silent = await api.get("/v1/usage", org=org)

    [item] = report["items"]
    assert (item["user"], item["agent"], item["model"]) == ("ann", "tester", "in-process:scripted")
    assert (item["calls"], item["unpriced_calls"], item["input_tokens"]) == (1, 1, 10)
    assert report["complete"] is True
    assert (silent["items"], silent["complete"], silent["silent_orgs"]) == ([], False, [org])


async def test_ledgers_that_do_not_answer_hold_no_report_up(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: they are asked together, for a few seconds, and those left over are named."""
    org = new_org()
    for _ in range(2):
        ledger = uuid.uuid4().hex
        of_org = TypedSearchAttributes([SearchAttributePair(ORG, org)])
        await api.temporal.start_workflow(
            LEDGER_NAME, id=ledger, task_queue=f"nobody-{ledger}", search_attributes=of_org
        )
    monkeypatch.setattr("perdure_api.usage.PATIENCE", timedelta(seconds=1))
    monkeypatch.setattr("perdure_api.usage.ASKED_AT_ONCE", 1)

    async def listed() -> dict[str, Any]:
        began = time.monotonic()
        report: dict[str, Any] = await api.get("/v1/usage", org=org)
        assert time.monotonic() - began < 2
        return report if len(report["silent_orgs"]) == 2 else {}

    report = await eventually(listed, within=timedelta(seconds=20), what="both ledgers")
    assert (report["complete"], report["silent_orgs"]) == (False, [org, org])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"group_by": "team"}, "query.group_by.0"),
        ({"group_by": ""}, "query.group_by.0"),
        ({"from": "yesterday"}, "query.from"),
        ({"format": "xml"}, "query.format"),
        ({"until": "2026-11-01"}, "query.until"),
    ],
)
async def test_a_wrong_query_is_told(api: Api, query: dict[str, str], field: str) -> None:
    """A name that is no dimension, a day that is none: each is named."""
    response = await api.http.get("/v1/usage", params=query)

    assert response.status_code == 422
    assert [problem["field"] for problem in response.json()["errors"]] == [field]


async def test_a_period_that_ends_before_it_begins_is_refused(api: Api) -> None:
    """The two days are told."""
    response = await api.http.get("/v1/usage", params={"from": "2026-11-02", "to": "2026-11-01"})

    assert response.status_code == 422
    assert "ends on 2026-11-01, before it begins on 2026-11-02" in response.json()["detail"]


async def test_no_filter_finds_what_another_organisation_used(client: Client, org: str) -> None:
    """Its own people see an organisation's usage; to others, who ask for it by name, there is none."""
    api = Api(client, settings=required())
    days = {"from": "2020-03-25", "to": "2020-03-27"}
    async with api.http:
        api.http.headers.update(bearer(await api.key(org)))
        own = await read(api, 3, **days)
        api.http.headers.update(bearer(await api.key(None)))
        everything = await read(api, 3, **{"org": org, **days})
        api.http.headers.update(bearer(await api.key(new_org())))
        foreign = [await api.get("/v1/usage", **query) for query in (days, {"org": org}, {"org": org, **days})]

    assert own["total"]["calls"] == everything["total"]["calls"] == 6
    assert [(report["items"], report["total"]["calls"]) for report in foreign] == [([], 0)] * 3
    assert {(report["complete"], *report["silent_orgs"], *report["budgets"]) for report in foreign} == {(True,)}


async def test_a_request_may_lower_the_cost_limit_and_not_raise_it(client: Client) -> None:
    """The agent's author has the last word on what a run may cost."""
    api = Api(client, app=shop(limits={"max_cost_usd": "2"}))
    async with api.http:
        for refused in ("3", None):
            response = await api.http.post(
                "/v1/runs", json={"agent": "tester", "input": "go", "limits": {"max_cost_usd": refused}}
            )
            assert response.status_code == 422
            assert "the agent's own $2" in response.json()["detail"]
        run_id = await api.start(limits={"max_cost_usd": "0.5"})

    history = await client.get_workflow_handle(run_id).fetch_history()
    started = history.events[0].workflow_execution_started_event_attributes.input.payloads[0].data.decode()
    assert '"caps":[{"budget":"max_cost_usd","usd":"0.5"}]' in started


async def test_usage_can_be_switched_off(client: Client) -> None:
    """Without it a run that no budget counts is as it would be without any of this."""
    api = Api(client, settings=Settings(task_queue=f"queue-{uuid.uuid4().hex[:12]}", usage=False))
    async with api.http:
        run_id = await api.start()

    history = await client.get_workflow_handle(run_id).fetch_history()
    started = history.events[0].workflow_execution_started_event_attributes.input.payloads[0].data.decode()
    assert '"terms":null' in started
