"""Pages that list: schedules and what is done with them, the health of agents, the filters of the inbox."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from perdure.principal import Scope
from perdure.testing import eventually
from tests.api.conftest import Api, required
from tests.api.forms import ORIGIN, log_in, post, token, until_shown
from tests.harness import answer, in_turns, wish

EVIL = "<script>alert(1)</script><img src=x>"
REFUND = wish(("refund", {"order": "A-1", "amount": 5}))


async def schedule(api: Api, **changes: Any) -> str:
    """Make a schedule by the form, and return the address of its page."""
    page = "/console/schedules"
    form = {"name": f"report-{uuid.uuid4().hex[:8]}", "agent": "tester", "input": EVIL, "cron": "0 9 1 1 *"}
    done = await post(api, page, page=page, **{**form, **changes})
    assert done.status_code == 303, done.text
    return str(done.headers["location"])


async def test_a_schedule_is_made_held_started_and_deleted(api: Api) -> None:
    """Everything about a schedule is done by its page's forms, and what comes of it is on the page."""
    async with api.worker(in_turns(answer("Reported."))):
        path = await schedule(api, time_zone="Europe/Berlin")
        page = (await api.http.get(path)).text
        assert "0 9 1 1 * (Europe/Berlin)" in page
        assert "&lt;script&gt;" in page
        assert EVIL not in page

        await post(api, f"{path}/pause", page=path, reason=f"holiday {EVIL}")
        held = (await api.http.get(path)).text
        await post(api, f"{path}/trigger", page=path)
        ran = await until_shown(api, path, "completed")
        await post(api, f"{path}/resume", page=path)
        again = (await api.http.get(path)).text
        listed = (await api.http.get("/console/schedules")).text
        gone = await post(api, f"{path}/delete", page=path)

    assert "holiday &lt;script&gt;" in held
    assert ">Resume<" in held
    assert "/console/runs/schedule-" in ran
    assert ">Pause<" in again
    assert f'href="{path}"' in listed
    assert gone.headers["location"] == "/console/schedules"
    assert (await api.http.get(path)).status_code == 404


async def test_a_schedule_makes_up_for_times_that_have_passed(api: Api) -> None:
    """The times of the form are UTC; one that is no period is refused."""
    async with api.worker(in_turns(answer("Reported."))):
        path = await schedule(api, cron="", every="24h")
        sent = {"from": "2026-01-01T23:00", "to": "2026-01-03T01:00", "overlap": "allow_all"}
        await post(api, f"{path}/backfill", page=path, **sent)
        page = await until_shown(api, path, "<dd>2</dd>")
        refused = await post(api, f"{path}/backfill", page=path, **{**sent, "to": "2025-01-01T00:00"})
        await post(api, f"{path}/delete", page=path)

    assert "every 1d" in page
    assert refused.status_code == 422
    assert "later than" in refused.text


async def test_a_schedule_that_cannot_be_is_told_and_what_was_typed_stays(api: Api) -> None:
    """A schedule without a time, one with a wrong time zone: the form comes back as it was sent, and says why."""
    page = "/console/schedules"
    sent = {"name": "r", "agent": "tester", "input": EVIL}

    timeless = await post(api, page, page=page, **sent)
    nowhere = await post(api, page, page=page, **sent, cron="0 9 * * *", time_zone="Mars/Base")

    assert timeless.status_code == nowhere.status_code == 422
    assert "there is no time in it" in timeless.text
    assert "is no time zone" in nowhere.text
    assert "&lt;script&gt;" in timeless.text
    assert EVIL not in timeless.text


async def test_schedules_of_another_organisation_are_not_there(client: Client) -> None:
    """No list has them, and neither their page nor their buttons are found; who may only read has no buttons."""
    api = Api(client, settings=required(console_secret="s" * 40))
    async with api.http:
        org = f"acme-{uuid.uuid4().hex[:8]}"
        await log_in(api, await api.key(org))
        path = await schedule(api)
        await log_in(api, await api.key(org, scopes=(Scope.RUNS_READ,)))
        read = await api.http.get(path)
        refused = await api.http.post(f"{path}/pause", data={"csrf": token(read)}, headers=ORIGIN)
        await log_in(api, await api.key("globex"))
        foreign = await api.http.get(path)
        listed = (await api.http.get("/console/schedules")).text
        actions = [
            (await post(api, f"{path}/{action}", page="/console/schedules")).status_code
            for action in ("pause", "resume", "trigger", "delete")
        ]
        await log_in(api, await api.key(org))
        await post(api, f"{path}/delete", page=path)

    assert read.status_code == 200
    assert f"{path}/pause" not in read.text
    assert refused.status_code == 403
    assert foreign.status_code == 404
    assert path not in listed
    assert actions == [404] * 4


async def test_agents_show_how_their_runs_went(api: Api) -> None:
    """The page has the agent's health for a window, which a browser without scripts follows a link to."""
    async with api.worker(in_turns(answer("Done."))):
        await api.ended(await api.start())
        await eventually(lambda: _counted(api), within=timedelta(seconds=20), what="the run in the statistics")

    page = (await api.http.get("/console/agents?window=1h")).text
    address = re.search(r'href="(/console/agents/tester/health[^"]+)"', page)
    assert address is not None
    whole = (await api.http.get(address[1])).text
    part = (await api.http.get(address[1], headers={"HX-Request": "true"})).text

    assert "ended within 1h" in whole
    assert "Success" in part
    assert "<html" in whole
    assert "<html" not in part
    assert (await api.http.get("/console/agents/nobody/health")).status_code == 422


async def _counted(api: Api) -> bool:
    return bool((await api.get("/v1/agents/tester/health"))["statistics"]["runs"])


@pytest.mark.parametrize(("query", "there"), [("tool=refund", True), ("tool=look", False), ("kind=budget", False)])
async def test_the_inbox_is_filtered(api: Api, query: str, there: bool) -> None:
    """Only what passes the filters is listed, and a page without any says that it is the filters."""
    async with api.worker(in_turns(REFUND, answer("done"))):
        run_id = await api.start()
        asked = await api.approval(run_id)
        item = f"/console/approvals/{run_id}/{asked['approval_id']}"
        await until_shown(api, "/console/approvals?agent=tester", item)
        page = await api.http.get(f"/console/approvals?{query}&agent=tester")

    assert (item in page.text) is there
    assert (await api.http.get("/console/approvals?agent=none")).text.count("No approval fits these filters") == 1
    assert (await api.http.get("/console/approvals?kind=none")).status_code == 422
