"""What belongs to an organisation: runs that only its people see and start, in their own name, with roles they have."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, get_type_hints

import pytest
from temporalio.client import Client

from perdure.contracts import RunInput
from perdure.errors import RunNotFoundError
from perdure.events import RunEvent
from perdure.messages import Message
from perdure.oversight import Decision
from perdure.principal import ANYONE, OPERATOR, Principal, Scope
from perdure_activities.providers.provider import ProviderReply
from perdure_api.feedback_schemas import FeedbackRequest
from perdure_api.gateway import Gateway
from perdure_api.recovery_schemas import ForkRequest, RetryRequest
from perdure_api.schemas import (
    DecisionRequest,
    HoldRequest,
    InboxFilter,
    MessageRequest,
    NewRun,
    RevokeRequest,
    RunFilter,
)
from perdure_workflows.agent_run import AgentRun
from tests.api.conftest import Api, bearer
from tests.harness import answer, in_turns, last_results, turn, wish

REFUND = wish(("refund", {"order": "o1", "amount": 5}))


def echo(messages: list[Message]) -> ProviderReply:
    """Ask for a refund, then answer with what the model hears of it."""
    return REFUND if turn(messages) == 0 else answer(last_results(messages)[0])


def somebody(org: str | None, *, user: str = "ann", roles: tuple[str, ...] = ()) -> Principal:
    """Return a holder of a key."""
    return Principal(user=user, org=org, roles=roles, scopes=tuple(Scope), via="key", credential="k1")


def org_name() -> str:
    """Return an organisation that no other test has."""
    return f"acme-{uuid.uuid4().hex[:8]}"


BEGINNING = ("start", "prepare")
"""Methods that take the id of a run that is yet to be."""


async def started(client: Client, run_id: str) -> RunInput:
    """Return what a run was started with, as its history has it."""
    history = await client.get_workflow_handle_for(AgentRun.run, run_id).fetch_history()
    payloads = history.events[0].workflow_execution_started_event_attributes.input.payloads
    [found] = await client.data_converter.decode(payloads, [RunInput])
    assert isinstance(found, RunInput)
    return found


async def decisions(client: Client, run_id: str) -> list[Decision]:
    """Return the decisions that a run was sent, as its history has them."""
    history = await client.get_workflow_handle_for(AgentRun.run, run_id).fetch_history()
    signals = [event.workflow_execution_signaled_event_attributes for event in history.events]
    sent = [signal for signal in signals if signal.signal_name in ("approve", "reject")]
    return [(await client.data_converter.decode(signal.input.payloads, [Decision]))[0] for signal in sent]


METHODS = [
    (part, name)
    for part, kind in get_type_hints(Gateway).items()
    for name, method in inspect.getmembers(kind, inspect.isfunction)
    if not name.startswith("_") and "run_id" in inspect.signature(method).parameters and name not in BEGINNING
]
REQUESTS: dict[str, Any] = {
    "message": MessageRequest(text="hi"),
    "pause": HoldRequest(),
    "resume": HoldRequest(),
    "decide": DecisionRequest(decision="approve"),
    "revoke_for_run": RevokeRequest(),
    "give": FeedbackRequest(score=1),
    "retry": RetryRequest(),
    "fork": ForkRequest(),
}
ARGUMENTS: dict[str, Any] = {
    "approval_id": "c1-x",
    "grant_id": "g1",
    "delivery_id": "d1",
    "timeout": timedelta(seconds=1),
    "enough": bool,
    "execution_id": "01a21d5f-83d9-7799-afeb-a59352713da4",
    "reset": "0r1.5",
}


@pytest.fixture
async def owned(api: Api) -> tuple[Api, str, str]:
    """A run of an organisation, which nobody serves."""
    org = org_name()
    return api, org, await api.start(org=org)


@pytest.mark.parametrize(("part", "name"), METHODS)
async def test_no_method_of_the_gateway_reaches_anothers_run(owned: tuple[Api, str, str], part: str, name: str) -> None:
    """Whatever takes a run's id asks first whose it is: a new method cannot forget it."""
    api, _, run_id = owned
    method = getattr(getattr(api.asgi.state.gateway.of(somebody("globex")), part), name)
    given = {**ARGUMENTS, "request": REQUESTS.get(name)}
    known = {key: value for key, value in given.items() if key in inspect.signature(method).parameters}

    with pytest.raises(RunNotFoundError, match=run_id):
        await _all_of(method(run_id, **known))

    events = [event.kind for event in await api.asgi.state.gateway.runs.events(run_id)]
    assert events == ["run.started"]


async def _all_of(result: Any) -> Any:
    if isinstance(result, AsyncIterator):
        found: list[RunEvent] = [event async for event in result]
        return found
    return await result


def test_the_methods_that_name_a_run_are_found() -> None:
    """The test above looks at all of them."""
    runs = ("get", "events", "follow", "steps", "export", "cancel", "result", "ended")
    assert {*(("runs", name) for name in runs), ("approvals", "decide"), ("grants", "revoke_for_run")} <= set(METHODS)


