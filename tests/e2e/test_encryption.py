"""What the Temporal server writes to its disk: with encryption on, nothing that people, models and tools said."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from perdure import App, ToolContext, ToolError
from perdure.activities import Finish
from perdure.codec import data_converter
from perdure.contracts import RunStatus
from perdure.encryption import Keyring, new_key
from perdure.errors import ConflictError
from perdure.events import RunCancelRequested
from perdure.messages import Message, ToolMessage
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_api.gateway import Gateway
from perdure_api.schemas import DecisionRequest, GrantFilter, HoldRequest, MessageRequest, NewRun, RevokeRequest
from perdure_workers import dev_server
from perdure_workers.dev_server import DevServer
from perdure_workers.processes import ProcessGroup
from tests.harness import InProcessModel, agent, answer, serving, turn, wish

pytestmark = pytest.mark.e2e

SOON = timedelta(minutes=1)
CONTINUE_AS_NEW = ("limit.historyCount.suggestContinueAsNew=40", 'history.continueAsNewMinInterval="10ms"')


@dataclass
class Words:
    """Unmistakable words, one for each way into the server."""

    ways: set[str] = field(default_factory=set)
    salt: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def __call__(self, way: str) -> str:
        """Return the word that goes this way."""
        self.ways.add(way)
        return f"quince {way} {self.salt}"

    def found_in(self, haystack: bytes) -> set[str]:
        """Return the ways whose words are there, as they are or in a common disguise."""
        return {way for way in self.ways if any(needle in haystack for needle in _disguises(self(way)))}


@workflow.defn(name="Owned", sandboxed=False)
class Owned:
    """A workflow of the user's own beside the runs: what Temporal offers and ours do not use."""

    @workflow.run
    async def run(self, salt: str) -> None:
        """Say everything that a workflow can say, then fail its task for good."""
        words = Words(salt=salt)  # made here, as an input that holds them would be where they are found
        workflow.upsert_memo({"note": words("own memo")})
        await workflow.sleep(timedelta(milliseconds=1), summary=words("own timer"))
        raise ValueError(words("own bug"))


def chatter(words: Words) -> App:
    """An app whose tools say something in every way there is."""
    app = App()
    attempts: list[str] = []

    def first(name: str) -> bool:
        attempts.append(name)
        return attempts.count(name) == 1

    @app.tool()
    def look(order: str) -> str:
        """Find something."""
        return words("result")

    @app.tool()
    async def linger(ctx: ToolContext) -> str:
        """Be at it when the server stops, which has the details of the last heartbeat until then."""
        ctx.heartbeat(words("heartbeat"))
        await asyncio.sleep(3600)
        return "done"

    @app.tool(max_attempts=3)
    def stumble() -> str:
        """Break once."""
        if first("stumble"):
            try:
                raise KeyError(words("cause"))
            except KeyError as error:
                raise ConnectionResetError(words("exception")) from error
        return "done"

    @app.tool()
    def refuse() -> str:
        """Say no."""
        raise ToolError(words("tool error"))

    @app.tool(effect="once", approval="ask")
    async def refund(ctx: ToolContext, order: str) -> str:
        """Lose the outcome."""
        raise RuntimeError(words("lost"))

    app.add(agent(tools=("look", "linger", "stumble", "refuse", "refund"), instructions=words("instructions")))
    return app


