"""`perdure verify-histories`: a sample of histories against this code, and no green light from looking at nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from temporalio.client import Client, WorkflowHistory

from perdure import App
from perdure.codec import data_converter
from perdure.encryption import Keyring, new_key
from perdure.history import load
from perdure.testing import eventually
from perdure_workers.history_check import HistoryCheck
from perdure_workers.history_sample import Execution, fetch_histories, find_executions, read_histories, spread
from tests.harness import InProcessModel, agent, answer, in_turns, serving, start, wish
from tests.workflows.money import daily, terms

HERE = Path(__file__).parent


def stored(name: str) -> WorkflowHistory:
    """Return a stored run."""
    [history] = load((HERE / "histories" / f"{name}.json").read_text())
    return history


async def verify(*arguments: str) -> tuple[int | None, str]:
    """Run the command, and return its code and all that it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure_workers.cli", "verify-histories", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode()


async def test_a_departure_fails_and_is_named() -> None:
    """By run, event and command, among histories that are verified before and after it; without a server."""
    code, said = await verify("--from", str(HERE / "histories"))

    [departure] = [line for line in said.splitlines() if line.startswith("departs:")]
    history = stored("departed")
    assert code == 1
    assert f"AgentRun {history.workflow_id} (execution {history.run_id})" in departure
    assert "event 53 (WorkflowPropertiesModified), step 7: the code goes on with call_tool for step 7" in departure


async def test_what_departs_does_not_spoil_what_comes_next() -> None:
    """One replayer takes all of them, one after the other."""
    again = stored("departed")
    started = again.events[0].workflow_execution_started_event_attributes
    started.original_execution_run_id = started.first_execution_run_id = str(uuid.uuid4())
    [ledger] = read_histories(HERE / "ledgers")

    async def mixed() -> AsyncIterator[WorkflowHistory]:
        for history in [stored("departed"), stored("failed"), again, ledger]:
            yield history

    replayed = [one async for one in HistoryCheck().replay(mixed())]

    assert [(one.workflow_type, one.departure is not None) for one in replayed] == [
        ("AgentRun", True),
        ("AgentRun", False),
        ("AgentRun", True),
        ("Ledger", False),
    ]


async def test_histories_can_be_kept_and_verified_from_files(tmp_path: Path) -> None:
    """What one check writes, another one reads."""
    kept = await verify("--from", str(HERE / "auditor"), "--out", str(tmp_path / "kept"))
    again = await verify("--from", str(tmp_path / "kept"), "--require", "2")

    assert (kept[0], again[0]) == (0, 0)


async def test_looking_at_nothing_is_said_and_can_be_refused(tmp_path: Path) -> None:
    """A pipeline asks for a number, so that an empty namespace or a wrong filter is not taken for a good sign."""
    told = await verify("--from", str(tmp_path))
    refused = await verify("--from", str(tmp_path), "--require", "1")

    assert (told[0], refused[0]) == (0, 1)
    assert "NOTHING TO VERIFY" in told[1]
    assert "0 histories were verified, and 1 are required" in refused[1]


async def test_a_sample_of_a_namespace_is_verified(client: Client) -> None:
    """Encrypted ones too, of runs and of what lives beside them."""
    config = client.config(active_config=True)
    key = new_key()
    config["data_converter"] = data_converter(keyring=Keyring({"a": key}))
    secret, org = Client(**config), f"org-{uuid.uuid4().hex[:8]}"
    app = App()

    @app.tool()
    def look() -> str:
        """Look."""
        return "seen"

    app.add(agent(tools=("look",)))
    async with serving(
        secret, app, InProcessModel(in_turns(wish(("look", {})), answer("done"))), encryption_keys={"a": key}
    ) as settings:
        for _ in range(3):
            await (await start(secret, app, settings, org=org, terms=terms(daily("50")))).result()
        query = f"TaskQueue = '{settings.task_queue}'"

        async def listed() -> list[Execution]:
            found = await find_executions(secret, since=timedelta(hours=1), query=query)
            return found if len(found) == 4 else []

        chosen = spread(await eventually(listed, what="the runs and their ledger in the list"), 3)
        check = HistoryCheck()
        replayed = [one async for one in check.replay(fetch_histories(secret, chosen))]

    assert Counter(one.workflow_type for one in replayed) == Counter({"AgentRun": 2, "Ledger": 1})
    assert [one.departure for one in replayed] == [None] * 3
    assert check.left_out == Counter()


def test_a_sample_has_some_of_everything_from_all_the_time() -> None:
    """What is rare is all in it; of what is frequent the newest and older ones."""
    many = [Execution(f"m{place}", "", "many") for place in range(100)]
    few = [Execution(f"f{place}", "", "few") for place in range(3)]

    taken = spread([*many, *few], 13)

    assert [one.workflow_id for one in taken] == ["f0", "f1", "f2", *(f"m{place * 10}" for place in range(10))]
    assert spread(few, 100) == few
    assert spread([], 10) == []


async def test_json_is_for_programs() -> None:
    """What was verified by type, and what departs."""
    code, said = await verify("--from", str(HERE / "auditor"), "--json")

    assert code == 0
    assert json.loads(said) == {"verified": {"Auditor": 2}, "departed": [], "left_out": {}}