async def test_an_operator_sees_all_and_others_their_own(owned: tuple[Api, str, str]) -> None:
    """A run without an organisation is an operator's alone."""
    api, org, run_id = owned
    nobodys = await api.start()
    gateway = api.asgi.state.gateway

    for principal in (OPERATOR, ANYONE, somebody(None)):
        assert [await gateway.of(principal).runs.ended(one) for one in (run_id, nobodys)] == [False, False]
    assert not await gateway.of(somebody(org)).runs.ended(run_id)
    with pytest.raises(RunNotFoundError):
        await gateway.of(somebody(org)).runs.ended(nobodys)


async def test_lists_hold_back_what_the_query_should_have(owned: tuple[Api, str, str], monkeypatch: Any) -> None:
    """Some databases find `acme` for `ACME`: rows are looked at again."""
    api, org, _ = owned
    await api.listed(org=org)
    foreign = api.asgi.state.gateway.of(somebody(org.upper()))
    monkeypatch.setattr("perdure_api.reach.wanted_org", lambda *_: (org,))

    page = await foreign.runs.list(RunFilter())
    inbox = await foreign.approvals.pending(InboxFilter())

    assert (page.items, inbox) == ((), [])


async def test_a_run_is_of_its_callers_organisation_and_on_its_behalf(keyed: Api) -> None:
    """Said or not; and the run's input has who started it, with which roles."""
    org = org_name()
    headers = bearer(await keyed.key(org, user="ann", roles=["support", "billing"]))
    requests: list[dict[str, Any]] = [{}, {"org": org}, {"user": "customer-7", "roles": ["support"]}]

    responses = [
        await keyed.http.post("/v1/runs", json={"agent": "tester", "input": "go", **request}, headers=headers)
        for request in requests
    ]
    inputs = [await started(keyed.temporal, response.json()["run_id"]) for response in responses]

    assert {response.status_code for response in responses} == {202}
    assert {(found.org, found.requested_by) for found in inputs} == {(org, "ann")}
    assert [found.user for found in inputs] == ["ann", "ann", "customer-7"]
    assert [found.roles for found in inputs] == [("support", "billing"), ("support", "billing"), ("support",)]


@pytest.mark.parametrize(
    "request_", [{"org": "globex"}, {"roles": ["support", "admin"]}, {"roles": ["*"]}], ids=["org", "role", "any role"]
)
async def test_a_run_has_nothing_that_its_caller_lacks(keyed: Api, request_: dict[str, Any]) -> None:
    """Neither another's organisation nor a role more: 403, and nothing is started."""
    headers = bearer(await keyed.key(org_name(), roles=["support"]))

    response = await keyed.http.post("/v1/runs", json={"agent": "tester", "input": "go", **request_}, headers=headers)

    assert (response.status_code, response.json()["type"]) == (403, "urn:perdure:problem:permission-denied")
    assert await keyed.started() == 0


async def test_an_operators_key_starts_runs_for_everybody(keyed: Api) -> None:
    """Of any organisation, with any role if it has that which stands for all."""
    headers = bearer(await keyed.key(None, user="ops", roles=["*"]))
    body = {"agent": "tester", "input": "go", "org": "globex", "roles": ["admin"]}

    response = await keyed.http.post("/v1/runs", json=body, headers=headers)
    found = await started(keyed.temporal, response.json()["run_id"])

    assert (found.org, found.user, found.roles, found.requested_by) == ("globex", "ops", ("admin",), "ops")


async def test_an_open_api_takes_what_it_is_told(api: Api) -> None:
    """Nobody is asked who calls: organisation, user and roles are the request's, and by default every role."""
    told = await started(api.temporal, await api.start(org="acme", user="ann", roles=["support"]))
    untold = await started(api.temporal, await api.start())

    assert (told.org, told.user, told.roles, told.requested_by) == ("acme", "ann", ("support",), "")
    assert (untold.org, untold.user, untold.roles, untold.requested_by) == (None, None, ("*",), "")


async def test_an_idempotency_key_is_an_organisations_own(keyed: Api) -> None:
    """The same key of another organisation is another key; of another of its own people, another request."""
    ours, theirs = org_name(), org_name()
    body, key = {"agent": "tester", "input": "go"}, {"Idempotency-Key": "mail-4711"}

    async def post(whose: str, user: str, **fields: Any) -> Any:
        headers = {**key, **bearer(await keyed.key(whose, name=user))}
        return (await keyed.http.post("/v1/runs", json={**body, **fields}, headers=headers)).json()

    first, again, said = await post(ours, "ann"), await post(ours, "ann"), await post(ours, "ann", org=ours)
    other, colleague = await post(theirs, "ann"), await post(ours, "bob")

    assert again == said == {**first, "created": False}
    assert other["created"]
    assert other["run_id"] != first["run_id"]
    assert colleague["type"] == "urn:perdure:problem:idempotency-key-reused"


