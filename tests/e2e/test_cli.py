"""The commands that start runs, look at them and decide, as programs against a real server and worker."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support_desk.script import script
from temporalio.client import Client

from perdure import App
from perdure.codec import data_converter
from perdure.oversight import PendingApproval
from perdure.settings import Settings
from perdure.testing import ScriptedModel, eventually
from perdure_api.gateway import Gateway
from perdure_workers import dev_server
from perdure_workers.dev import child_environment, perdure_command, polled, start_worker
from perdure_workers.dev_server import DevServer
from perdure_workers.processes import ProcessGroup

pytestmark = pytest.mark.e2e

CUSTOMERS = itertools.count(1)
QUESTION = "Where is my order?"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Desk:
    """A server and a worker of the example app, and the environment that leads commands to them."""

    environment: dict[str, str]
    runs: Gateway

    async def perdure(self, *arguments: str, folder: Path | None = None) -> Ended:
        """Run a command to its end."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perdure_workers.cli", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
            cwd=folder,
        )
        out, err = await process.communicate()
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    async def start(self, task: str, *options: str) -> str:
        """Start a run and return its id."""
        ended = await self.perdure("run", "support", task, *options)
        assert ended.code == 0, ended.err
        return ended.out.strip()

    async def question(self, run_id: str) -> str:
        """Wait until a run asks a human, and return the approval's id."""

        async def asked() -> tuple[PendingApproval, ...]:
            return (await self.runs.runs.get(run_id)).pending_approvals

        (question,) = await eventually(asked, within=timedelta(seconds=60), what="the question to a human")
        return question.approval_id


def refund() -> str:
    """Return a task that ends in a question to a human: a refund that this shop has not paid yet."""
    number = next(CUSTOMERS)
    return f"I am customer-{number:03}@example.com. Order A-{2000 + number} arrived broken, please refund it."


