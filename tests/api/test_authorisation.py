"""Every operation of the OpenAPI document, for everybody who may not call it: a new route is in here by itself."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from temporalio.client import WorkflowFailureError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.testing import WorkflowEnvironment

from perdure import Agent, App
from perdure.api_key import KeyText
from perdure.audit.record import AuditEntry, Head, seal
from perdure.codec import data_converter
from perdure.encryption import new_key
from perdure.errors import ConfigurationError
from perdure.events import RunEvent
from perdure.notice import DELIVERY_PREFIX, Notice, RunFacts
from perdure.principal import Scope
from perdure.search_attributes import AGENT, ORG, ORIGIN
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_api.application import create_app
from perdure_api.keys import Revocation
from perdure_api.logins import LoggedLoginFailures
from perdure_api.scoped_route import ALL_ORGS, FIELD, ScopedRoute
from perdure_workflows.delivery import Delivery
from tests.api.conftest import Api, bearer, required, shop
from tests.api.issuer import TestIssuer, serving_issuer
from tests.audit_stores import Place, folder_place
from tests.harness import agent, answer, in_turns, wish

OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
"""Operations for everybody: the probes."""
OPEN_PAGES = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json", "/console"}
"""What else is served; it is not in the document. Who may see what in the console is in `test_console.py`."""

REFUND = wish(("refund", {"order": "o1", "amount": 5}))
ABSENT = {
    "run_id": "run-0",
    "approval_id": "c1-x",
    "grant_id": f"perdure-grant:{'0' * 32}",
    "delivery_id": "d1",
    "schedule_id": "schedule-0123456789abcdef",
    "name": "tester",
}
STREAM = {"Accept": "text/event-stream"}


@dataclass(frozen=True)
class Operation:
    """One call of the API, as its document describes it."""

    method: str
    path: str
    description: dict[str, Any] = field(repr=False, hash=False)

    @property
    def scope(self) -> Scope:
        """What its callers need."""
        return Scope(self.description[FIELD])

    @property
    def all_orgs(self) -> bool:
        """Whether it is for callers of no organisation."""
        return ALL_ORGS in self.description

    @property
    def names_something(self) -> bool:
        """Whether it is about a run or a grant."""
        return "_id}" in self.path  # an agent's name is the app's, and no organisation's

    @property
    def body(self) -> Any:
        """A body that fits: the first example, or an empty object."""
        if "requestBody" not in self.description:
            return None
        content = self.description["requestBody"]["content"]["application/json"]
        schema = content["schema"]
        return next(iter(content.get("examples") or schema.get("examples") or [{}]))


def application() -> FastAPI:
    """Return an API that is never started."""
    app = App()
    app.add(Agent(name="a", model="in-process:scripted"))
    return create_app(app, Settings())


def document() -> dict[str, Any]:
    """Return the OpenAPI document."""
    return application().openapi()


def served(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the path of every route, those of included routers too, and whether the document has it."""
    for route in routes:
        if hasattr(route, "original_router"):
            yield from served(route.original_router.routes, prefix + route.include_context.prefix)
        else:
            yield prefix + route.path, isinstance(route, APIRoute) and route.include_in_schema


def operations(described: dict[str, Any]) -> list[Operation]:
    """Return every operation of a document."""
    return [
        Operation(method.upper(), path, description)
        for path, methods in described["paths"].items()
        for method, description in methods.items()
    ]


