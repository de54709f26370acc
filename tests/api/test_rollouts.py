"""Rollouts over HTTP: which version a run starts with, for whom, for how long, and who may change it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client

from perdure import App
from perdure.testing import eventually
from perdure_api import known_rollouts
from perdure_api.gateway import Gateway
from perdure_api.schemas import NewRun
from tests.api.conftest import Api, bearer, required
from tests.harness import agent
from tests.workflows.money import new_org

PATH = "/v1/agents/tester/rollout"


def versions(*versions: str, name: str = "tester") -> App:
    """Return an app that has these versions of an agent."""
    app = App()
    for version in versions:
        app.add(agent(name=name, version=version))
    return app


@pytest.fixture
async def api(client: Client) -> AsyncIterator[Api]:
    """An API with two versions of an agent, which nobody serves."""
    api = Api(client, app=versions("1", "2"))
    async with api.http:
        yield api


async def share_out(api: Api, org: str, weights: dict[str, int]) -> dict[str, Any]:
    """Set an organisation's rollout, and return what the answer says."""
    response = await api.http.put(PATH, json={"weights": weights, "org": org, "by": "ann"})
    assert response.status_code == 200, response.text
    said: dict[str, Any] = response.json()
    return said


async def started(api: Api, org: str, **fields: Any) -> tuple[str, str]:
    """Start a run, and return its version and what that was chosen by."""
    response = await api.http.post("/v1/runs", json={"agent": "tester", "input": "go", "org": org, **fields})
    assert response.status_code == 202, response.text
    return response.json()["version"], response.json()["version_source"]


async def in_session(api: Api, org: str, session_id: str, version: str) -> None:
    """Start a run of a session with a version, and wait until lists have it."""
    await started(api, org, session_id=session_id, version=version)
    await api.listed(org=org, session_id=session_id, version=version)


async def test_without_a_rollout_runs_start_with_the_newest_version(api: Api) -> None:
    """Nothing changes for who has none."""
    org = new_org()

    told = await api.get(PATH, org=org)
    run = await started(api, org, user="ann")

    assert told == {"agent": "tester", "newest": "2", "shares": {"1": 0.0, "2": 1.0}, "rollout": None}
    assert run == ("2", "newest")


async def test_a_rollout_shares_users_out_at_once(api: Api) -> None:
    """It takes no deploy, each user keeps a version, and the run says what it was chosen by."""
    org = new_org()
    await started(api, org, user="ann")  # so that the process knows that there is no rollout

    told = await share_out(api, org, {"1": 50, "2": 50})
    first = {user: await started(api, org, user=user) for user in map(str, range(20))}
    again = {user: await started(api, org, user=user) for user in map(str, range(20))}

    assert (told["shares"], told["rollout"]["weights"]) == ({"1": 0.5, "2": 0.5}, {"1": 50, "2": 50})
    assert (told["rollout"]["org"], told["rollout"]["created_by"]) == (org, "ann")
    assert first == again
    assert set(first.values()) == {("1", "rollout"), ("2", "rollout")}


async def test_a_run_tells_its_version_and_why_it_has_it(api: Api) -> None:
    """In the run, and in the answer to a request that is repeated after the rollout has changed."""
    org = new_org()
    await share_out(api, org, {"1": 1})
    body = {"agent": "tester", "input": "go", "org": org}
    headers = {"Idempotency-Key": org}
    run_id = (await api.http.post("/v1/runs", json=body, headers=headers)).json()["run_id"]
    await share_out(api, org, {"2": 1})

    run = await api.get(f"/v1/runs/{run_id}")
    repeated = (await api.http.post("/v1/runs", json=body, headers=headers)).json()

    assert (run["version"], run["version_source"]) == ("1", "rollout")
    assert repeated == {"run_id": run_id, "created": False, "version": "1", "version_source": "rollout"}


async def test_a_version_that_is_named_wins(api: Api) -> None:
    """A request knows better than any rollout, also one that sends nobody there."""
    org = new_org()
    await share_out(api, org, {"1": 1, "2": 0})

    assert await started(api, org, version="2") == ("2", "explicit")
    assert await started(api, org) == ("1", "rollout")


async def test_a_session_keeps_its_version(api: Api) -> None:
    """Whoever its user is and whatever the weights become; others' sessions of that name are others."""
    org, other = new_org(), new_org()
    await share_out(api, org, {"1": 1})
    await share_out(api, other, {"2": 1})
    await in_session(api, org, "chat-1", "1")
    await share_out(api, org, {"1": 0, "2": 1})

    assert await started(api, org, session_id="chat-1", user="bob") == ("1", "session")
    assert await started(api, org, session_id="chat-2", user="bob") == ("2", "rollout")
    assert await started(api, other, session_id="chat-1", user="bob") == ("2", "rollout")


async def test_the_latest_run_of_a_session_counts(api: Api) -> None:
    """A request that names a version takes the session there."""
    org = new_org()
    await share_out(api, org, {"1": 1})
    await in_session(api, org, "chat", "1")
    await in_session(api, org, "chat", "2")

    assert await started(api, org, session_id="chat") == ("2", "session")


async def test_versions_that_are_gone_get_nobody(api: Api, client: Client) -> None:
    """Neither by weight nor by session, once an app without them is deployed; if none is left, the newest does."""
    org = new_org()
    await share_out(api, org, {"1": 1})
    await in_session(api, org, "chat", "1")
    later = Api(client, app=versions("2", "3"), settings=api.settings)

    async with later.http:
        told = await later.get(PATH, org=org)
        run = await started(later, org, session_id="chat")

    assert (told["shares"], told["rollout"]["weights"]) == ({"2": 0.0, "3": 1.0}, {"1": 1})
    assert run == ("3", "newest")


