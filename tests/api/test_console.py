"""The console's pages over HTTP: who sees what, which forms count, and what browsers are told not to do."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl, urlsplit

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from temporalio.client import Client

from perdure.activities import Finish
from perdure.messages import Message
from perdure.principal import Scope
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_api.console.argument_form import fields, read
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.pages import approvals, beside, fork, login, run, runs, schedules, start
from perdure_api.console.sessions import COOKIE
from perdure_api.keys import NewKey, Revocation
from tests.api.conftest import Api, required, shop
from tests.api.forms import ORIGIN, log_in, post, token
from tests.api.issuer import TestIssuer, serving_issuer
from tests.harness import answer, in_turns, wish

REFUND = wish(("refund", {"order": "A-1", "amount": 5}))
LOGIN = {"/login", "/login/oidc", "/login/callback", "/logout"}


@pytest.fixture
async def closed(client: Client) -> AsyncIterator[Api]:
    """The shop's console, for who logs in."""
    api = Api(client, settings=required(console_secret="s" * 40))
    async with api.http:
        yield api


async def start_as(api: Api, key: str) -> str:
    """Start a run by the API, with the key's organisation."""
    response = await api.http.post(
        "/v1/runs", json={"agent": "tester", "input": "go"}, headers={"Authorization": f"Bearer {key}"}
    )
    run_id: str = response.json()["run_id"]
    return run_id


def test_every_page_and_action_names_its_scope() -> None:
    """But for the login, each route of the console asks who comes, and actions ask for more than reading."""
    found = [
        route for module in (runs, run, fork, beside, approvals, schedules, start) for route in module.router.routes
    ]

    assert len(found) >= 28
    for route in found:
        assert isinstance(route, ConsoleRoute), route
        scope = Scope((route.openapi_extra or {})["x-perdure-scope"])
        assert route.methods == {"GET"} or scope in (Scope.RUNS_WRITE, Scope.APPROVALS_DECIDE), route.path
    assert {route.path for route in login.router.routes if isinstance(route, APIRoute)} == LOGIN


async def test_pages_allow_no_script_or_frame_of_others(api: Api) -> None:
    """Whatever gets into a page, its policy lets nothing in it run, and nobody frames, sniffs or keeps it."""
    page = await api.http.get("/console/runs")

    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert "form-action 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page.text)


async def test_static_files_are_ours_and_kept(api: Api) -> None:
    """Every script and style of a page comes from here, by an address that changes with its content."""
    page = await api.http.get("/console/runs")

    addresses = re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page.text)
    assert len(addresses) == 5
    for address in addresses:
        file = await api.http.get(address)
        assert file.status_code == 200, address
        assert "immutable" in file.headers["cache-control"]


@pytest.mark.parametrize("sent", [{}, {"csrf": "guessed"}, {"csrf": ""}])
async def test_a_form_without_the_sessions_token_does_nothing(api: Api, sent: dict[str, str]) -> None:
    """A form of another site has no token, and one that was guessed does not count."""
    run_id = await api.start()
    await api.http.get("/console/runs")

    refused = await api.http.post(f"/console/runs/{run_id}/cancel", data=sent, headers=ORIGIN)

    assert refused.status_code == 403
    assert (await api.get(f"/v1/runs/{run_id}"))["status"] == "running"


async def test_a_form_of_another_site_does_nothing(api: Api) -> None:
    """The browser says where a form is from, and then the token does not help."""
    run_id = await api.start()
    csrf = token(await api.http.get("/console/start"))

    refused = await api.http.post(
        f"/console/runs/{run_id}/cancel", data={"csrf": csrf}, headers={"Origin": "https://evil.example"}
    )

    assert refused.status_code == 403
    assert (await api.get(f"/v1/runs/{run_id}"))["status"] == "running"


