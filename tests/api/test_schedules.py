"""Schedules over HTTP, by Temporal's own: runs start as whoever made them, with the agent and rules of their day."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from perdure.api_key import KeyText
from perdure.testing import eventually
from perdure_api.keys import Revocation
from tests.api.conftest import Api, bearer, required
from tests.harness import agent, answer, in_turns

RUN = {"agent": "tester", "input": "report"}
YEARLY = {"cron": "0 9 1 1 *", "time_zone": "Europe/Berlin"}


async def made(api: Api, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    """Make a schedule and return it."""
    body = {"name": "report", "run": RUN, "when": YEARLY, **fields}
    response = await api.http.post("/v1/schedules", json=body, headers=headers)
    assert response.status_code == 200, response.text
    schedule: dict[str, Any] = response.json()
    return schedule


async def outcome(api: Api, key: str, *, status: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Wait until the schedule's last run is of this status, and return it."""

    async def last() -> dict[str, Any]:
        response = await api.http.get(f"/v1/schedules/{key}", headers=headers)
        found: list[dict[str, Any]] = [item for item in response.json()["last"] if item["status"] == status]
        return found[0] if found else {}

    return await eventually(last, within=timedelta(seconds=20), what=f"a run that is {status}")


@pytest.fixture
async def own(client: Client) -> Any:
    """The API for who has a key, with an organisation's name that no other test uses."""
    api = Api(client, settings=required())
    async with api.http:
        yield api


async def test_a_scheduled_run_starts_as_who_made_the_schedule(own: Api) -> None:
    """It has the organisation, user and lists of a run that they would have started."""
    org = own.settings.task_queue
    headers = bearer(await own.key(org))
    async with own.worker(in_turns(answer("All is well."))):
        schedule = await made(own, headers)
        triggered = await own.http.post(f"/v1/schedules/{schedule['schedule_id']}/trigger", headers=headers)
        ended = await outcome(own, schedule["schedule_id"], status="completed", headers=headers)
        run = (await own.http.get(f"/v1/runs/{ended['run_id']}", headers=headers)).json()
    by_name = await own.http.get("/v1/schedules/report", headers=headers)
    again = await own.http.post("/v1/schedules", json={"name": "report", "run": RUN, "when": YEARLY}, headers=headers)
    deleted = await own.http.delete("/v1/schedules/report", headers=headers)

    assert triggered.status_code == 202
    assert (run["org"], run["user"], run["output"], run["input"]) == (org, "ann", "All is well.", "report")
    assert (by_name.json()["started"], by_name.json()["user"], len(by_name.json()["next_at"]) > 0) == (1, "ann", True)
    assert by_name.json()["next_at"][0].endswith("-01-01T08:00:00Z")
    assert (again.status_code, deleted.status_code) == (409, 204)


async def test_to_another_organisation_a_schedule_does_not_exist(own: Api) -> None:
    """Neither its id nor its name finds it, and no list has it."""
    org = own.settings.task_queue
    headers, stranger = bearer(await own.key(org)), bearer(await own.key(f"not-{org}"))
    key = (await made(own, headers))["schedule_id"]

    async def listed(who: dict[str, str]) -> list[str]:
        items = (await own.http.get("/v1/schedules", headers=who)).json()["items"]
        return [item["schedule_id"] for item in items]

    await eventually(lambda: listed(headers), what="the schedule in the list")
    answers = [
        await own.http.get(f"/v1/schedules/{key}", headers=stranger),
        await own.http.get("/v1/schedules/report", headers=stranger),
        await own.http.post(f"/v1/schedules/{key}/trigger", headers=stranger),
        await own.http.delete(f"/v1/schedules/{key}", headers=stranger),
    ]

    assert [answer.status_code for answer in answers] == [404] * 4
    assert await listed(stranger) == []


