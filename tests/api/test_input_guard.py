"""Input guards: what is too large or refused starts nothing and joins nothing, and a check that breaks refuses."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.client import Client

from perdure import App, InputContext, InputRefusedError
from perdure import input_guard as input_guards
from perdure.errors import ConfigurationError
from tests.api.conftest import Api, shop
from tests.harness import agent, in_turns, wish

REFUND = wish(("refund", {"order": "o1", "amount": 5}))


class Guarded:
    """An app with one check of each kind, and what they were asked."""

    def __init__(self) -> None:
        self.app: App = shop(max_input_bytes=100)
        self.asked: list[tuple[str, InputContext]] = []
        self.threads: set[str] = set()

        @self.app.input_guard(agent="tester")
        def plain(text: str, ctx: InputContext) -> None:
            self.asked.append((text, ctx))
            self.threads.add(threading.current_thread().name)
            if "sue" in text:
                raise InputRefusedError("ask a lawyer")

        @self.app.input_guard()
        async def every(text: str, ctx: InputContext) -> None:
            if "break" in text:
                raise ZeroDivisionError("what is this")
            if "hang" in text:
                await asyncio.sleep(60)


@pytest.fixture
def guarded() -> Guarded:
    """The app and its checks."""
    return Guarded()


@pytest.fixture
async def api(client: Client, guarded: Guarded) -> AsyncIterator[Api]:
    """The API of that app."""
    api = Api(client, app=guarded.app)
    async with api.http:
        yield api


async def test_a_refused_input_starts_nothing(api: Api) -> None:
    """The caller is told in the author's words, as a problem of a name of its own."""
    response = await api.http.post("/v1/runs", json={"agent": "tester", "input": "I will sue you"})

    assert response.status_code == 422
    assert response.json()["type"] == "urn:perdure:problem:input-refused"
    assert response.json()["detail"] == "ask a lawyer"
    assert await api.started() == 0


async def test_a_check_knows_who_says_it(api: Api, guarded: Guarded) -> None:
    """Agent, user, organisation and session are told, and a plain check does not hold up the server."""
    await api.start(input="hello", user="ann", org="acme", session_id="chat-1")

    assert guarded.asked == [
        ("hello", InputContext("input", "tester", "1", user="ann", org="acme", session_id="chat-1"))
    ]
    assert threading.main_thread().name not in guarded.threads


async def test_a_refused_message_does_not_join(api: Api, guarded: Guarded) -> None:
    """What passes is heard; what does not leaves no trace in the run."""
    async with api.worker(in_turns(REFUND)):
        run_id = await api.start(user="ann")
        await api.approval(run_id)
        refused = await api.http.post(f"/v1/runs/{run_id}/messages", json={"text": "I sue", "from": "bob"})
        passed = await api.http.post(f"/v1/runs/{run_id}/messages", json={"text": "Hurry.", "from": "bob"})
        events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]

    assert (refused.status_code, passed.status_code) == (422, 202)
    assert refused.json()["type"] == "urn:perdure:problem:input-refused"
    assert [event["name"] for event in events if event["kind"] == "signal.received"] == ["message"]
    context = InputContext("message", "tester", "1", user="ann", run_id=run_id, sender="bob")
    assert guarded.asked[-1] == ("Hurry.", context)


@pytest.mark.parametrize("text", ["please break", "please hang"])
async def test_a_check_that_breaks_or_hangs_refuses(
    api: Api, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody has judged the text then; the log says why, and the answer tells nothing of the inside."""
    monkeypatch.setattr(input_guards, "TIME_LIMIT", timedelta(milliseconds=50))

    response = await api.http.post("/v1/runs", json={"agent": "tester", "input": text})

    assert response.status_code == 422
    assert response.json()["detail"] == "the input could not be checked, so it is not taken"
    assert "input_check_broke" in capsys.readouterr().out
    assert await api.started() == 0


async def test_an_agent_has_its_own_limit(api: Api, guarded: Guarded) -> None:
    """In bytes, for inputs and messages; what is too large is not even looked at."""
    response = await api.http.post("/v1/runs", json={"agent": "tester", "input": "ä" * 51})
    run_id = await api.start(input="ä" * 50)
    message = await api.http.post(f"/v1/runs/{run_id}/messages", json={"text": "x" * 101})

    assert response.status_code == 413
    assert response.json()["detail"] == "the input is 102 bytes; at most 100 fit"
    assert message.status_code == 413
    assert len(guarded.asked) == 1


async def test_a_run_of_an_agent_that_is_gone_can_still_be_spoken_to(client: Client, api: Api) -> None:
    """The limit is then the general one, and checks of every agent apply."""
    run_id = await api.start()
    other = App()

    @other.input_guard()
    def polite(text: str, ctx: InputContext) -> None:
        if "please" not in text:
            raise InputRefusedError("say please")

    other.add(agent(name="other"))
    later = Api(client, app=other, settings=api.settings)
    async with later.http:
        refused = await later.http.post(f"/v1/runs/{run_id}/messages", json={"text": "x" * 200})
        passed = await later.http.post(f"/v1/runs/{run_id}/messages", json={"text": "please " + "x" * 200})

    assert (refused.status_code, passed.status_code) == (422, 202)


def test_a_check_of_an_unknown_agent_stops_the_process_at_start_up() -> None:
    """A misspelt name would check nothing."""
    app = shop()
    app.input_guard(agent="testr")(lambda text, ctx: None)

    with pytest.raises(ConfigurationError, match="'testr'"):
        app.check()


def test_checks_come_along_with_an_included_app() -> None:
    """A check of every agent is of every agent of its own app, and not of the other's."""
    app, other = shop(), App()
    other.add(agent(name="other"))

    @other.input_guard()
    def check(text: str, ctx: InputContext) -> None:
        """Let everything pass."""

    app.include(other)

    assert app.input_guards("other") == [check]
    assert app.input_guards("tester") == []