async def test_the_cookie_is_for_the_browser_alone(closed: Api) -> None:
    """It is encrypted, no script reads it, other sites' forms do not send it, and it says nothing of the key."""
    key = await closed.key("acme")

    done = await log_in(closed, key)

    cookie = done.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert key not in cookie


async def test_behind_https_the_cookie_stays_there(client: Client) -> None:
    """Where people come by https, the cookie never travels without it."""
    api = Api(client, settings=required(console_secret="s" * 40, public_url="https://perdure.example"))
    async with api.http:
        page = await api.http.get("/console/login")

    assert "Secure" in page.headers["set-cookie"]


async def test_one_logs_in_with_a_key_and_out(closed: Api) -> None:
    """Without a key every page leads to the login, which leads back; after the logout it is as before."""
    key = await closed.key("acme")
    first = await closed.http.get("/console/runs?status=failed")

    assert first.status_code == 303
    assert first.headers["location"] == "/console/login?next=/console/runs%3Fstatus%3Dfailed"
    done = await log_in(closed, key, next="/console/runs?status=failed")
    assert done.headers["location"] == "/console/runs?status=failed"
    page = await closed.http.get("/console/runs")
    assert page.status_code == 200
    assert "ann" in page.text
    assert key not in page.text
    await closed.http.post("/console/logout", data={"csrf": token(page)}, headers=ORIGIN)
    assert (await closed.http.get("/console/runs")).status_code == 303


@pytest.mark.parametrize(
    "wanted", ["https://evil.example", "//evil.example", "/console//evil.example", "/console/\\evil.example", "/docs"]
)
async def test_the_login_leads_nowhere_else(closed: Api, wanted: str) -> None:
    """Whatever a link to the login says, one stays in the console."""
    done = await log_in(closed, await closed.key("acme"), next=wanted)

    assert done.headers["location"] == "/console/runs"


async def test_a_wrong_key_is_told_and_not_kept(closed: Api) -> None:
    """The page says why, and nobody is logged in."""
    refused = await log_in(closed, "pdr_wrong")

    assert refused.status_code == 401
    assert "did not work" in refused.text
    assert (await closed.http.get("/console/runs")).status_code == 303


async def test_a_revoked_key_ends_its_sessions(closed: Api) -> None:
    """Each request asks again, so that whoever lost the key is out as soon as at the API."""
    new = NewKey(name="ann", org="acme", scopes=tuple(Scope))
    key, record = await closed.keys.create(new, by="the test")
    await log_in(closed, key.text)
    assert (await closed.http.get("/console/runs")).status_code == 200

    await closed.keys.revoke(record.key_id, Revocation(by="the test", reason="lost"))

    async def out() -> bool:
        return (await closed.http.get("/console/runs")).status_code == 303

    await eventually(out, what="the logout")
    assert "revoked" in (await closed.http.get("/console/login")).text


@pytest.fixture
async def issued(client: Client) -> AsyncIterator[tuple[Api, TestIssuer]]:
    """The shop's console for who logs in at an issuer."""
    async with serving_issuer() as issuer:
        oidc = issuer.settings(client_id="console")
        api = Api(client, settings=required(console_secret="s" * 40, oidc=oidc))
        async with api.http:
            yield api, issuer


async def begin(api: Api, issuer: TestIssuer, code: str, **tokens: str) -> dict[str, str]:
    """Begin a login, and return what the browser is sent to the issuer with; the issuer then knows the code."""
    sent = await api.http.get("/console/login/oidc?next=/console/usage")
    address = urlsplit(sent.headers["location"])
    asked = dict(parse_qsl(address.query))
    assert f"{address.scheme}://{address.netloc}{address.path}" == f"{issuer.url}/authorize"
    issuer.codes[code] = (asked["code_challenge"], tokens)
    return asked


