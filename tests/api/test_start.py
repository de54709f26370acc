"""Starting runs: what comes back, what a key protects from, and that a bad request starts nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.errors import IdempotencyKeyReusedError, InvalidInputError
from perdure.testing import eventually
from perdure_api.schemas import NewRun
from tests.api.conftest import Api
from tests.harness import answer, in_turns


async def test_a_started_run_has_an_address(api: Api) -> None:
    """202, an id, and a Location under which the run is found while no worker is running."""
    response = await api.http.post("/v1/runs", json={"agent": "tester", "input": "refund o1", "user": "ann"})
    run = await api.get(response.headers["Location"])

    assert (response.status_code, response.json()["created"]) == (202, True)
    assert (run["run_id"], run["status"], run["live"]) == (response.json()["run_id"], "running", False)
    assert (run["agent"], run["version"], run["input"], run["user"]) == ("tester", "1", "refund o1", "ann")


async def test_wait_returns_the_result_of_a_run_that_ends_in_time(api: Api) -> None:
    """One request is enough for a short run."""
    async with api.worker(in_turns(answer("hello"))):
        response = await api.http.post("/v1/runs?wait=20", json={"agent": "tester", "input": "go"})

    assert response.status_code == 200
    run = response.json()
    assert (run["status"], run["output"], run["totals"]["model_calls"]) == ("completed", "hello", 1)
    assert response.headers["Location"] == f"/v1/runs/{run['run_id']}"


async def test_wait_gives_up_on_a_run_that_takes_longer(api: Api) -> None:
    """The run goes on, and the answer is that of a request without wait."""
    response = await api.http.post("/v1/runs?wait=1", json={"agent": "tester", "input": "go"})

    assert response.status_code == 202
    assert response.json()["created"]


async def test_an_idempotency_key_starts_one_run(api: Api) -> None:
    """The same request with the same key, even at the same time, names the one run that it started."""
    body = {"agent": "tester", "input": "go", "org": "acme"}
    headers = {"Idempotency-Key": f"key of {api.settings.task_queue}"}

    responses = await asyncio.gather(*[api.http.post("/v1/runs", json=body, headers=headers) for _ in range(5)])

    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["run_id"] for response in responses}) == 1
    assert sorted(response.json()["created"] for response in responses) == [False, False, False, False, True]


async def test_an_idempotency_key_is_good_for_one_request_of_one_organisation(api: Api) -> None:
    """Another request with the key is refused; another organisation's key is another key."""
    body = {"agent": "tester", "input": "go", "org": "acme"}
    headers = {"Idempotency-Key": f"key of {api.settings.task_queue}"}
    first = await api.http.post("/v1/runs", json=body, headers=headers)

    changed = await api.http.post("/v1/runs", json={**body, "input": "go away"}, headers=headers)
    elsewhere = await api.http.post("/v1/runs", json={**body, "org": "globex"}, headers=headers)

    assert changed.status_code == 422
    assert changed.json()["type"] == "urn:perdure:problem:idempotency-key-reused"
    assert elsewhere.json()["run_id"] != first.json()["run_id"]


async def test_a_chosen_id_is_its_own_idempotency_key(api: Api) -> None:
    """The command line names runs; the same id with another request is refused, and an impossible one too."""
    runs, chosen = api.asgi.state.gateway.runs, f"my.run:{api.settings.task_queue}"
    new = NewRun(agent="tester", input="go")

    first = await runs.start(new, run_id=chosen)
    again = await runs.start(new, run_id=chosen)

    assert (first.run_id, first.created, again.created) == (chosen, True, False)
    with pytest.raises(IdempotencyKeyReusedError, match=chosen):
        await runs.start(NewRun(agent="tester", input="go away"), run_id=chosen)
    with pytest.raises(InvalidInputError, match="letters"):
        await runs.start(new, run_id="a/b")