async def test_a_decision_is_its_callers_own(keyed: Api) -> None:
    """With the caller's name and roles; who names somebody else is refused, and who repeats the name is not."""
    org = org_name()
    headers = bearer(await keyed.key(org, user="ann", roles=["support"]))
    keyed.http.headers.update(headers)
    async with keyed.worker(echo):
        run_id = await keyed.start()
        asked = await keyed.approval(run_id)
        address = f"/v1/runs/{run_id}/approvals/{asked['approval_id']}"
        forged = await keyed.http.post(address, json={"decision": "approve", "decided_by": "bob"})
        own = await keyed.http.post(address, json={"decision": "reject", "decided_by": "ann", "reason": "too late"})
        run = await keyed.ended(run_id)
    [sent] = await decisions(keyed.temporal, run_id)

    assert (forged.status_code, own.status_code) == (422, 200)
    assert "decided_by is 'bob', but you are 'ann'" in forged.json()["detail"]
    assert run["output"] == "Rejected by ann: too late"
    assert (sent.decided_by, sent.roles) == ("ann", ("support",))


async def test_who_decides_need_not_be_said(keyed: Api) -> None:
    """The key says it."""
    keyed.http.headers.update(bearer(await keyed.key(org_name(), user="ann")))
    async with keyed.worker(echo):
        run_id = await keyed.start()
        asked = await keyed.approval(run_id)
        path = f"/v1/runs/{run_id}/approvals/{asked['approval_id']}"
        response = await keyed.http.post(path, json={"decision": "approve"})
        await keyed.ended(run_id)
    events = (await keyed.get(f"/v1/runs/{run_id}/events"))["items"]

    assert response.status_code == 200
    assert [event["decided_by"] for event in events if event["kind"] == "approval.approved"] == ["ann"]


async def test_while_the_api_is_open_a_decision_names_who_decides(api: Api) -> None:
    """It is required then, and every role goes with it."""
    async with api.worker(echo):
        run_id = await api.start()
        asked = await api.approval(run_id)
        path = f"/v1/runs/{run_id}/approvals/{asked['approval_id']}"
        anonymous = await api.http.post(path, json={"decision": "approve"})
        named = await api.http.post(path, json={"decision": "approve", "decided_by": "bob"})
        await api.ended(run_id)
    [sent] = await decisions(api.temporal, run_id)

    assert (anonymous.status_code, named.status_code) == (422, 200)
    assert "decided_by" in anonymous.json()["detail"]
    assert (sent.decided_by, sent.roles) == ("bob", ("*",))


@pytest.mark.parametrize(("call", "field"), [("messages", "from"), ("pause", "by"), ("resume", "by")])
async def test_who_steers_is_the_caller(keyed: Api, call: str, field: str) -> None:
    """Somebody else's name is refused; the caller's stands in the record, said or not."""
    keyed.http.headers.update(bearer(await keyed.key(org_name(), user="ann")))
    run_id = await keyed.start()
    text = {"text": "hurry"} if call == "messages" else {}

    forged = await keyed.http.post(f"/v1/runs/{run_id}/{call}", json={**text, field: "bob"})
    own = await keyed.http.post(f"/v1/runs/{run_id}/{call}", json={**text, field: "ann"})
    unsaid = await keyed.http.post(f"/v1/runs/{run_id}/{call}", json=text)
    history = await keyed.temporal.get_workflow_handle(run_id).fetch_history()
    payloads = [event.workflow_execution_signaled_event_attributes.input.payloads for event in history.events]
    said = [(await keyed.temporal.data_converter.decode(payload))[0][field] for payload in payloads if payload]

    assert (forged.status_code, own.status_code, unsaid.status_code) == (422, 202, 202)
    assert f"{field} is 'bob', but you are 'ann'" in forged.json()["detail"]
    assert said == ["ann", "ann"]


async def test_who_cancels_stands_in_the_history(keyed: Api) -> None:
    """A cancellation has no field for it, so the reason says it."""
    keyed.http.headers.update(bearer(await keyed.key(org_name(), user="ann")))
    run_id = await keyed.start()

    await keyed.http.post(f"/v1/runs/{run_id}/cancel", json={"reason": "not needed"})
    events = (await keyed.get(f"/v1/runs/{run_id}/events"))["items"]

    assert events[-1]["reason"] == "by ann: not needed"


async def test_the_command_line_is_an_operator_with_a_name(api: Api) -> None:
    """Its runs are requested by whoever sits there, on nobody's behalf unless it says so."""
    ann = OPERATOR.model_copy(update={"user": "ann"})

    run = await api.asgi.state.gateway.of(ann).runs.start(NewRun(agent="tester", input="go", org="acme"))
    found = await started(api.temporal, run.run_id)

    assert (found.org, found.user, found.roles, found.requested_by) == ("acme", None, ("*",), "ann")


async def test_a_run_with_a_wait_is_answered_to_who_started_it(keyed: Api) -> None:
    """Writing is enough to be told how one's own run ended."""
    headers = bearer(await keyed.key(org_name(), scopes=["runs:write"]))
    async with keyed.worker(in_turns(answer("done"))):
        response = await keyed.http.post("/v1/runs?wait=20", json={"agent": "tester", "input": "go"}, headers=headers)

    assert (response.status_code, response.json()["output"]) == (200, "done")
