"""The live stream as its viewer has it: curl on a run of `perdure dev`, whose worker and API are two processes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from perdure.testing import Fault, Script, ScriptedModel, Turn
from tests.e2e.dev_session import Running, dev_session

pytestmark = pytest.mark.e2e

APP = """
from perdure import Agent, App

app = App()
app.add(Agent(name="helper", model="anthropic:claude-sonnet-5-5"))
"""
SLOW = Fault.slow(between=timedelta(milliseconds=150))
ANSWER = (
    "The quinces left on Monday, and the key that came with them was sk-ant-abcdefghij0123456789, so it is changed."
)
SHOWN = ANSWER.replace("sk-ant-abcdefghij0123456789", "[secret]")


async def curl(running: Running, run_id: str) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """Iterate over the messages that `curl -N` prints, as kind, id and content."""
    program = shutil.which("curl")
    assert program
    process = await asyncio.create_subprocess_exec(
        *(program, "-sN", "--max-time", "60", "-H", "Accept: text/event-stream"),
        f"{running.address('API')}/v1/runs/{run_id}/events",
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    fields: dict[str, str] = {}
    while line := (await process.stdout.readline()).decode():
        name, _, value = line.rstrip("\r\n").partition(": ")
        if name:
            fields[name] = value
        elif "data" in fields:
            yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
            fields = {}
    await process.wait()


async def watched(folder: Path, *faults: Fault) -> list[tuple[str, str, dict[str, Any]]]:
    """Start a run whose model meets these faults, and return what its viewer was sent."""
    (folder / "helper_app.py").write_text(APP, encoding="utf-8")
    async with (
        ScriptedModel(Script([Turn(ANSWER, faults=faults)])) as model,
        dev_session(folder, "helper_app:app", **model.environment()) as running,
        httpx2.AsyncClient(trust_env=False) as http,
    ):
        run = await http.post(f"{running.address('API')}/v1/runs", json={"agent": "helper", "input": "Where are they?"})
        return [message async for message in curl(running, run.json()["run_id"])]


async def test_curl_shows_words_as_the_model_says_them(tmp_path: Path) -> None:
    """Deltas cross from the worker to the API, between the events of their step, and no secret is among them."""
    messages = await watched(tmp_path, SLOW)

    kinds = [kind for kind, *_ in messages]
    deltas = [data for kind, _, data in messages if kind == "delta"]
    said = "".join(data["text"] for data in deltas)
    assert [kind for kind in kinds if kind != "delta"] == ["run.started", "model.called", "model.replied", "run.ended"]
    assert kinds.index("model.called") < kinds.index("delta") < kinds.index("model.replied")
    assert len(deltas) >= 3
    assert SHOWN.startswith(said)
    assert len(said) > len(SHOWN) // 2
    assert messages[-1][2]["output"] == SHOWN
    assert all(bool(event_id) == (kind != "delta") for kind, event_id, _ in messages)


async def test_curl_is_told_that_an_attempt_is_withdrawn(tmp_path: Path) -> None:
    """A connection that breaks in the middle of a reply: its words are withdrawn, and the next attempt's follow."""
    broken = Fault(kind=Fault.disconnect_midstream().kind, after=6, between=timedelta(milliseconds=150))
    messages = await watched(tmp_path, broken, SLOW)

    kinds = [kind for kind, *_ in messages]
    [reset] = [data for kind, _, data in messages if kind == "attempt.reset"]
    later = [data for kind, _, data in messages[kinds.index("attempt.reset") :] if kind == "delta"]
    assert reset == {"step": 1, "attempt": 2}
    assert {data["attempt"] for data in later} == {2}
    assert SHOWN.startswith("".join(data["text"] for data in later))