async def test_one_logs_in_at_the_issuer(issued: tuple[Api, TestIssuer]) -> None:
    """The code that comes back is redeemed with its proof, and the token says who that is, as at the API."""
    api, issuer = issued
    asked = await begin(api, issuer, "code-1", access_token="opaque", id_token=issuer.token(sub="bob"))

    done = await api.http.get("/console/login/callback", params={"code": "code-1", "state": asked["state"]})

    assert (asked["client_id"], asked["code_challenge_method"]) == ("console", "S256")
    assert asked["redirect_uri"] == "http://localhost/console/login/callback"
    assert done.headers["location"] == "/console/usage", done.text
    assert "bob" in (await api.http.get("/console/runs")).text


@pytest.mark.parametrize("answer", [{"state": "another"}, {"code": "unknown"}, {"error": "access_denied", "code": ""}])
async def test_an_answer_to_no_question_of_this_browser_logs_nobody_in(
    issued: tuple[Api, TestIssuer], answer: dict[str, str]
) -> None:
    """A code that somebody else brought along does not count, nor one that the issuer does not know."""
    api, issuer = issued
    asked = await begin(api, issuer, "code-1", access_token=issuer.token())

    done = await api.http.get("/console/login/callback", params={"code": "code-1", "state": asked["state"], **answer})

    assert done.status_code in (303, 401)
    assert (await api.http.get("/console/runs")).status_code == 303


async def test_an_expired_token_ends_its_session(issued: tuple[Api, TestIssuer]) -> None:
    """A token is judged anew by each request; one that does not count logs nobody in."""
    api, issuer = issued
    asked = await begin(api, issuer, "code-1", access_token=issuer.token(exp=1))

    done = await api.http.get("/console/login/callback", params={"code": "code-1", "state": asked["state"]})

    assert done.status_code == 401
    assert "expired" in done.text


async def test_usage_and_agents_are_shown(api: Api) -> None:
    """What was used has a bar and a row; agents have their tools."""
    usage = await api.http.get("/console/usage")
    agents = await api.http.get("/console/agents")

    assert usage.status_code == 200
    assert "<svg" in usage.text
    assert "By model" in usage.text
    assert "refund" in agents.text
    assert "once" in agents.text


async def test_without_a_secret_nobody_logs_in(client: Client) -> None:
    """Cookies that other replicas cannot read would be no sessions, so the console says what it needs."""
    api = Api(client, settings=required())
    async with api.http:
        page = await api.http.get("/console/login")

    assert "PERDURE_CONSOLE_SECRET" in page.text


async def test_another_organisations_run_is_not_there(closed: Api) -> None:
    """Its page, feed, approvals and actions are not found, and no list has it."""
    foreign = await start_as(closed, await closed.key("globex"))
    await log_in(closed, await closed.key(f"acme-{uuid.uuid4().hex}"))

    page = "/console/start"
    assert (await closed.http.get(f"/console/runs/{foreign}")).status_code == 404
    assert (await closed.http.get(f"/console/runs/{foreign}/feed")).status_code == 404
    assert (await closed.http.get(f"/console/approvals/{foreign}/c1-x")).status_code == 404
    for part in ("fork", "beside", "earlier?before=step-1", f"withdrawn/{uuid.uuid4()}?reset=0r1.5"):
        assert (await closed.http.get(f"/console/runs/{foreign}/{part}")).status_code == 404, part
    actions = ("pause", "resume", "cancel", "message", "retry", "fork", "feedback/withdraw", "deliveries/d-1/redeliver")
    for action in actions:
        refused = await post(closed, f"/console/runs/{foreign}/{action}", page=page, text="hello")
        assert refused.status_code == 404, action
    assert foreign not in (await closed.http.get("/console/runs")).text


