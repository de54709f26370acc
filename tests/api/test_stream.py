"""The live stream: a model's words reach viewers while it says them, and none that they must not see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from perdure.deltas import AttemptReset, Delta, MemoryBus
from perdure.messages import Message
from perdure_activities.providers.provider import ProviderReply
from perdure_api.feeds import Feeds, Told
from tests.api.conftest import Api, shop
from tests.harness import Say, SpeakingModel, Stage, answer, turn, wish


@pytest.fixture
async def live(client: Client) -> AsyncIterator[Api]:
    """The shop's API, whose worker is in the same process."""
    api = Api(client, deltas=MemoryBus())
    async with api.http:
        yield api


def feeds(api: Api) -> Feeds:
    """Return the feeds of the API's process."""
    found: Feeds = api.asgi.state.feeds
    return found


async def until(stream: AsyncIterator[Told], kind: str) -> list[Told]:
    """Return what comes next, up to one of this kind."""
    found: list[Told] = []
    async with asyncio.timeout(20):
        while not found or found[-1].kind != kind:
            found.append(await anext(stream))
    return found


def text(told: list[Told]) -> str:
    """Return what the deltas say together."""
    return "".join(Delta.model_validate_json(one.data).text for one in told if one.kind == "delta")


async def test_words_reach_a_viewer_while_the_model_says_them(live: Api) -> None:
    """Deltas come between the events of their step, without an id, and say what the reply says."""
    stage = Stage("It ", "is ", "paid.")
    async with live.worker(stage.model):
        run_id = await live.start()
        stream = feeds(live).follow(run_id)
        stage.cues[0].set()
        before = await until(stream, "delta")
        stage.cues[1].set()
        more = await until(stream, "delta")
        stage.cues[2].set()
        stage.curtain.set()
        rest = await until(stream, "run.ended")

    told = before + more + rest
    first = Delta.model_validate_json(before[-1].data)
    assert [one.kind for one in before] == ["run.started", "model.called", "delta"]
    assert (first, before[-1].id) == (Delta(step=1, attempt=1, seq=1, text="It "), None)
    assert text(told) == "It is paid."
    assert [one.kind for one in rest if one.kind != "delta"] == ["model.replied", "run.ended"]


async def test_a_late_viewer_gets_the_step_so_far(live: Api) -> None:
    """Whoever comes in the middle of a step reads what was said of it as one delta, and goes on with the others."""
    stage = Stage("It ", "is ", "paid.")
    async with live.worker(stage.model):
        run_id = await live.start()
        early = feeds(live).follow(run_id)
        for cue in stage.cues[:2]:
            cue.set()
            await until(early, "delta")
        late = feeds(live).follow(run_id)
        heard = await until(late, "delta")
        again = feeds(live).follow(run_id, after="0.1")
        resumed = await until(again, "delta")
        stage.cues[2].set()
        stage.curtain.set()
        rest = await until(late, "run.ended")
        await again.aclose()
        await until(early, "run.ended")

    assert Delta.model_validate_json(heard[-1].data) == Delta(step=1, attempt=1, seq=2, text="It is ")
    assert (text(resumed), text(heard + rest)) == ("It is ", "It is paid.")


async def test_what_a_failed_attempt_said_is_withdrawn(live: Api) -> None:
    """A reset comes before the next attempt's first word, for those who saw the first one's only."""
    tries = 0
    go_on = asyncio.Event()

    async def speak(_: list[Message], say: Say) -> ProviderReply:
        nonlocal tries
        tries += 1
        if tries == 1:
            say("It is lost.")
            await go_on.wait()
            raise ApplicationError("it broke off", type="model_overloaded")
        say("It is paid.")
        return answer("It is paid.")

    async with live.worker(SpeakingModel(speak)):
        run_id = await live.start()
        stream = feeds(live).follow(run_id)
        first = await until(stream, "delta")
        go_on.set()
        reset = await until(stream, "attempt.reset")
        second = await until(stream, "run.ended")

    assert text(first) == "It is lost."
    assert AttemptReset.model_validate_json(reset[-1].data) == AttemptReset(step=1, attempt=2)
    assert "attempt.reset" not in [one.kind for one in second]
    assert text(second) == "It is paid."