class Model:
    """A model that fails once, has every tool called, and then answers."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._failed = False

    def __call__(self, messages: list[Message]) -> ProviderReply:
        """Answer the conversation."""
        match getattr(messages[0], "text", ""):
            case "ask":
                return wish(("refund", {"order": "o2"}), text=self._words("last words"))
            case "linger":
                return wish(("linger", {}))
            case "fail":
                return answer("", finish=Finish.REFUSAL, detail=self._words("refusal"))
        if not self._failed:
            self._failed = True
            raise ApplicationError(self._words("model error"), self._words("model error details"))
        if turn(messages) == 0:
            calls: list[tuple[str, dict[str, Any]]] = [("look", {"order": self._words("argument")})]
            return wish(*calls, ("stumble", {}), ("refuse", {}), ("refund", {"order": "o1"}), text=self._words("reply"))
        if turn(messages) < 6:
            return wish(("refuse", {}))
        assert any(isinstance(message, ToolMessage) for message in messages)
        return answer(self._words("answer"))


async def live(client: Client, words: Words) -> None:
    """Have runs go through everything that people, models and tools can say."""
    app = chatter(words)
    async with serving(client, app, InProcessModel(Model(words))) as settings:
        runs = Gateway(client, app, settings)
        await _full_life(client, runs, words)
        await _cancelled(runs, words)
        await _rejected(runs, words)
        await _granted(runs, words)
        await _failed(runs, words)
        await _at_work(client, runs)
    await _owned(client, words)


async def _full_life(client: Client, runs: Gateway, words: Words) -> None:
    started = await runs.runs.start(NewRun(agent="tester", input=words("input"), metadata={"note": words("metadata")}))
    call = await _asked(runs, started.run_id)
    await runs.runs.pause(started.run_id, HoldRequest(by=words("pauser"), reason=words("pause")))
    message = {"text": words("message"), "from": words("sender")}
    await runs.runs.message(started.run_id, MessageRequest.model_validate(message))
    await runs.runs.resume(started.run_id, HoldRequest(by="ann", reason=words("resume")))
    edited = {"order": words("edited argument")}
    decision = DecisionRequest(
        decision="approve", decided_by=words("decider"), reason=words("approval"), arguments=edited
    )
    await runs.approvals.decide(started.run_id, call, decision)
    outcome = await _asked(runs, started.run_id)
    known = DecisionRequest(decision="approve", decided_by="ann", outcome="done", result=words("outcome"))
    await runs.approvals.decide(started.run_id, outcome, known)
    run = await runs.runs.result(started.run_id, timeout=SOON)
    assert run is not None
    assert (run.status, run.output) == (RunStatus.COMPLETED, words("answer"))
    assert (await client.count_workflows(f"WorkflowId = '{started.run_id}'")).count > 1


async def _cancelled(runs: Gateway, words: Words) -> None:
    started = await runs.runs.start(NewRun(agent="tester", input="ask"))
    await _asked(runs, started.run_id)
    await runs.runs.cancel(started.run_id, reason=words("cancel reason"))
    run = await runs.runs.result(started.run_id, timeout=SOON)
    events = await runs.runs.events(started.run_id)
    assert run is not None
    assert run.status is RunStatus.CANCELLED
    assert [event.reason for event in events if isinstance(event, RunCancelRequested)] == [words("cancel reason")]


async def _rejected(runs: Gateway, words: Words) -> None:
    started = await runs.runs.start(NewRun(agent="tester", input="ask"))
    call = await _asked(runs, started.run_id)
    await runs.approvals.decide(
        started.run_id, call, DecisionRequest(decision="reject", decided_by="ann", reason=words("rejection"))
    )
    with suppress(ConflictError):  # the model asks again, until somebody ends it
        await runs.runs.cancel(started.run_id)
    await runs.runs.result(started.run_id, timeout=SOON)


async def _granted(runs: Gateway, words: Words) -> None:
    started = await runs.runs.start(NewRun(agent="tester", input="ask"))
    call = await _asked(runs, started.run_id)
    granted = DecisionRequest(
        decision="approve", decided_by=words("granter"), reason=words("grant"), grant=timedelta(hours=1)
    )
    await runs.approvals.decide(started.run_id, call, granted)
    [grant] = await eventually(lambda: runs.grants.list(GrantFilter()), within=SOON, what="the grant")
    assert grant.reason == words("grant")
    await runs.grants.revoke(grant.grant_id, RevokeRequest(by=words("revoker"), reason=words("revocation")))
    await runs.runs.cancel(started.run_id)
    await runs.runs.result(started.run_id, timeout=SOON)


async def _failed(runs: Gateway, words: Words) -> None:
    started = await runs.runs.start(NewRun(agent="tester", input="fail"))
    run = await runs.runs.result(started.run_id, timeout=SOON)
    assert run is not None
    assert run.error is not None
    assert run.error.message == words("refusal")


async def _at_work(client: Client, runs: Gateway) -> None:
    started = await runs.runs.start(NewRun(agent="tester", input="linger"))

    async def beaten() -> bool:
        described = await client.get_workflow_handle(started.run_id).describe()
        return any(activity.heartbeat_details.payloads for activity in described.raw_description.pending_activities)

    await eventually(beaten, within=SOON, what="the heartbeat")


async def _owned(client: Client, words: Words) -> None:
    words.ways |= {"own memo", "own timer", "own bug"}
    async with Worker(client, task_queue="owned", workflows=[Owned], workflow_runner=SandboxedWorkflowRunner()):
        handle = await client.start_workflow(
            "Owned",
            words.salt,
            id=f"owned-{uuid.uuid4().hex}",
            task_queue="owned",
            memo={"start": words("own start memo")},
            static_summary=words("own summary"),
            static_details=words("own start details"),
        )

        async def stuck() -> bool:
            history = await handle.fetch_history()
            return any(event.HasField("workflow_task_failed_event_attributes") for event in history.events)

        await eventually(stuck, within=SOON)
    await handle.terminate()
    with suppress(WorkflowFailureError):
        await handle.result()


async def _asked(runs: Gateway, run_id: str) -> str:
    async def asked() -> str:
        pending = (await runs.runs.get(run_id)).pending_approvals
        return pending[0].approval_id if pending else ""

    return await eventually(asked, within=SOON, what="the approval")


async def _written(folder: Path, words: Words, keyring: Keyring | None) -> bytes:
    """Let everything be said to a server with a database file, and return what is in the file afterwards."""
    server = DevServer(db_file=folder / "temporal.db")
    extras = [option for setting in CONTINUE_AS_NEW for option in ("--dynamic-config-value", setting)]
    async with ProcessGroup() as group:
        child = await group.start("temporal", [*dev_server.command(server), *extras], forward=False)

        async def serves() -> bool:
            with suppress(RuntimeError):
                await Client.connect(server.address)
                return True
            return False

        await child.wait_until(serves, within=SOON)
        await live(await Client.connect(server.address, data_converter=data_converter(keyring=keyring)), words)
        await group.stop(grace=dev_server.STOP_GRACE)
    return _contents(folder / "temporal.db")


def _contents(database: Path) -> bytes:
    """Return what the database's files hold, as they are and value by value."""
    files = database.parent.glob(f"{database.name}*")
    return b"\0".join([*(file.read_bytes() for file in files), *_cells(database)])