async def test_what_a_key_may_not_do_is_neither_offered_nor_done(closed: Api) -> None:
    """A key that may only read sees no buttons, and a form sent all the same is refused."""
    org = f"acme-{uuid.uuid4().hex}"
    run_id = await start_as(closed, await closed.key(org))
    await log_in(closed, await closed.key(org, scopes=(Scope.RUNS_READ,)))

    page = await closed.http.get(f"/console/runs/{run_id}")

    assert page.status_code == 200
    assert "/cancel" not in page.text
    assert "Start a run" not in (await closed.http.get("/console/runs")).text
    csrf = token(page)
    of_run = ("cancel", "pause", "fork", "feedback", "feedback/withdraw", "deliveries/d-1/redeliver")
    others = ("start", "approvals/batch", f"approvals/{run_id}/c1")
    for path in (*(f"runs/{run_id}/{action}" for action in of_run), *others):
        refused = await closed.http.post(f"/console/{path}", data={"csrf": csrf}, headers=ORIGIN)
        assert refused.status_code == 403, path
        assert "runs:read" in refused.text


async def test_an_approval_is_edited_and_given_by_a_plain_form(api: Api) -> None:
    """No script is needed: the form has the call's arguments, and what was changed is what runs."""
    async with api.worker(in_turns(REFUND, answer("done"))):
        run_id = await api.start()
        asked = await api.approval(run_id)
        path = f"/console/approvals/{run_id}/{asked['approval_id']}"
        assert path in (await api.http.get("/console/approvals")).text

        done = await post(
            api,
            path,
            page=path,
            digest=asked["digest"],
            decision="approve",
            decided_by="ann",
            **{"argument.order": "A-1", "argument.amount": "3"},
        )

        assert done.status_code == 303, done.text
        await api.ended(run_id)
    steps = (await api.get(f"/v1/runs/{run_id}/steps"))["items"]
    assert steps[1]["result"] == "refunded 3 for A-1"
    assert steps[1]["approvals"][0]["decided_by"] == "ann"
    assert "approved" in (await api.http.get(path)).text


async def test_a_wrong_argument_is_told_and_what_was_typed_stays(api: Api) -> None:
    """Whoever mistypes is told which argument is wrong, and does not type the rest again."""
    async with api.worker(in_turns(REFUND, answer("done"))):
        run_id = await api.start()
        asked = await api.approval(run_id)
        path = f"/console/approvals/{run_id}/{asked['approval_id']}"

        sent = {"argument.order": "A-1", "argument.amount": "many", "reason": "because"}
        refused = await post(api, path, page=path, digest=asked["digest"], decision="approve", decided_by="ann", **sent)

    assert refused.status_code == 409
    assert "amount is &#39;many&#39;" in refused.text
    assert 'value="many"' in refused.text
    assert "because" in refused.text


async def test_several_are_rejected_at_once(api: Api) -> None:
    """The inbox decides on what was selected, and says how many decisions counted."""
    async with api.worker(in_turns(REFUND, answer("as you wish"))):
        runs = [await api.start() for _ in range(2)]
        chosen = [f"{run_id}/{(await api.approval(run_id))['approval_id']}" for run_id in runs]

        async def listed() -> bool:
            page = (await api.http.get("/console/approvals")).text
            return all(one in page for one in chosen)

        await eventually(listed, what="both in the inbox")
        done = await post(
            api,
            "/console/approvals/batch",
            page="/console/approvals",
            chosen=chosen,
            decision="reject",
            reason="not today",
            decided_by="ann",
        )

        assert done.status_code == 303, done.text
        for run_id in runs:
            await api.ended(run_id)
    assert "2 of 2 decisions counted" in (await api.http.get("/console/approvals")).text


async def test_a_run_is_started_once_however_often_its_form_is_sent(api: Api) -> None:
    """Sending the form again leads to the same run."""
    page = await api.http.get("/console/start")
    once = re.search(r'name="once" value="([^"]+)"', page.text)
    assert once is not None
    form = {"csrf": token(page), "once": once[1], "agent": "tester@1", "input": "Is A-1 paid?", "max_steps": "5"}

    first = await api.http.post("/console/start", data=form, headers=ORIGIN)
    second = await api.http.post("/console/start", data=form, headers=ORIGIN)

    assert first.status_code == 303, first.text
    assert second.headers["location"] == first.headers["location"]


