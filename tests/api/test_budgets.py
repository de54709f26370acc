"""Budgets over the API: a run that is out of one says so, and a human can add to it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from temporalio.client import Client

from perdure.settings import Price, Settings
from perdure_api.schemas import DecisionRequest
from tests.api.conftest import Api, shop
from tests.harness import answer, in_turns

PRICES = {"in-process:scripted": Price(input=Decimal(100), output=Decimal(100))}
LIMIT = {"max_cost_usd": "0.01"}
"""Less than a call could cost."""


def new_name() -> str:
    """Return a name that nothing else has."""
    return uuid.uuid4().hex[:12]


@pytest.fixture
async def asking(client: Client) -> AsyncIterator[Api]:
    """The shop, whose agent asks for more money."""
    settings = Settings(task_queue=f"queue-{new_name()}", prices=PRICES)
    api = Api(client, app=shop(on_budget="ask"), settings=settings)
    async with api.http:
        yield api


async def test_a_human_adds_to_a_budget(asking: Api) -> None:
    """The question says how the budget stands; an amount lets the run go on, and anything else is told."""
    async with asking.worker(in_turns(answer("Done."))):
        run_id = await asking.start(limits=LIMIT)
        asked = await asking.approval(run_id)
        path = f"/v1/runs/{run_id}/approvals/{asked['approval_id']}"
        plain = await asking.http.post(path, json={"decision": "approve", "decided_by": "ann"})
        mixed = await asking.http.post(
            path, json={"decision": "approve", "decided_by": "ann", "amount_usd": 5, "outcome": "done"}
        )
        typed = DecisionRequest(decision="approve", decided_by="ann", amount_usd=Decimal(5), arguments=None, grant=None)
        decided = await asking.http.post(path, json=typed.model_dump(mode="json"))
        run = await asking.ended(run_id)

    assert (asked["kind"], asked["arguments"]["budget"]) == ("budget", "max_cost_usd")
    assert (plain.status_code, mixed.status_code, decided.status_code) == (422, 422, 200)
    assert "amount_usd" in plain.json()["detail"]
    assert "takes no outcome" in mixed.json()["detail"]
    assert (run["status"], run["output"]) == ("completed", "Done.")


async def test_an_inbox_can_leave_budgets_out(asking: Api) -> None:
    """Questions for money have a kind of their own to filter by."""
    org = f"org-{new_name()}"
    async with asking.worker(in_turns(answer("Done."))):
        run_id = await asking.start(limits=LIMIT, org=org)
        await asking.approval(run_id)
        money = await asking.get("/v1/approvals", org=org, kind="budget")
        calls = await asking.get("/v1/approvals", org=org, kind="call")

    assert [asked["run_id"] for asked in money["items"]] == [run_id]
    assert calls["items"] == []


async def test_a_run_says_which_budget_stopped_it(client: Client) -> None:
    """Reason and refusal are in the run and in its last event; the list finds it by its status."""
    api = Api(client, settings=Settings(task_queue=f"queue-{new_name()}", prices=PRICES))
    user = new_name()
    async with api.http, api.worker(in_turns(answer("Done."))):
        run_id = await api.start(limits=LIMIT, user=user)
        run = await api.ended(run_id)
        events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]
        listed = await api.listed(user=user, status="out_of_budget")

    assert run["status"] == "out_of_budget"
    assert (run["refusal"]["budget"], run["refusal"]["per"]) == ("max_cost_usd", "run")
    assert run["reason"].startswith("budget 'max_cost_usd': of $0.01 for this run, $0 is spent")
    assert [event["kind"] for event in events][-2:] == ["budget.refused", "run.ended"]
    assert events[-1]["refusal"] == run["refusal"]
    assert [one["run_id"] for one in listed] == [run_id]
