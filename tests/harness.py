"""A run's surroundings in one process: a model scripted in Python, a worker that replays every task, a started run."""

from __future__ import annotations

import asyncio
import inspect
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

from temporalio.client import Client, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from perdure import Agent, App
from perdure.activities import Finish, TranscriptPage, TranscriptRequest
from perdure.agent import AgentSpec
from perdure.contracts import RunResult, RunView, Usage
from perdure.deltas import DeltaBus
from perdure.messages import MESSAGE, AssistantMessage, Message, Part, TextPart, ToolCallPart, ToolMessage
from perdure.oversight import ApprovalsMemo, PendingApproval
from perdure.search_attributes import MEMO_APPROVALS
from perdure.settings import Price, Settings
from perdure.testing import eventually
from perdure_activities.providers.provider import PromptCache, ProviderReply
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.state import RunArguments

T = TypeVar("T")
Script = Callable[[list[Message]], ProviderReply | Awaitable[ProviderReply]]
Handle = WorkflowHandle[AgentRun, RunResult]
Say = Callable[[str], None]


class InProcessModel:
    """A provider whose model is a Python function of the conversation."""

    wire = "in-process"
    price_id = "none"
    price_flavor = "default"

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[list[Message]] = []

    def encode(self, message: Message) -> bytes:
        """Write the message in our own form."""
        return message.model_dump_json().encode()

    async def call(
        self,
        spec: AgentSpec,
        messages: bytes,
        *,
        timeout: timedelta,  # the protocol's
        on_text: Callable[[str], None],
        cache: PromptCache | None = None,
    ) -> ProviderReply:
        """Ask the script."""
        conversation = [MESSAGE.validate_python(item) for item in json.loads(b"[" + messages + b"]")]
        self.seen.append(conversation)
        reply = self.script(conversation)
        return await reply if inspect.isawaitable(reply) else reply

    async def close(self) -> None:
        """Nothing to release."""


class SpeakingModel(InProcessModel):
    """One whose function also says the reply piece by piece, while it makes it."""

    def __init__(self, script: Callable[[list[Message], Say], Awaitable[ProviderReply]]) -> None:
        super().__init__(lambda _: answer(""))
        self._speak = script

    async def call(
        self,
        spec: AgentSpec,
        messages: bytes,
        *,
        timeout: timedelta,  # the protocol's
        on_text: Callable[[str], None],
        cache: PromptCache | None = None,
    ) -> ProviderReply:
        """Ask the script."""
        conversation = [MESSAGE.validate_python(item) for item in json.loads(b"[" + messages + b"]")]
        self.seen.append(conversation)
        return await self._speak(conversation, on_text)


class Stage:
    """A model that says its lines when it is told to."""

    def __init__(self, *lines: str, broken: bool = False) -> None:
        self.lines = lines
        self.broken = broken
        """Whether the connection breaks when the curtain falls."""
        self.cues = [asyncio.Event() for _ in lines]
        self.curtain = asyncio.Event()

    @property
    def model(self) -> SpeakingModel:
        """The model."""
        return SpeakingModel(self.speak)

    async def speak(self, _: list[Message], say: Say) -> ProviderReply:
        """Say each line on its cue."""
        for line, cue in zip(self.lines, self.cues, strict=True):
            await cue.wait()
            say(line)
        await self.curtain.wait()
        if self.broken:
            raise ApplicationError("it broke off", type="model_overloaded")
        return answer("".join(self.lines))


def answer(text: str, *, finish: Finish = Finish.STOP, detail: str = "") -> ProviderReply:
    """Return a reply of words."""
    return reply(TextPart(text=text), finish=finish, detail=detail)


def wish(*calls: tuple[str, Mapping[str, Any]], text: str = "", finish: Finish = Finish.TOOL_CALLS) -> ProviderReply:
    """Return a reply that calls tools."""
    parts: list[Part] = [TextPart(text=text)] if text else []
    parts += [ToolCallPart(id=f"call_{i}", name=name, arguments=dict(given)) for i, (name, given) in enumerate(calls)]
    return reply(*parts, finish=finish)


def reply(*parts: Part, finish: Finish, detail: str = "") -> ProviderReply:
    """Return a reply that used ten tokens in and five out."""
    return ProviderReply(
        message=AssistantMessage(parts=parts),
        finish=finish,
        detail=detail,
        model="scripted",
        usage=Usage(input_tokens=10, output_tokens=5),
    )