async def test_a_secret_in_pieces_is_not_seen(live: Api) -> None:
    """Redaction stands between the model and the bus, whatever the cut."""
    said = "The key is sk-ant-abcdefghij0123456789, keep it."

    async def speak(_: list[Message], say: Say) -> ProviderReply:
        for letter in said:
            say(letter)
            await asyncio.sleep(0)
        return answer(said)

    async with live.worker(SpeakingModel(speak)):
        run_id = await live.start()
        told = [one async for one in feeds(live).follow(run_id)]

    assert "abcdef" not in "".join(one.data for one in told)
    assert "The key is [secret], keep it.".startswith(text(told))


async def test_nothing_is_heard_of_an_agent_with_secret_arguments(client: Client) -> None:
    """What a tool's secret argument is, only the whole reply tells; so nothing of it is shown before."""
    app = shop()

    @app.tool(secrets=("pin",))
    def unlock(pin: str) -> str:
        """Unlock."""
        return "open"

    chosen = next(app.agents())
    app.add(chosen.model_copy(update={"name": "keeper", "tools": ("unlock",)}))
    api = Api(client, app=app, deltas=MemoryBus())

    async def speak(messages: list[Message], say: Say) -> ProviderReply:
        say("I try 4711.")
        return answer("done") if turn(messages) else wish(("unlock", {"pin": "4711"}), text="I try 4711.")

    async with api.http, api.worker(SpeakingModel(speak)):
        run_id = await api.start(agent="keeper")
        told = [one async for one in feeds(api).follow(run_id)]

    assert "delta" not in [one.kind for one in told]
    assert "4711" not in "".join(one.data for one in told)


async def test_a_slow_viewer_holds_nothing_up_and_misses_nothing(live: Api) -> None:
    """Whoever takes nothing for a while finds no queue: all that was said meanwhile is one delta."""
    stage = Stage(*(f"This is line {number}. " for number in range(100)))
    async with live.worker(stage.model):
        run_id = await live.start()
        slow, quick = feeds(live).batches(run_id), feeds(live).follow(run_id)
        stage.cues[0].set()
        first: list[Told] = []
        while "delta" not in [one.kind for one in first]:
            first += await anext(slow)
        for cue in stage.cues:
            cue.set()
        heard: list[Told] = []
        while "line 90" not in text(heard):
            heard += await until(quick, "delta")
        rest = await anext(slow)
        stage.curtain.set()
        await until(quick, "run.ended")
        await slow.aclose()

    assert [one.kind for one in rest] == ["delta"]
    assert "line 90" in text(first + rest)
    assert "".join(stage.lines).startswith(text(first + rest))


async def test_viewers_share_one_subscription(live: Api) -> None:
    """Fifty viewers of a run listen to the bus once, read its history once, and all see the same."""
    stage = Stage("It ", "is ", "paid.")
    async with live.worker(stage.model):
        run_id = await live.start()

        async def view() -> str:
            return text([one async for one in feeds(live).follow(run_id)])

        viewers = [asyncio.create_task(view()) for _ in range(50)]
        stream = feeds(live).follow(run_id)
        stage.cues[0].set()
        await until(stream, "delta")
        names = [task.get_name() for task in asyncio.all_tasks() if run_id in task.get_name()]
        for cue in stage.cues:
            cue.set()
        stage.curtain.set()
        seen = await asyncio.gather(*viewers)
        await until(stream, "run.ended")

    assert sorted(names) == [f"deltas of {run_id}", f"events of {run_id}"]
    assert set(seen) == {"It is paid."}
