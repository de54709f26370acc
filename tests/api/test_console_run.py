"""A run's page: forks, feedback, scorers and deliveries, and what a retry has withdrawn."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from httpx2 import Response
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from perdure import Limits, ScoredRun
from perdure.activities import Finish
from perdure.messages import Message
from perdure.settings import Settings
from perdure_activities.providers.provider import ProviderReply
from tests.api.conftest import Api, shop
from tests.api.forms import post, until_shown
from tests.harness import InProcessModel, answer, in_turns, serving, turn, wish
from tests.receiver import receiving, status

LOOK = wish(("look", {"order": "A-1"}), text="Let me see.")
EVIL = "<script>alert(1)</script><img src=x>"
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
SIGNING: dict[str, Any] = {"webhook_secrets": [SECRET], "callback_allowed_networks": ["127.0.0.1/32"]}


def run_of(done: Response) -> str:
    """Return the run that a form led to."""
    assert done.status_code == 303, done.text
    return str(done.headers["location"].rpartition("/")[2])


async def test_a_run_is_forked_at_a_tool_call_with_other_arguments(api: Api) -> None:
    """The form has the call's arguments, what is changed in them is called, and both pages lead to the other run."""
    async with api.worker(in_turns(LOOK, answer("It is settled."))):
        run_id = await api.start()
        await api.ended(run_id)
        path = f"/console/runs/{run_id}/fork?step=2"
        assert path in (await api.http.get(f"/console/runs/{run_id}")).text
        assert 'value="A-1"' in (await api.http.get(path)).text

        fork = run_of(await post(api, path, page=path, once="1", **{"argument.order": "B-2"}))

        await api.ended(fork)
    steps = (await api.get(f"/v1/runs/{fork}/steps"))["items"]
    assert steps[0]["result"] == "B-2 is paid"
    assert f"/console/runs/{run_id}#step-2" in (await api.http.get(f"/console/runs/{fork}")).text
    await until_shown(api, f"/console/runs/{run_id}", f'href="/console/runs/{fork}"')


async def test_a_fork_goes_on_after_the_answer_with_a_message(api: Api) -> None:
    """Without a step, the form of a run that has answered is for what comes next; sent twice it starts one run."""
    async with api.worker(lambda messages: answer(f"after {len(messages)}")):
        run_id = await api.start()
        await api.ended(run_id)
        path = f"/console/runs/{run_id}/fork"
        assert "Behind the last step" in (await api.http.get(path)).text

        sent = {"once": "same", "message": "And B-2?", "instructions": "", "model": ""}
        fork = run_of(await post(api, f"{path}?step=2", page=path, **sent))
        again = run_of(await post(api, f"{path}?step=2", page=path, **sent))

        assert again == fork
        assert (await api.ended(fork))["output"] == "after 3"


async def test_a_fork_that_cannot_be_is_told_and_what_was_typed_stays(api: Api) -> None:
    """A result for a call and arguments for it exclude each other, and a form that says both comes back."""
    async with api.worker(in_turns(LOOK, answer("done"))):
        run_id = await api.start()
        await api.ended(run_id)
        path = f"/console/runs/{run_id}/fork?step=2"

        refused = await post(api, path, page=path, result="unpaid", message=EVIL, **{"argument.order": "B-2"})

    assert refused.status_code == 409
    assert "needs no arguments" in refused.text
    assert "unpaid" in refused.text
    assert 'value="B-2"' in refused.text
    assert "&lt;script&gt;alert" in refused.text
    assert EVIL not in refused.text


async def test_feedback_is_given_shown_and_taken_back(api: Api) -> None:
    """A score and a comment are kept by whoever sends them, markup in them is text, and only they take it back."""
    run_id = await api.start()
    page, beside = f"/console/runs/{run_id}", f"/console/runs/{run_id}/beside"

    done = await post(api, f"{page}/feedback", page=page, score="0.5", comment=EVIL, by="ann")
    shown = await until_shown(api, beside, "ann", "0.50")
    refused = await post(api, f"{page}/feedback", page=page, score="7", by="ann")
    await post(api, f"{page}/feedback/withdraw", page=page)

    assert done.status_code == 303, done.text
    assert "&lt;script&gt;" in shown
    assert EVIL not in shown
    assert "Take it back" in shown
    assert refused.status_code == 422
    assert "score" in refused.text
    await until_shown(api, beside, "Nobody has judged this run yet.")


async def test_scorers_are_shown_with_what_they_say(client: Client) -> None:
    """One that has judged has its score, one that broke has why."""
    app = shop(scorers=("answered", "broken"))

    @app.scorer()
    def answered(run: ScoredRun) -> float:
        return 0.75

    @app.scorer(max_attempts=1)
    def broken(run: ScoredRun) -> float:
        raise LookupError(EVIL)

    api = Api(client, app=app)
    async with api.http, api.worker(in_turns(answer("Done."))):
        run_id = await api.start()
        await api.ended(run_id)
        shown = await until_shown(api, f"/console/runs/{run_id}/beside", "scorer_broke", "0.75")

    assert "answered" in shown
    assert EVIL not in shown