@pytest.fixture(scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """Serve the example app with the scripted model."""
    server = DevServer()
    queue = f"cli-{uuid.uuid4().hex[:8]}"
    async with ScriptedModel(script) as model, dev_server.running(server), ProcessGroup() as group:
        environment = {
            **child_environment(server),
            **model.environment(),
            "PERDURE_TASK_QUEUE": queue,
            "SUPPORT_DESK_DB": str(tmp_path_factory.mktemp("desk") / "shop.db"),
        }
        worker = await start_worker(group, app="support_desk", environment=environment)
        await worker.wait_until(polled(server.address, queue), within=timedelta(seconds=60))
        client = await Client.connect(server.address, data_converter=data_converter())
        yield Desk(environment, Gateway(client, App(), Settings()))


async def test_a_run_that_is_waited_for_prints_its_answer_and_exits_with_0(desk: Desk) -> None:
    """Standard output is the answer alone; progress, with steps, tokens and cost, goes to standard error."""
    ended = await desk.perdure("run", "support", QUESTION, "--wait")

    assert (ended.code, ended.out) == (
        0,
        "Please tell me the e-mail address of your order, so that I can look it up.\n",
    )
    assert "1 step · " in ended.err
    assert "completed" in ended.err


async def test_a_rollout_is_set_shown_and_ended(desk: Desk) -> None:
    """At once and by whoever sits there; a version that the app does not have is refused, and changes nothing."""
    org = f"acme-{uuid.uuid4().hex[:8]}"

    made = await desk.perdure("agents", "rollout", "support", "1=3", "--org", org, "--by", "eve")
    refused = await desk.perdure("agents", "rollout", "support", "1=3", "9=1", "--org", org)
    shown = await desk.perdure("agents", "rollout", "support", "--org", org, "--json")
    ended = await desk.perdure("agents", "rollout", "support", "--clear", "--org", org)

    assert (made.code, "set by eve" in made.out, f"for organisation {org}" in made.out) == (0, True, True)
    assert (refused.code, "has no version '9'; it has: 1" in refused.err) == (2, True)
    assert json.loads(shown.out)["rollout"]["weights"] == {"1": 3}
    assert (ended.code, "no rollout" in ended.out) == (0, True)


async def test_versions_are_compared(desk: Desk) -> None:
    """A table, and whether one does better; a misspelt name is told."""
    told = await desk.perdure("agents", "compare", "support", "--window", "1h", "--app", "support_desk")
    unknown = await desk.perdure("agents", "compare", "nobody")

    assert (told.code, told.out.splitlines()[0].split()[:3]) == (0, ["version", "runs", "success"])
    assert told.out.splitlines()[-1] == "There are no runs of two versions to compare."
    assert (unknown.code, "there is no agent 'nobody'" in unknown.err) == (2, True)


async def test_a_run_goes_from_question_to_approval_to_replay(desk: Desk, tmp_path: Path) -> None:
    """Start, inbox, show, approve, watch, export, replay: the way of an operator, in seven commands."""
    run_id = await desk.start(refund(), "--user", "ann")
    approval_id = await desk.question(run_id)
    inbox = await desk.perdure("approvals", "list")
    shown = await desk.perdure("runs", "show", run_id)
    approved = await desk.perdure("approvals", "approve", run_id, approval_id, "--by", "eve", "--reason", "broken")
    watched = await desk.perdure("runs", "watch", run_id)
    exported = await desk.perdure("runs", "export", run_id, "-o", "run.json", folder=tmp_path)
    replayed = await desk.perdure("replay", "run.json", "--address", "127.0.0.1:1", folder=tmp_path)
    again = await desk.perdure("approvals", "approve", run_id, approval_id)

    assert f"perdure approvals approve {run_id} {approval_id}" in inbox.out
    assert (shown.code, shown.err) == (0, "")
    assert "refund_order" in shown.out
    assert f"perdure approvals approve {run_id} {approval_id}" in shown.out
    assert approved == Ended(0, f"approved {approval_id} of run {run_id} as eve\n", "")
    assert watched.code == 0
    assert "approved" in watched.out
    assert "R-0001" in watched.out
    assert (exported.code, exported.out) == (0, "")
    assert (replayed.code, replayed.out.splitlines()[-1]) == (0, "deterministic: yes")
    assert (again.code, again.out) == (2, "")


async def test_a_run_is_forked_with_something_changed(desk: Desk) -> None:
    """The new run's id is the output; both runs name each other, and a step that is not there is refused."""
    run_id = await desk.start(QUESTION)
    await desk.perdure("runs", "watch", run_id)
    forked = await desk.perdure("runs", "fork", run_id, "--step", "1", "--message", "Quickly, please.", "--json")
    fork_id = json.loads(forked.out)["run_id"]
    watched = await desk.perdure("runs", "watch", fork_id)
    shown, origin, beyond, stuck = await asyncio.gather(
        desk.perdure("runs", "show", fork_id),
        desk.perdure("runs", "show", run_id),
        desk.perdure("runs", "fork", run_id, "--step", "9"),
        desk.perdure("runs", "list", "--stuck"),
    )

    assert (forked.code, watched.code) == (0, 0)
    assert "Please tell me the e-mail address" in watched.out
    assert f"forked from {run_id} at step 1" in shown.out
    assert f"forked: {fork_id}" in origin.out
    assert (beyond.code, beyond.out) == (2, "")
    assert "the run has no step 9 yet; its last one is 1" in beyond.err
    assert stuck.out == "no run passes this filter\n"


async def test_temporals_own_command_decides_as_well(desk: Desk) -> None:
    """A signal of `temporal workflow signal` approves a call like the API does; a wrong one changes nothing."""
    run_id = await desk.start(refund())
    approval_id = await desk.question(run_id)
    signal = [dev_server.find_temporal(), "workflow", "signal", "--workflow-id", run_id, "--name", "approve", "--input"]
    for payload in (
        {"approval_id": "c9-nothing", "decided_by": "bob"},
        {"approval_id": approval_id, "decided_by": "ann"},
    ):
        process = await asyncio.create_subprocess_exec(*signal, json.dumps(payload), env=desk.environment)
        assert await process.wait() == 0

    watched = await desk.perdure("runs", "watch", run_id, "--json")

    events = [json.loads(line) for line in watched.out.splitlines()]
    decisions = [(event["kind"], event["decided_by"]) for event in events if "decided_by" in event]
    assert decisions == [("approval.ignored", "bob"), ("approval.approved", "ann")]
    assert watched.code == 0


async def test_the_end_of_a_run_is_the_exit_code_of_who_waits(desk: Desk) -> None:
    """Each end that is no success has a code of its own."""
    cancelled = await desk.start(refund())
    await desk.question(cancelled)
    asked = await desk.perdure("runs", "cancel", cancelled)

    ends = await asyncio.gather(
        desk.perdure("runs", "watch", cancelled),
        desk.perdure("run", "support", refund(), "--wait", "--limit", "max_steps=1"),
        desk.perdure("run", "support", refund(), "--wait", "--limit", "run_timeout=3"),
    )

    assert asked.code == 0
    assert [ended.code for ended in ends] == [3, 5, 4]


async def test_a_run_is_paused_spoken_to_and_resumed(desk: Desk) -> None:
    """Three commands steer a run, and its timeline tells who did."""
    run_id = await desk.start(refund())
    await desk.question(run_id)
    paused = await desk.perdure("runs", "pause", run_id, "--by", "ann", "--reason", "lunch")

    async def held() -> bool:
        return (await desk.runs.runs.get(run_id)).paused is not None

    await eventually(held, within=timedelta(seconds=20))
    shown = await desk.perdure("runs", "show", run_id)
    said = await desk.perdure("runs", "message", run_id, "Please hurry.", "--from", "eve")
    resumed = await desk.perdure("runs", "resume", run_id, "--by", "bob")

    async def goes_on() -> bool:
        return not await held()

    await eventually(goes_on, within=timedelta(seconds=20))
    after = await desk.perdure("runs", "show", run_id)
    await desk.perdure("runs", "cancel", run_id)

    assert [paused.code, said.code, resumed.code] == [0, 0, 0]
    assert f"perdure runs resume {run_id}" in paused.out
    assert "by ann: lunch" in shown.out
    assert f"paused; go on with: perdure runs resume {run_id}" in shown.out
    assert "from eve" in after.out
    assert "by bob after" in after.out
    assert "go on with" not in after.out


async def test_the_model_hears_why_a_call_was_rejected(desk: Desk) -> None:
    """A rejection ends neither the run nor the conversation."""
    run_id = await desk.start(refund())
    approval_id = await desk.question(run_id)
    rejected = await desk.perdure("approvals", "reject", run_id, approval_id, "--reason", "ask for a photo first")
    watched = await desk.perdure("runs", "watch", run_id, "--json")

    events = [json.loads(line) for line in watched.out.splitlines()]
    assert (rejected.code, watched.code) == (0, 0)
    assert events[-1]["kind"] == "run.ended"
    assert "ask for a photo first" in events[-1]["output"]


async def test_a_key_starts_one_run(desk: Desk) -> None:
    """A script that repeats itself names the run that it started first."""
    first = await desk.perdure("run", "support", QUESTION, "--idempotency-key", "k1", "--json")
    second = await desk.perdure("run", "support", QUESTION, "--idempotency-key", "k1", "--json")

    assert json.loads(first.out)["run_id"] == json.loads(second.out)["run_id"]
    assert [json.loads(ended.out)["created"] for ended in (first, second)] == [True, False]


async def test_a_list_is_filtered_and_says_when_it_is_empty(desk: Desk) -> None:
    """Filters name runs by who, what and how; nothing found is said, and is no error."""
    user = f"user-{uuid.uuid4().hex[:8]}"
    run_id = await desk.start(QUESTION, "--user", user, "--wait", "--json")
    assert json.loads(run_id)["status"] == "completed"

    async def listed() -> list[dict[str, Any]]:
        ended = await desk.perdure("runs", "list", "--user", user, "--status", "completed", "--json")
        found: list[dict[str, Any]] = json.loads(ended.out)
        return found

    (run,) = await eventually(listed)
    lines = (await desk.perdure("runs", "list", "--user", user)).out.splitlines()
    nothing = await desk.perdure("runs", "list", "--user", "nobody")
    assert [line.split()[0] for line in lines] == ["run", run["run_id"]]
    assert lines[1].endswith(f"  {QUESTION}")  # whole, as no terminal's width cuts it
    assert (nothing.code, nothing.out) == (0, "no run passes this filter\n")


async def test_watching_goes_on_when_the_server_was_killed_and_comes_back(tmp_path: Path) -> None:
    """The timeline has every event once, although the Temporal server was gone for a while."""
    server = DevServer(db_file=tmp_path / "temporal.db")
    async with ScriptedModel(script) as model, ProcessGroup() as group:
        first = await dev_server.start(group, server)
        client = await Client.connect(server.address, data_converter=data_converter())
        environment = {
            **child_environment(server),
            **model.environment(),
            "SUPPORT_DESK_DB": str(tmp_path / "shop.db"),
        }
        desk = Desk(environment, Gateway(client, App(), Settings()))
        await start_worker(group, app="support_desk", environment=environment)
        run_id = await desk.start(refund())
        watching = asyncio.create_task(desk.perdure("runs", "watch", run_id, "--json"))
        approval_id = await desk.question(run_id)
        first.kill()
        await first.wait()
        await dev_server.start(group, server)
        approved = await desk.perdure("approvals", "approve", run_id, approval_id)
        watched = await watching

    ids = [json.loads(line)["id"] for line in watched.out.splitlines()]
    assert (approved.code, watched.code, watched.err) == (0, 0, "")
    assert len(ids) == len(set(ids)) > 10


@pytest.mark.parametrize(("command", "started"), [("worker", "worker_started"), ("api --port 0", "api_started")])
async def test_a_server_process_that_is_asked_to_stop_exits_with_0(desk: Desk, command: str, started: str) -> None:
    """SIGTERM is how an orchestrator stops a process, and no failure."""
    async with ProcessGroup() as group:
        child = await group.start("child", perdure_command(*command.split()), environment=desk.environment)
        await eventually(lambda: started in child.tail, within=timedelta(seconds=60), what=started)

        code = await child.stop(grace=timedelta(seconds=40))

    assert code == 0, child.tail


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("runs show nope", "no run has the id 'nope'"),
        ("runs watch nope", "no run has the id 'nope'"),
        ("runs pause nope", "no run has the id 'nope'"),
        ("runs message nope hello", "no run has the id 'nope'"),
        ("replay nope", "no run has the id 'nope'"),
        ("approvals approve nope a1", "no run has the id 'nope'"),
        ("run nobody task", "nobody"),
        ("run support task --limit max_steps=0", "max_steps"),
        ("runs list --status odd", "--status 'odd'"),
        ("approvals approve nope a1 --arguments {", "is not JSON"),
        ("replay nothing.json", "nothing.json"),
    ],
)
async def test_what_cannot_be_is_one_line_and_exit_code_2(desk: Desk, command: str, words: str) -> None:
    """A mistake is told in one line that names what is wrong, and nothing was done."""
    ended = await desk.perdure(*command.split())

    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_a_list_cut_short_by_its_reader_ends_quietly(desk: Desk) -> None:
    """`perdure runs … | head` prints no traceback."""
    run_id = await desk.start(QUESTION, "--wait", "--json")
    assert run_id

    process = await asyncio.create_subprocess_shell(
        f"{sys.executable} -m perdure_workers.cli runs list --json | head -c 1",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **desk.environment},
    )
    out, err = await process.communicate()

    assert (out, err) == (b"[", b"")