async def test_a_failed_run_is_retried_by_its_button(api: Api) -> None:
    """The page of a run that failed offers to go on from the failed step, and then shows it as it goes on."""
    broken = True

    def script(messages: list[Message]) -> ProviderReply:
        return answer("", finish=Finish.REFUSAL) if broken else answer("It is paid.")

    async with api.worker(script):
        run_id = await api.start()
        assert (await api.ended(run_id))["status"] == "failed"
        broken = False
        path = f"/console/runs/{run_id}"
        assert f"{path}/retry" in (await api.http.get(path)).text

        done = await post(api, f"{path}/retry", page=path)

        assert done.status_code == 303, done.text
        await eventually(lambda: _completed(api, run_id), what="the run's end")
        page = (await api.http.get(path)).text
    assert "It is paid." in page
    assert f"{path}/retry" not in page


async def _completed(api: Api, run_id: str) -> bool:
    return bool((await api.get(f"/v1/runs/{run_id}"))["status"] == "completed")


async def test_the_plan_is_beside_the_timeline(client: Client) -> None:
    """What the model means to do and how far it is; without a plan there is no such card to be seen."""
    steps = [{"step": "look <b>A-1</b> up", "status": "completed"}, {"step": "refund it", "status": "in_progress"}]
    planned = in_turns(
        wish(("update_plan", {"plan": steps}), ("refund", {"order": "A-1", "amount": 5})), answer("done")
    )
    api = Api(client, app=shop(plan=True))
    async with api.http:
        run_id = await api.start()
        before = (await api.http.get(f"/console/runs/{run_id}")).text
        async with api.worker(planned):
            await api.approval(run_id)
            after = (await api.http.get(f"/console/runs/{run_id}")).text

    assert 'id="plan"' in before
    assert "refund it" not in before
    assert "look &lt;b&gt;A-1&lt;/b&gt; up" in after
    assert re.search(r'class="in_progress" aria-current="step">refund it', after)


async def test_what_was_said_is_text(api: Api) -> None:
    """Nothing that a user, a model or a tool says becomes part of a page's markup."""
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    run_id = await api.start(input=evil, user="<b>ann</b>", metadata={"<i>note</i>": evil})
    await api.listed()

    for path in ("/console/runs", f"/console/runs/{run_id}"):
        page = (await api.http.get(path)).text
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "<b>ann" not in page
        assert "<i>note" not in page


async def test_an_unknown_page_is_a_page(api: Api) -> None:
    """People get errors that they can read."""
    page = await api.http.get("/console/nothing")

    assert page.status_code == 404
    assert page.headers["content-type"].startswith("text/html")


def test_arguments_survive_their_form() -> None:
    """A form that is sent as it was shown brings the very same arguments; a changed field changes only itself."""
    schema = {"properties": {"note": {"type": "string"}, "loud": {"type": "boolean"}, "size": {"enum": ["s", "m"]}}}
    arguments = {"order": "A-1", "amount": 5.10, "loud": True, "lines": [{"a": 1}], "text": "one\ntwo", "none": None}
    shown = {f"argument.{one.name}": one.value for one in fields(arguments, schema)}

    assert read(shown, arguments, schema) == arguments
    changed = {**shown, "argument.lines": "[]", "argument.note": "new", "argument.text": "one\r\nthree"}
    del changed["argument.loud"]
    expected = {**arguments, "lines": [], "note": "new", "text": "one\nthree", "loud": False}
    assert read(changed, arguments, schema) == expected


def test_the_console_is_no_part_of_the_document(api: Api) -> None:
    """Programs use the API."""
    assert isinstance(api.asgi, FastAPI)
    assert not [path for path in api.asgi.openapi()["paths"] if path.startswith("/console")]
