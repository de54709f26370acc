"""`perdure replay --model …` as its user runs it: a real SDK, a scripted vendor, no server of one's own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.testing import Call, Script, ScriptedModel, ScriptedRequest, Turn

pytestmark = pytest.mark.e2e

HISTORY = Path(__file__).parents[1] / "replay" / "histories" / "everything.json"


def script(request: ScriptedRequest) -> Turn:
    """Find the order and answer; an agent that is told to guess asks for another order."""
    order = "7" if "Guess" in request.instructions else "1042"
    return Turn("Done.") if request.turn else Turn(calls=[Call("find_order", {"order_id": order})])


@pytest.fixture(scope="module")
async def vendor() -> AsyncIterator[dict[str, str]]:
    """The environment that leads to a scripted vendor."""
    async with ScriptedModel(Script(script)) as model:
        yield {**os.environ, **model.environment()}


async def perdure(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run a command to its end, and return its exit code, output and error output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure_workers.cli", *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def test_two_runs_are_shown_side_by_side(vendor: dict[str, str], tmp_path: Path) -> None:
    """With the estimate and the limit before, and the test written that was asked for."""
    test = tmp_path / "test_order.py"
    code, out, err = await perdure(vendor, "replay", str(HISTORY), "--model", "openai:gpt-5", "--save-test", str(test))

    assert code == 0
    assert "limit $5 (--max-cost)" in err
    assert "2 model" in out
    assert "parted at turn 1: the recorded run calls find_order, read_policy, guess" in out
    assert 'model="openai:gpt-5"' in test.read_text()
    assert "model_replied" not in out + err


async def test_an_unknown_result_has_an_exit_code_of_its_own(vendor: dict[str, str], tmp_path: Path) -> None:
    """For programs, as JSON."""
    prompt = tmp_path / "prompt.md"
    prompt.write_text("Guess.\n")

    code, out, _ = await perdure(
        vendor, "replay", str(HISTORY), "--model", "anthropic:claude-x", "--prompt-file", str(prompt), "--json"
    )
    _, table, _ = await perdure(
        vendor, "replay", str(HISTORY), "--model", "anthropic:claude-x", "--prompt-file", str(prompt)
    )

    comparison = json.loads(out)
    assert code == 9
    assert comparison["what_if"]["status"] == "stopped"
    assert comparison["what_if"]["instructions"] == "Guess."
    assert comparison["unknown"][0]["arguments"] == {"order_id": "7"}
    assert 'step 2: find_order(order_id="7"): the recorded run called find_order with other' in table


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--max-cost 1", "--model or --prompt-file"),
        ("--model openai:gpt-5 --pdb 1", "--pdb is for a replay"),
        ("--model gpt-5", "is not a model reference"),
        ("--model nobody:gpt-5", "there is no model provider 'nobody'"),
        ("--model openai:gpt-5 --max-cost much", "--max-cost is a number"),
        ("--model openai:nothing --max-cost 1", "nobody has a price for 'openai:nothing'"),
        ("--prompt-file nothing.md", "cannot read the prompt"),
        ("--model openai:gpt-5 --save-test refund.py", "pytest finds a test"),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_asked(options: str, words: str) -> None:
    """Exit code 2, and what is wrong."""
    code, out, err = await perdure(dict(os.environ), "replay", str(HISTORY), *options.split())

    assert (code, out) == (2, "")
    assert words in " ".join(err.replace("│", "").split())