async def test_what_runs_cost_can_be_read_and_limited(desk: Desk) -> None:
    """A run that could cost too much ends before its call, with an exit code of its own; usage adds up the rest."""
    org = f"org-{uuid.uuid4().hex[:8]}"
    stopped = await desk.perdure("run", "support", QUESTION, "--limit", "max_cost_usd=0.000001", "--wait", "--org", org)
    done = await desk.perdure("run", "support", QUESTION, "--wait", "--org", org, "--user", "ann")
    shown = await desk.perdure("runs", "show", stopped.err.split()[1])
    listed = await desk.perdure("runs", "list", "--status", "out_of_budget", "--org", org, "--json")
    table = await desk.perdure("usage", "--org", org, "--by", "user,model")
    written = await desk.perdure("usage", "--org", org, "--by", "user", "--csv")
    wrong = await desk.perdure("usage", "--by", "team")

    assert (stopped.code, done.code) == (8, 0), (stopped.err, done.err)
    assert "no budget  max_cost_usd" in shown.out
    assert "budget 'max_cost_usd': of $0.000001 for this run" in " ".join(shown.out.split())
    assert len(json.loads(listed.out)) == 1
    assert "ann" in table.out
    assert table.out.splitlines()[-1].startswith("total")
    header, row = written.out.splitlines()
    assert header.startswith("user,calls,input_tokens")
    assert row.startswith("ann,")
    assert wrong.code == 2
    assert "group_by.0" in wrong.err