def used(said: ProviderReply, *, input_tokens: int, output_tokens: int) -> ProviderReply:
    """Return the reply as one whose server reports this usage, so that it has a cost where its model has a price."""
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    return replace(said, usage=usage, priced_usage={"usage": usage.model_dump()})


def turn(messages: list[Message]) -> int:
    """Return how often the model has spoken."""
    return sum(isinstance(message, AssistantMessage) for message in messages)


def in_turns(*replies: ProviderReply) -> Script:
    """Return a script that gives these replies one after the other."""
    return lambda messages: replies[turn(messages)]


def last_results(messages: list[Message]) -> list[str]:
    """Return the contents of the last tool message."""
    message = messages[-1]
    assert isinstance(message, ToolMessage)
    return [result.content for result in message.results]


def agent(**changes: Any) -> Agent:
    """Return an agent of the in-process model."""
    return Agent.model_validate({"name": "tester", "model": "in-process:scripted", **changes})


@asynccontextmanager
async def serving(
    client: Client,
    app: App,
    model: InProcessModel,
    *,
    task_queue: str | None = None,
    cached_runs: int = 0,
    prices: Mapping[str, Price] | None = None,
    deltas: DeltaBus | None = None,
    **options: Any,
) -> AsyncIterator[Settings]:
    """Run a worker; by default each workflow task replays its whole history, and no model has a price.

    Other options are settings.
    """
    settings = Settings(
        task_queue=task_queue or f"queue-{uuid.uuid4().hex[:12]}",
        max_cached_runs=cached_runs,
        shutdown_grace_seconds=0,
        **options,
        prices=dict(prices or {}),
    )
    plugin = Perdure(app, settings=settings, providers={"in-process": model}, deltas=deltas)
    async with build_worker(client, settings, plugin):
        yield settings


async def start(
    client: Client, app: App, settings: Settings, *, text: str = "go", run_id: str | None = None, **fields: Any
) -> Handle:
    """Start a run of the app's only agent."""
    chosen = next(app.agents())
    fields.setdefault("limits", chosen.limits)
    return await client.start_workflow(
        AgentRun.run,
        RunArguments(spec=app.resolve(chosen), input=text, **fields),
        id=run_id or f"run-{uuid.uuid4().hex}",
        task_queue=settings.task_queue,
    )


async def pending(handle: Handle, *, count: int = 1) -> list[PendingApproval]:
    """Wait until the run asks that many questions, and return them; read from its memo, as an inbox does."""

    async def asked() -> list[PendingApproval]:
        description = await handle.describe()
        memo = await description.memo_value(MEMO_APPROVALS, ApprovalsMemo(), type_hint=ApprovalsMemo)
        return list(memo.pending) if len(memo.pending) >= count else []

    return await eventually(asked, within=timedelta(seconds=20), what="the approval")


async def view(handle: Handle) -> RunView:
    """Return the run as it is now."""
    return await _answered(lambda: handle.query(AgentRun.view))


async def page(handle: Handle) -> TranscriptPage:
    """Return the first page of the transcript that the run's last execution holds."""
    return await _answered(lambda: handle.query(AgentRun.transcript, TranscriptRequest(start=0)))


async def transcript(handle: Handle) -> list[Message]:
    """Return the messages that the run's last execution holds."""
    return list((await page(handle)).messages)


async def _answered(query: Callable[[], Awaitable[T]]) -> T:
    """Ask until the run can answer: an execution that has just continued as new cannot for a moment."""

    async def ask() -> list[T]:
        try:
            return [await query()]
        except RPCError as error:
            if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                raise
            return []

    [answer] = await eventually(ask, what="an answer")
    return answer


def assert_valid(messages: list[Message]) -> None:
    """Check that each tool call is answered by exactly one result, in order, right after it was made."""
    for message, following in zip(messages, [*messages[1:], None], strict=True):
        calls = [call.id for call in message.tool_calls] if isinstance(message, AssistantMessage) else []
        if calls:
            assert isinstance(following, ToolMessage)
            assert [result.call_id for result in following.results] == calls
        else:
            assert not isinstance(following, ToolMessage)