async def test_an_organisations_rollout_goes_before_everybodys(api: Api) -> None:
    """Ended, it leaves its runs to everybody's; ended twice, nothing changes."""
    org, other = new_org(), new_org()
    name = f"agent-of-{org}"  # which no other test has, as everybody's rollout is
    own = Api(api.temporal, app=versions("1", "2", name=name), settings=api.settings)
    async with own.http:
        path = f"/v1/agents/{name}/rollout"
        await own.http.put(path, json={"weights": {"1": 1}, "by": "ann"})
        await own.http.put(path, json={"weights": {"2": 1}, "org": org, "by": "ann"})

        both = [await started(own, whose, agent=name) for whose in (org, other)]
        ended = [await own.http.delete(path, params={"org": org, "by": "ann"}) for _ in range(2)]
        left = await started(own, org, agent=name)
        cleared = (await own.http.delete(path, params={"by": "ann"})).json()

    assert both == [("2", "rollout"), ("1", "rollout")]
    assert [(one.status_code, one.json()["rollout"]["org"]) for one in ended] == [(200, None), (200, None)]
    assert left == ("1", "rollout")
    assert (cleared["rollout"], cleared["shares"]) == (None, {"1": 0.0, "2": 1.0})


@pytest.mark.parametrize(
    ("path", "body", "why"),
    [
        (PATH, {"weights": {"1": 1, "3": 1}, "by": "ann"}, "has no version '3'; it has: 1, 2"),
        (PATH, {"weights": {"1": 0}, "by": "ann"}, "no version has a weight above 0"),
        (PATH, {"weights": {}, "by": "ann"}, "at least 1 item"),
        (PATH, {"weights": {"1": -1, "2": 1}, "by": "ann"}, "greater than or equal to 0"),
        (PATH, {"weights": {"1": 1}}, "by is missing"),
        ("/v1/agents/nobody/rollout", {"weights": {"1": 1}, "by": "ann"}, "no agent is named 'nobody'"),
    ],
)
async def test_what_could_start_nothing_is_refused(api: Api, path: str, body: dict[str, Any], why: str) -> None:
    """With what would be right; the rollout that holds stays."""
    org = new_org()
    await share_out(api, org, {"1": 3})

    response = await api.http.put(path, json={"org": org, **body})

    assert (response.status_code, why in response.json()["detail"]) == (422, True), response.text
    assert (await api.get(PATH, org=org))["rollout"]["weights"] == {"1": 3}


async def test_a_caller_changes_its_own_organisations_rollout(client: Client) -> None:
    """In its own name, with the scope for it; everybody's takes an operator."""
    org, other = new_org(), new_org()
    api = Api(client, app=versions("1", "2"), settings=required())
    body = {"weights": {"1": 1}}
    async with api.http:
        ann, starter = bearer(await api.key(org)), bearer(await api.key(org, scopes=("runs:read", "runs:write")))
        own = await api.http.put(PATH, json=body, headers=ann)
        named = await api.http.put(PATH, json={**body, "org": org}, headers=ann)
        refused = [
            await api.http.put(PATH, json={**body, "org": other}, headers=ann),
            await api.http.delete(PATH, params={"org": other}, headers=ann),
            await api.http.get(PATH, params={"org": other}, headers=ann),
            await api.http.put(PATH, json=body, headers=starter),
            await api.http.delete(PATH, headers=starter),
        ]
        forged = await api.http.put(PATH, json={**body, "by": "bob"}, headers=ann)
        seen = (await api.http.get(PATH, headers=starter)).json()
        elsewhere = (await api.http.get(PATH, headers=bearer(await api.key(other)))).json()

    assert [(one.status_code, one.json()["rollout"]["org"]) for one in (own, named)] == [(200, org), (200, org)]
    assert [one.status_code for one in refused] == [403] * 5
    assert forged.status_code == 422
    assert (seen["rollout"]["created_by"], seen["shares"]) == ("ann", {"1": 1.0, "2": 0.0})
    assert elsewhere["rollout"] is None


async def test_what_is_known_of_a_rollout_is_asked_for_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start costs no look-up while the answer is fresh, nor ever where there is one version only."""
    asked: list[tuple[str, str | None]] = []

    class Counting(known_rollouts.KnownRollouts):
        async def _look_up(self, question: Any) -> Any:
            asked.append(question)
            return await super()._look_up(question)

    org = new_org()
    gateway = Gateway(api.temporal, api.app, api.settings, rollouts=Counting(api.temporal))
    single = Gateway(api.temporal, versions("1"), api.settings, rollouts=Counting(api.temporal))
    for _ in range(3):
        await gateway.runs.start(NewRun(agent="tester", input="go", org=org))
        await single.runs.start(NewRun(agent="tester", input="go", org=org))

    assert asked == [("tester", org), ("tester", None)]


async def test_another_process_learns_of_a_rollout_soon(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it knows is good for a moment only."""
    monkeypatch.setattr(known_rollouts, "KEPT_FOR", known_rollouts.KEPT_FOR / 10)
    org = new_org()
    other = Api(api.temporal, app=api.app, settings=api.settings)
    async with other.http:
        assert await started(other, org) == ("2", "newest")
        await share_out(api, org, {"1": 1})

        await eventually(lambda: _starts_with(other, org, "1"), what="the other process's starts")


async def _starts_with(api: Api, org: str, version: str) -> bool:
    return (await started(api, org))[0] == version