@asynccontextmanager
async def telling(client: Client) -> AsyncIterator[Api]:
    """The shop's API and worker, which sign and may call loopback."""
    api = Api(client, settings=Settings(task_queue=f"queue-{uuid.uuid4().hex[:12]}", **SIGNING))
    model = InProcessModel(in_turns(answer("Done.")))
    queue = api.settings.task_queue
    async with api.http, serving(client, api.app, model, task_queue=queue, cached_runs=10, **SIGNING):
        yield api


async def test_a_delivery_that_was_given_up_is_sent_again(client: Client) -> None:
    """The page says whom the run could not tell, and its button has it told again."""
    async with receiving(status(410)) as receiver, telling(client) as api:
        run_id = await api.start(callback_url=receiver.url("/hook"))
        beside = f"/console/runs/{run_id}/beside"
        shown = await until_shown(api, beside, "failed", "Send again", "410")
        action = shown.partition('/redeliver"')[0].rpartition('action="')[2]

        done = await post(api, f"{action}/redeliver", page=beside)

        assert done.status_code == 303, done.text
        await until_shown(api, beside, "delivered")
        assert len(receiver.received) == 2


async def test_a_call_that_is_tried_again_says_why(api: Api) -> None:
    """A model that does not answer shows on the run's page while the run waits for it."""

    def script(messages: list[Message]) -> ProviderReply:
        raise ApplicationError(EVIL, type="model_overloaded")

    async with api.worker(script):
        run_id = await api.start()
        shown = await until_shown(api, f"/console/runs/{run_id}/beside", "Model call", "model_overloaded", "attempt 2")

    assert "&lt;script&gt;" in shown
    assert EVIL not in shown


async def test_what_a_retry_withdrew_is_folded_and_does_not_count(api: Api) -> None:
    """The timeline has the step that was made again once; what it was before is behind a fold, with why it failed."""
    broken = True

    def script(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            return LOOK
        return answer("", finish=Finish.REFUSAL, detail=EVIL) if broken else answer("It is paid.")

    async with api.worker(script):
        run_id = await api.start()
        await api.ended(run_id)
        broken = False
        path = f"/console/runs/{run_id}"
        await post(api, f"{path}/retry", page=path)
        page = await until_shown(api, path, "It is paid.", "Withdrawn by a retry")
    address = re.search(rf'href="({path}/withdrawn/[^"]+)"', page)
    assert address is not None
    past = await api.http.get(address[1].replace("&amp;", "&"))

    assert re.findall(r'<li id="(step-\d+)"', page) == ["step-1", "step-2", "step-3"]
    assert "model_refused" not in page
    assert re.findall(r'<li id="past-[0-9a-f]{12}-(step-\d+)"', past.text) == ["step-3"]
    assert "model_refused" in past.text
    assert "&lt;script&gt;" in past.text
    assert EVIL not in past.text


async def test_a_long_timeline_shows_its_end_first(client: Client) -> None:
    """A page has the latest hundred entries, and each hundred before them when it is asked for."""
    api = Api(client, app=shop(limits=Limits(max_steps=500)))
    calls = wish(*[("look", {"order": f"A-{place}"}) for place in range(124)])
    async with api.http, api.worker(in_turns(calls, answer("Done."))):
        run_id = await api.start()
        await api.ended(run_id)
        path = f"/console/runs/{run_id}"
        pages = [(await api.http.get(path)).text]
        while address := re.search(rf'hx-get="({path}/earlier[^"]+)"', pages[-1]):
            pages.append((await api.http.get(address[1])).text)

    shown = [[int(number) for number in re.findall(r'<li id="step-(\d+)"', page)] for page in pages]
    assert shown == [list(range(27, 127)), list(range(1, 27))]
    assert "26 more" in pages[0]
    assert "<html" not in pages[1]


async def test_a_step_that_waits_is_shown_however_many_follow(client: Client) -> None:
    """What a human is asked about is on the page, also if it is the first of many calls."""
    api = Api(client, app=shop(limits=Limits(max_steps=500)))
    looks = [("look", {"order": f"A-{place}"}) for place in range(123)]
    async with api.http, api.worker(in_turns(wish(("refund", {"order": "A-1", "amount": 5}), *looks), answer("Done."))):
        run_id = await api.start()
        asked = await api.approval(run_id)
        page = (await api.http.get(f"/console/runs/{run_id}")).text

    assert f"/console/approvals/{run_id}/{asked['approval_id']}" in page
    assert re.findall(r'<li id="step-(\d+)"', page)[0] == "2"


@pytest.mark.parametrize("action", ["fork", "feedback", "feedback/withdraw", "deliveries/d-1/redeliver"])
async def test_an_action_without_the_forms_token_does_nothing(api: Api, action: str) -> None:
    """None of them can be done by another site's form."""
    run_id = await api.start()
    await api.http.get("/console/runs")

    refused = await api.http.post(f"/console/runs/{run_id}/{action}", data={"score": "1", "by": "ann"})

    assert refused.status_code == 403