async def test_with_a_revoked_key_no_run_starts_and_the_schedule_says_so(own: Api) -> None:
    """It is a failure that people see, not silence; a valid key sets it right again."""
    org = own.settings.task_queue
    text, other = await own.key(org), bearer(await own.key(org, name="bob"))
    parsed = KeyText.parse(text)
    assert parsed is not None
    key = (await made(own, bearer(text)))["schedule_id"]
    await own.keys.revoke(parsed.key_id, Revocation(by="ops", reason="left"))
    async with own.worker(in_turns(answer("done"))):
        await own.http.post(f"/v1/schedules/{key}/trigger", headers=other)
        refused = await outcome(own, key, status="refused", headers=other)
        changed = await own.http.patch(f"/v1/schedules/{key}", json={"run": RUN}, headers=other)
        await own.http.post(f"/v1/schedules/{key}/trigger", headers=other)
        await outcome(own, key, status="completed", headers=other)

    assert refused["error"]["type"] == "permission_denied"
    assert "revoked" in refused["error"]["message"]
    assert (refused["run_id"], changed.json()["user"]) == (None, "bob")


async def test_a_run_has_the_version_of_its_day(api: Api) -> None:
    """A version that is registered after the schedule was made is the one that runs."""
    key = (await made(api, name=api.settings.task_queue))["schedule_id"]
    api.app.add(agent(version="2"))
    async with api.worker(in_turns(answer("done"))):
        await api.http.post(f"/v1/schedules/{key}/trigger")
        ended = await outcome(api, key, status="completed")

    assert (await api.get(f"/v1/runs/{ended['run_id']}"))["version"] == "2"


async def test_runs_start_at_their_times_until_it_is_paused(api: Api) -> None:
    """Temporal ticks; who paused it and why is kept."""
    schedule = await made(api, name=api.settings.task_queue, when={"every": "1s"}, overlap="allow_all")
    key = schedule["schedule_id"]
    async with api.worker(in_turns(answer("done"))):
        await outcome(api, key, status="completed")
        hold = {"by": "ann", "reason": "enough"}
        paused = await api.http.post(f"/v1/schedules/{key}/pause", json=hold)
        held = await api.get(f"/v1/schedules/{key}")
        await api.http.post(f"/v1/schedules/{key}/resume", json={"by": "bob"})
        resumed = await api.get(f"/v1/schedules/{key}")
        await api.http.delete(f"/v1/schedules/{key}")

    assert paused.status_code == 202
    assert (held["paused"], held["note"], held["next_at"]) == (True, "paused by ann: enough", [])
    assert (resumed["paused"], resumed["note"]) == (False, "resumed by bob")


async def test_times_that_have_passed_are_made_up_for(api: Api) -> None:
    """Each of them gets a run."""
    when = {"cron": "0 9 * * *"}
    key = (await made(api, name=api.settings.task_queue, when=when))["schedule_id"]
    async with api.worker(in_turns(answer("done"))):
        period = {"from": "2026-11-20T00:00:00Z", "to": "2026-11-22T00:00:00Z"}
        asked = await api.http.post(f"/v1/schedules/{key}/backfill", json=period)

        async def both() -> bool:
            last = (await api.get(f"/v1/schedules/{key}"))["last"]
            return [item["status"] for item in last] == ["completed", "completed"]

        await eventually(both, within=timedelta(seconds=20), what="two runs")

    assert asked.status_code == 202


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"when": {}}, "no time in it"),
        ({"when": {"cron": "0 9 * * *", "time_zone": "Nowhere/Town"}}, "no time zone"),
        ({"when": {"cron": "often"}}, "Temporal does not take this"),
        ({"run": {"agent": "nobody", "input": "go"}}, "no agent is named 'nobody'"),
    ],
)
async def test_a_schedule_that_could_not_work_is_refused(api: Api, fields: dict[str, Any], why: str) -> None:
    """When it is made, not at night."""
    body = {"name": "report", "run": RUN, "when": YEARLY, **fields}

    response = await api.http.post("/v1/schedules", json=body)

    assert (response.status_code, why in response.json()["detail"]) == (422, True), response.text