async def test_given_limits_replace_the_agents(api: Api) -> None:
    """A run stops at the limit of its request."""
    async with api.worker(in_turns(answer("hello"))):
        run_id = await api.start(limits={"run_timeout": 90, "max_steps": 7})
        await api.ended(run_id)
        events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]

    limits = events[0]["limits"]
    assert (limits["max_steps"], limits["run_timeout"], limits["model_timeout"]) == (7, "PT1M30S", "PT10M")


GOOD = {"agent": "tester", "input": "go"}
BAD: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b'{"agent": ', 422, "JSON"),
    "no object": (b"[]", 422, "body"),
    "broken UTF-8": (b'{"agent": "tester", "input": "\xff"}', 400, "pars"),
    "nested too deep": (b'{"agent": "tester", "input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400, "pars"),
    "half a surrogate pair": (b'{"agent": "tester", "input": "\\ud800"}', 422, "input"),
    "NUL in the input": ({**GOOD, "input": "a\0b"}, 422, "input"),
    "blank input": ({**GOOD, "input": " \n "}, 422, "blank"),
    "no input": ({"agent": "tester"}, 422, "input"),
    "input of a wrong type": ({**GOOD, "input": {"text": "go"}}, 422, "input"),
    "unknown agent": ({**GOOD, "agent": "nobody"}, 422, "tester"),
    "unknown version": ({**GOOD, "version": "99"}, 422, "version"),
    "impossible agent name": ({**GOOD, "agent": "a b"}, 422, "agent"),
    "unknown field": ({**GOOD, "taks": "go"}, 422, "taks"),
    "control character in the user": ({**GOOD, "user": "a\nb"}, 422, "user"),
    "quote in the user": ({**GOOD, "user": 'a"b'}, 422, "user"),
    "long user": ({**GOOD, "user": "a" * 256}, 422, "user"),
    "no steps": ({**GOOD, "limits": {"max_steps": 0}}, 422, "max_steps"),
    "too many steps": ({**GOOD, "limits": {"max_steps": 10**9}}, 422, "max_steps"),
    "endless time": ({**GOOD, "limits": {"run_timeout": "P1000Y"}}, 422, "run_timeout"),
    "time of a number too large": ({**GOOD, "limits": {"run_timeout": 1e300}}, 422, "run_timeout"),
    "unknown limit": ({**GOOD, "limits": {"steps": 5}}, 422, "steps"),
    "metadata of a wrong type": ({**GOOD, "metadata": {"a": 1}}, 422, "metadata"),
    "large metadata": ({**GOOD, "metadata": {"a": "x" * 17_000}}, 413, "metadata"),
    "large input": ({**GOOD, "input": "é" * 300_000}, 413, "524,288"),
    "large body": ({**GOOD, "input": "x" * 5_000_000}, 413, "4,194,304"),
}


@pytest.mark.parametrize(("body", "status", "said"), BAD.values(), ids=BAD)
async def test_a_bad_request_is_explained_and_starts_nothing(api: Api, body: Any, status: int, said: str) -> None:
    """The answer names what is wrong; of two requests, visibility has the run of the good one alone."""
    headers = {"Content-Type": "application/json"}

    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = await api.http.post("/v1/runs", headers=headers, **sent)
    await api.start()
    started = await eventually(api.started)

    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert said in response.json()["detail"]
    assert started == 1


@pytest.mark.parametrize("query", ["wait=61", "wait=-1", "wait=soon"])
async def test_a_bad_wait_starts_nothing(api: Api, query: str) -> None:
    """The request is refused before the run is started."""
    response = await api.http.post(f"/v1/runs?{query}", json=GOOD)

    assert response.status_code == 422
    assert await api.started() == 0


async def test_a_form_is_no_request(api: Api) -> None:
    """What a web page could send without asking first is not taken for JSON."""
    response = await api.http.post("/v1/runs", content=b'{"agent": "tester", "input": "go"}')

    assert response.status_code == 422
    assert await api.started() == 0