def without_scope(described: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the operations of a document that name no scope, or do not say that they need a key."""
    return {
        (operation.method, operation.path)
        for operation in operations(described)
        if FIELD not in operation.description or operation.description.get("security") != [{"bearer": []}]
    }


SCOPED = [operation for operation in operations(document()) if (operation.method, operation.path) not in OPEN]
IDS = [f"{operation.method} {operation.path}" for operation in SCOPED]


@dataclass
class Stage:
    """A run of acme that waits for an approval, and people who may see it or may not."""

    api: Api
    issuer: TestIssuer
    org: str
    known: dict[str, str]
    """What there is of the organisation, by the names that paths and bodies have for it."""
    insider: str
    outsider: str
    revoked: str

    @property
    def run_id(self) -> str:
        """The run that waits."""
        return self.known["run_id"]

    async def call(
        self, operation: Operation, *, headers: dict[str, str], known: dict[str, str] | None = None
    ) -> httpx2.Response:
        """Call an operation on what there is, or on what is given in its place."""
        named = {**self.known, **(known or {})}
        body = _naming(operation.body, named)
        content: dict[str, Any] = {} if body is None else {"json": body}
        return await self.api.http.request(
            operation.method, operation.path.format_map(named), headers=headers, **content
        )

    async def untouched(self) -> bool:
        """Whether nobody has done anything to the run since it asked."""
        events: list[RunEvent] = await self.api.asgi.state.gateway.runs.events(self.run_id)
        # The worker is missed if it left before the run had told its ledger.
        return [event.kind for event in events if event.kind != "worker.lost"][-1] == "approval.asked"


def _naming(body: Any, named: dict[str, str]) -> Any:
    """Return a body whose ids, and agent, are these."""
    if isinstance(body, dict):
        return {name: named.get(name, _naming(value, named)) for name, value in body.items()}
    return [_naming(item, named) for item in body] if isinstance(body, list) else body


@pytest.fixture(scope="module")
async def stage(env: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """A real run behind a real API, with payloads encrypted; the worker has left when the test begins."""
    org = f"acme-{uuid.uuid4().hex[:8]}"
    async with serving_issuer() as issuer:
        audit = folder_place(tmp_path_factory.mktemp("audit"))
        await audited(audit, org, "globex")
        settings = required(oidc=issuer.settings(), encryption_keys={"k1": new_key()}, **audit.settings)
        client = await env.connect_client(data_converter=data_converter(keyring=settings.keyring()))
        app = shop()
        app.add(agent(version="2", tools=("refund", "look")))
        api = Api(client, app=app, settings=settings, login_failures=LoggedLoginFailures())
        insider = await api.key(org)
        revoked = await api.key(org)
        parsed = KeyText.parse(revoked)
        assert parsed is not None
        await api.keys.revoke(parsed.key_id, Revocation(by="ops", reason="lost"))
        async with api.http:
            api.http.headers.update(bearer(insider))
            async with api.worker(in_turns(REFUND, answer("done"))):
                grant_id = await granted(api)
                run_id = await api.start(user="secret-customer", input="secret-input")
                asked = await api.approval(run_id)
                delivery_id = await given_up(api, run_id, org)
            await api.listed(org=org, status="waiting")
            known = {"run_id": run_id, "approval_id": asked["approval_id"], "grant_id": grant_id, "agent": "tester"}
            known |= {"name": "tester", "delivery_id": delivery_id}
            known["schedule_id"] = await scheduled(api, bearer(insider))
            del api.http.headers["Authorization"]
            yield Stage(api, issuer, org, known, insider, await api.key("globex"), revoked)


async def scheduled(api: Api, headers: dict[str, str]) -> str:
    """Make a schedule for the far future, unless there is one, and return its id."""
    body = {
        "name": "standing",
        "run": {"agent": "tester", "input": "secret-report"},
        "when": {"cron": "0 9 1 1 *"},
    }
    await api.http.post("/v1/schedules", json=body, headers=headers)
    response = await api.http.get("/v1/schedules/standing", headers=headers)
    key: str = response.json()["schedule_id"]
    return key


async def audited(audit: Place, *orgs: str) -> None:
    """Begin the chains of these organisations, each with a record of its own."""
    store = audit.store()
    await store.prepare()
    for org in orgs:
        who = "globex" if org == "globex" else "secret-auditee"
        entry = AuditEntry(at=datetime.now(UTC), org=org, kind="run.started", who=who, source="e/1.0")
        line, head = seal(entry, after=Head(), now=entry.at)
        await store.append(org, [line], tail=Head(), head=head)


async def granted(api: Api) -> str:
    """Let a call of somebody's run pass, and those to come for an hour; return the grant's id."""
    run_id = await api.start(user="secret-beneficiary")
    asked = await api.approval(run_id)
    decision = {"decision": "approve", "grant": "1h", "reason": "secret-reason"}
    await api.http.post(f"/v1/runs/{run_id}/approvals/{asked['approval_id']}", json=decision)
    await api.ended(run_id)

    async def listed() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await api.get("/v1/grants"))["items"]
        return items

    [grant] = await eventually(listed, what="the grant in the list")
    grant_id: str = grant["grant_id"]
    return grant_id


async def given_up(api: Api, run_id: str, org: str) -> str:
    """Have the run tell somebody whom nothing is sent to, as the address is inside; return the delivery's id."""
    delivery_id = uuid.uuid4().hex
    attributes = {AGENT: "tester", ORG: org, ORIGIN: run_id}
    handle = await api.temporal.start_workflow(
        Delivery.run,
        Notice(
            notice_id=delivery_id,
            url="https://10.0.0.5/secret-hook",
            format="slack",
            type="run.ended",
            at=datetime.now(UTC),
            run=RunFacts(run_id=run_id, agent="tester", version="1", org=org),
        ),
        id=f"{DELIVERY_PREFIX}{delivery_id}",
        task_queue=api.settings.task_queue,
        search_attributes=TypedSearchAttributes([SearchAttributePair(*pair) for pair in attributes.items()]),
    )
    with suppress(WorkflowFailureError):
        await handle.result()
    return delivery_id


def test_every_operation_names_a_scope() -> None:
    """But for those that are listed here by name."""
    assert without_scope(document()) == OPEN
    assert len(SCOPED) >= 13
    assert all(operation.scope in Scope for operation in SCOPED)


def test_no_page_outside_the_document_is_open_but_its_own() -> None:
    """What is served beside the operations is the document and its readers."""
    found = list(served(application().routes))

    described = {operation.path for operation in operations(document())}
    assert {path for path, in_document in found if not in_document} == OPEN_PAGES
    assert {path for path, in_document in found if in_document} == described


def test_a_route_that_forgets_its_scope_is_found() -> None:
    """A router of ours refuses it at once, and one of another kind is seen in the document."""
    with pytest.raises(ConfigurationError, match="/secrets"):
        APIRouter(route_class=ScopedRoute).add_api_route("/secrets", list)
    forgetful = FastAPI()
    forgetful.add_api_route("/secrets", list, methods=["GET"])

    assert without_scope(forgetful.openapi()) == {("GET", "/secrets")}


@pytest.mark.parametrize("operation", SCOPED, ids=IDS)
async def test_who_does_not_prove_who_it_is_gets_nowhere(stage: Stage, operation: Operation) -> None:
    """401 without a key, with garbage, another's secret, a revoked key, an expired or foreign token."""
    parsed = KeyText.parse(stage.insider)
    assert parsed is not None
    strangers = {
        "no key": {},
        "another scheme": {"Authorization": "Basic YW5uOnNlY3JldA=="},
        "garbage": bearer("garbage"),
        "an unknown key": bearer(KeyText.new().text),
        "another's secret": bearer(KeyText(parsed.key_id, KeyText.new().secret).text),
        "a revoked key": bearer(stage.revoked),
        "an expired token": bearer(stage.issuer.token(org=stage.org, exp=int(time.time()) - 60)),
        "a token for somebody else": bearer(stage.issuer.token(org=stage.org, aud="somebody else")),
    }

    responses = {who: await stage.call(operation, headers=headers) for who, headers in strangers.items()}
    unread = await stage.api.http.request(
        operation.method,
        operation.path.format_map(ABSENT),
        content=b"{" * 100_000,
        headers={"Content-Type": "application/json"},
    )

    assert {who: response.status_code for who, response in responses.items()} == dict.fromkeys(strangers, 401)
    assert unread.status_code == 401  # before the body was looked at
    for who, response in responses.items():
        challenge = "Bearer" if who in ("no key", "another scheme") else 'Bearer error="invalid_token"'
        assert response.headers["WWW-Authenticate"] == challenge, who
        assert response.json()["type"] == "urn:perdure:problem:unauthenticated"
        assert stage.org not in response.text


@pytest.mark.parametrize("operation", SCOPED, ids=IDS)
async def test_who_lacks_the_scope_gets_nowhere(stage: Stage, operation: Operation) -> None:
    """403 with all other scopes, by key and by token, of the right organisation."""
    others = [scope for scope in Scope if scope is not operation.scope]
    key = await stage.api.key(stage.org, scopes=others)
    token = stage.issuer.token(org=stage.org, scope=" ".join(others))

    responses = [await stage.call(operation, headers=bearer(text)) for text in (key, token)]

    assert [response.status_code for response in responses] == [403, 403]
    assert {response.json()["type"] for response in responses} == {"urn:perdure:problem:permission-denied"}
    assert all(operation.scope in response.json()["detail"] for response in responses)


@pytest.mark.parametrize("operation", SCOPED, ids=IDS)
async def test_to_another_organisation_the_run_does_not_exist(stage: Stage, operation: Operation) -> None:
    """404 for the run, exactly as if it had never been; and no list has a word of it."""
    for text in (stage.outsider, stage.issuer.token(org="globex")):
        response = await stage.call(operation, headers=bearer(text))
        followed = await stage.call(operation, headers={**bearer(text), **STREAM})
        absent = await stage.call(operation, headers=bearer(text), known=ABSENT)

        if operation.all_orgs:
            assert [response.status_code, followed.status_code, absent.status_code] == [403, 403, 403]
        elif operation.names_something:
            assert [response.status_code, followed.status_code, absent.status_code] == [404, 404, 404]
            assert _without(stage.known, response.text) == _without(ABSENT, absent.text)
        else:
            assert response.status_code in (200, 202, 409)  # a name is taken once, in its own organisation
            assert {item["status"] for item in _outcomes(response)} <= {404}
        for marker in (stage.org, "secret-"):
            assert marker not in response.text + followed.text


def _without(known: dict[str, str], text: str) -> str:
    """Return a text without the ids that the caller itself has sent."""
    for name in ("run_id", "approval_id", "grant_id", "delivery_id", "schedule_id"):
        text = text.replace(known[name], name)
    return text


def _outcomes(response: httpx2.Response) -> list[dict[str, Any]]:
    """Return what became of each item of a request that has several."""
    items = (response.json() if response.content else {}).get("items", [])
    return [item for item in items if isinstance(item.get("status"), int)]


@pytest.mark.parametrize("query", ["", "?org={org}"])
@pytest.mark.parametrize("path", ["/v1/runs", "/v1/approvals", "/v1/grants", "/v1/audit"])
async def test_no_filter_finds_what_is_another_organisations(stage: Stage, path: str, query: str) -> None:
    """Asking for it by name finds nothing either, while its own people find it."""
    address = f"{path}{query.format(org=stage.org)}"

    foreign = (await stage.api.http.get(address, headers=bearer(stage.outsider))).json()["items"]
    own = (await stage.api.http.get(address, headers=bearer(stage.insider))).json()["items"]
    lines = await stage.api.http.get(address, headers={**bearer(stage.outsider), "Accept": "application/x-ndjson"})

    assert [item for item in foreign if item["org"] != "globex"] == []
    assert "secret-" not in json.dumps(foreign) + lines.text
    assert "secret-" in json.dumps(own)
    assert {item["org"] for item in own} == {stage.org}


async def test_after_all_this_the_run_still_waits(stage: Stage) -> None:
    """Nothing that was refused has reached it."""
    assert await stage.untouched()


@pytest.mark.parametrize("operation", SCOPED, ids=IDS)
async def test_who_has_the_scope_is_served(stage: Stage, operation: Operation) -> None:
    """With that scope alone, by key and by token; a refusal above is no accident of the request."""
    org = None if operation.all_orgs else stage.org
    key = await stage.api.key(org, scopes=[operation.scope])
    token = key if operation.all_orgs else stage.issuer.token(org=org, scope=operation.scope)

    await scheduled(stage.api, bearer(stage.insider))  # as to delete it is one of the operations
    responses = [await stage.call(operation, headers=bearer(text)) for text in (key, token)]

    statuses = [response.status_code for response in responses]
    assert all(item["status"] < 300 for response in responses for item in _outcomes(response))
    # What is revoked cannot be revoked again, what is taken back is gone, a name is taken once, a run that waits has no
    # failure to retry, and what is sent again is under way.
    assert statuses in ([200, 200], [202, 202], [204, 409], [204, 404], [200, 409], [409, 409], [202, 409])
