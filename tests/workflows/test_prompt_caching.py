"""Prompt caching through the official SDKs, against a vendor that caches by the real ones' rules."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from temporalio.client import Client

from perdure import App
from perdure.events import Step, steps
from perdure.history import read_events
from perdure.settings import Price, Settings
from perdure.testing import Call, ScriptedModel, ScriptedRequest, Turn
from perdure_activities.providers.openai_client import OpenAIClient
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from tests.harness import agent, start

ANTHROPIC, OPENAI, CHAT = "anthropic:claude-sonnet-5-5", "openai:gpt-5", "openai-chat:gpt-5"
TURNS = 6
WORDS = "word " * 400
PRICES = {
    model: Price(input=Decimal(10), output=Decimal(0), cache_read=Decimal(1), cache_write=Decimal(12))
    for model in (ANTHROPIC, OPENAI, CHAT)
}


async def run_of(
    client: Client, monkeypatch: pytest.MonkeyPatch, *, calls: int = 1, runs: int = 1, **changes: Any
) -> tuple[list[list[Step]], list[dict[str, Any]]]:
    """Make runs of an agent that looks a few times; return the model's steps of each, and all requests as sent."""
    app, bodies = App(), list[dict[str, Any]]()

    @app.tool()
    def look(at: int) -> str:
        """Look."""
        return f"{at} {WORDS}"

    app.add(agent(**{"instructions": WORDS, "tools": ("look",), **changes}))

    def script(request: ScriptedRequest) -> Turn:
        bodies.append(json.loads(json.dumps(request.body)))
        done = request.turn == TURNS - 1 or not request.tools
        wanted = [] if done else [Call("look", {"at": number}) for number in range(calls)]
        return Turn("done" if done else "Let me look.", calls=wanted, thinking="" if done else "I should look.")

    settings = Settings(task_queue=f"queue-{uuid.uuid4().hex}", shutdown_grace_seconds=0, prices=PRICES)
    found = []
    async with ScriptedModel(script) as model:
        for name, value in model.environment().items():
            monkeypatch.setenv(name, value)
        async with build_worker(client, settings, Perdure(app, settings=settings)):
            for _ in range(runs):
                handle = await start(client, app, settings)
                await handle.result()
                events = await read_events(client, handle.id)
                found.append([step for step in steps(events) if step.kind == "model"])
    return found, bodies


def marks(body: dict[str, Any]) -> list[str]:
    """Return which blocks of a request are marked, by their place."""
    blocks = [(f"tool {place}", block) for place, block in enumerate(body["tools"])]
    blocks += [(f"system {place}", block) for place, block in enumerate(body["system"])]
    for number, message in enumerate(body["messages"]):
        blocks += [(f"message {number}.{place}", block) for place, block in enumerate(message["content"])]
    return [place for place, block in blocks if block.get("cache_control") == {"type": "ephemeral"}]


async def test_each_call_reads_what_the_one_before_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anthropic reads the whole conversation but its last turn from the cache, and the step shows the share."""
    [found], bodies = await run_of(client, monkeypatch, model=ANTHROPIC)

    assert [marks(body) for body in bodies[:3]] == [
        ["tool 0", "system 0", "message 0.0"],
        ["tool 0", "system 0", "message 0.0", "message 2.0"],
        ["tool 0", "system 0", "message 2.0", "message 4.0"],
    ]
    for before, now in pairwise(found):
        assert before.usage is not None
        assert now.usage is not None
        written = before.usage.cache_read_tokens + before.usage.cache_write_tokens
        assert now.usage.cache_read_tokens == written > 0.9 * before.usage.input_tokens
    shares = [step.cached_share or 0 for step in found]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[-1] > 0.75


async def test_a_turn_of_many_calls_does_not_lose_the_cache(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anthropic looks twenty blocks back; the mark where the last call ended finds what lies before."""
    [found], bodies = await run_of(client, monkeypatch, model=ANTHROPIC, calls=16)

    assert len(bodies[1]["messages"][1]["content"]) + len(bodies[1]["messages"][2]["content"]) > 20
    for before, now in pairwise(found):
        assert before.usage is not None
        assert now.usage is not None
        assert now.usage.cache_read_tokens > 0.9 * before.usage.input_tokens


async def test_what_was_cached_is_paid_at_its_own_price(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run costs much less with caching than without; a gateway that refuses marks gets none."""
    [cached], _ = await run_of(client, monkeypatch, model=ANTHROPIC)
    [plain], bodies = await run_of(client, monkeypatch, model=ANTHROPIC, prompt_caching=False)

    assert "cache_control" not in json.dumps(bodies)
    assert {step.cached_share for step in plain} == {0}
    assert sum(step.cost_usd or 0 for step in cached) < sum(step.cost_usd or 0 for step in plain) * Decimal("0.6")


async def test_an_agent_that_calls_once_writes_no_conversation_into_the_cache(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its instructions are shared with the next run; its question is never sent again, and writing costs more."""
    [one, other], bodies = await run_of(client, monkeypatch, model=ANTHROPIC, tools=(), runs=2)

    assert [marks({"tools": (), **body}) for body in bodies] == [["system 0"]] * 2
    assert one[0].cached_share == 0
    assert (other[0].cached_share or 0) > 0.8


@pytest.mark.parametrize("own_host", [True, False])
async def test_openai_is_told_which_requests_belong_together(
    client: Client, monkeypatch: pytest.MonkeyPatch, own_host: bool
) -> None:
    """One key for each run with tools, which says nothing of it; compatible servers get none they might refuse."""

    async def speaks_to_openai(self: OpenAIClient) -> bool:
        return own_host

    monkeypatch.setattr(OpenAIClient, "speaks_to_openai", speaks_to_openai)
    (one, _), responses = await run_of(client, monkeypatch, model=OPENAI, runs=2)
    _, chat = await run_of(client, monkeypatch, model=CHAT)
    _, off = await run_of(client, monkeypatch, model=OPENAI, prompt_caching=False)

    keys = [body["prompt_cache_key"] for body in responses]
    assert [len(set(keys[:TURNS])), len(set(keys[TURNS:])), len(set(keys))] == [1, 1, 2]
    assert all(len(key) <= 64 and "run-" not in key for key in keys)
    assert ["prompt_cache_key" in body for body in chat] == [own_host] * TURNS
    assert not any("prompt_cache_key" in body for body in off)
    assert (one[-1].cached_share or 0) > 0.6


async def test_runs_that_share_only_their_instructions_share_a_key(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent without tools calls once a run: what its runs have in common is all there is to cache."""
    _, bodies = await run_of(client, monkeypatch, model=OPENAI, tools=(), runs=2)

    assert len({body["prompt_cache_key"] for body in bodies}) == 1