def _cells(database: Path) -> Iterator[bytes]:
    """Return every value of every table: a file of SQLite has the long ones in pieces."""
    with sqlite3.connect(database) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield from (cell if isinstance(cell, bytes) else str(cell).encode() for cell in row)


def _disguises(word: str) -> Iterator[bytes]:
    plain = word.encode()
    yield from (plain, word.encode("utf-16-le"), word.encode("utf-16-be"), plain.hex().encode())
    yield word.replace(" ", "+").encode()
    yield word.replace(" ", "%20").encode()
    for shift in range(3):  # base64 has three ways to write a word, by where it begins
        yield base64.b64encode(b"\0" * shift + plain)[4 if shift else 0 : -4]


async def test_an_encrypted_database_holds_no_word_of_it(tmp_path: Path) -> None:
    """Through every way into the server, no word is on its disk; without encryption each of them is."""
    plain, encrypted = Words(), Words()
    (tmp_path / "plain").mkdir()
    (tmp_path / "encrypted").mkdir()

    seen = await _written(tmp_path / "plain", plain, None)
    hidden = await _written(tmp_path / "encrypted", encrypted, Keyring({"k1": new_key()}))

    assert plain.ways == encrypted.ways
    assert plain.ways - plain.found_in(seen) == set()
    assert encrypted.found_in(hidden) == set()
    assert encrypted.salt.encode() not in hidden
