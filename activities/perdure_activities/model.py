"""The activity `call_model`: bring the conversation, have one of the agent's models answer it, count what it cost.

Idempotent as far as a model can be: a repeated call asks the same question again, and only the reply that reaches the
history counts.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from perdure import metrics
from perdure.activities import ModelCall, ModelReply, TranscriptPage, TranscriptSlice
from perdure.agent import AgentSpec
from perdure.app import App
from perdure.contracts import MAX_REPLY_BYTES, Usage, cut
from perdure.deltas import DeltaBus
from perdure.errors import PerdureError
from perdure.messages import AssistantMessage, Part, TextPart, ToolCallPart, canonical
from perdure.outage import REPLY_TOO_LARGE, TRANSCRIPT_LOST
from perdure.redaction import ValueRedactor, redact_model
from perdure.secret_arguments import secret_values
from perdure.settings import Price
from perdure_activities.breaker import Breaker
from perdure_activities.chain import Answer, Deadline, first_answer
from perdure_activities.chat_span import ChatSpan
from perdure_activities.conversation import Conversation, TranscriptError
from perdure_activities.heartbeat import Pulse, heartbeats
from perdure_activities.output_guard import Guarded, guarded, watched
from perdure_activities.pricing import price
from perdure_activities.providers.provider import PromptCache, Provider, ProviderReply
from perdure_activities.transcripts import (
    QUERY_TIMEOUT,
    Transcripts,
    last_fitting,
    segment_of,
)
from perdure_activities.voice import Voice, may_be_heard

MAX_SPECS = 256
TRANSCRIPT_ATTEMPTS = 10
"""At a transcript that is not the one that its model call names."""
log = structlog.get_logger(__name__)


class ModelActivities:
    """Model calls of one worker process."""

    def __init__(
        self,
        app: App,
        *,
        providers: Mapping[str, Provider],
        transcripts: Transcripts,
        breaker: Breaker,
        prices: Mapping[str, Price],
        worker: str,
        trace_content: bool = False,
        deltas: DeltaBus | None = None,
    ) -> None:
        self._app = app
        self._providers = providers
        self._transcripts = transcripts
        self._breaker = breaker
        self._prices = prices
        self._worker = worker
        self._trace_content = trace_content
        self._deltas = deltas
        self._specs: OrderedDict[str, tuple[AgentSpec, ...]] = OrderedDict()

    @activity.defn
    async def call_model(self, call: ModelCall) -> ModelReply:
        """Have one of the agent's models answer the transcript."""
        info = activity.info()
        run_id, execution_id = info.workflow_id or "", info.workflow_run_id or ""
        with heartbeats() as pulse:
            specs = await self._specs_of(call, run_id=run_id, execution_id=execution_id)
            conversation = self._transcripts.take(run_id)
            attempt = _Attempt(self._transcripts, conversation, call, run_id, execution_id, pulse, specs, self._deltas)
            try:
                answer = await first_answer(
                    specs,
                    attempt.ask,
                    providers=self._providers,
                    breaker=self._breaker,
                    timeout=call.timeout,
                    attempt=info.attempt,
                )
                passed = await guarded(answer.reply, answer.spec.output_guard, before=call.unfinished)
                message = conversation.hear(fit(passed.reply.message))
                if self._trace_content:
                    self._show(attempt, message, finish=passed.reply.finish.value)
            except TranscriptError as error:
                # A run that parks has no limit of attempts, and this is no outage to be waited for.
                final = info.attempt >= TRANSCRIPT_ATTEMPTS
                raise ApplicationError(str(error), type=TRANSCRIPT_LOST, non_retryable=final) from None
            finally:
                self._transcripts.put(run_id, conversation)
                attempt.close()
            return self._told(call, answer, passed, message)

    def _show(self, attempt: _Attempt, message: AssistantMessage, *, finish: str) -> None:
        """Let the call's span say what was said, without what the tools declare as secret."""
        tools = {part.name: tool for part in message.tool_calls if (tool := self._app.find_tool(part.name))}
        values = {
            value
            for part in message.tool_calls
            if part.name in tools
            for value in secret_values(part.arguments, tools[part.name].spec.secrets)
        }
        shown = redact_model(message, ValueRedactor(values)) if values else message
        for chat in attempt.chats:
            chat.show(attempt.call, shown, finish=finish)

    def _told(self, call: ModelCall, answer: Answer, passed: Guarded, message: AssistantMessage) -> ModelReply:
        """Return what history keeps of an answer, as the guards left it, its price included."""
        reply, reference = passed.reply, answer.spec.model
        cost = price(reply, model_reference=reference, provider=answer.provider, overrides=self._prices)
        count_use(call.agent, reference, reply.usage, cost)
        log.info(
            "model_replied",
            model=reply.model,
            finish=reply.finish.value,
            input_tokens=reply.usage.input_tokens,
            cached_tokens=reply.usage.cache_read_tokens,
            output_tokens=reply.usage.output_tokens,
            cost_usd=str(cost) if cost is not None else None,
            skipped=[skipped.model for skipped in answer.skipped],
        )
        return ModelReply(
            message=message,
            finish=reply.finish,
            detail=reply.detail,
            model=reply.model,
            reference=reference,
            skipped=answer.skipped,
            usage=reply.usage,
            cost_usd=cost,
            worker=self._worker,
            withdrawn=passed.withdrawn,
        )

    @activity.defn
    async def adopt_transcript(self, wanted: TranscriptSlice) -> TranscriptPage:
        """Read messages back from an earlier execution of the run; they end where `wanted.end` says."""
        segment = segment_of(wanted.segments, wanted.end - 1)
        client = activity.client()
        handle = client.get_workflow_handle(
            segment.run_id or activity.info().workflow_id or "", run_id=segment.execution_id
        )
        with heartbeats():
            messages = await self._transcripts.messages(handle, client, start=segment.start, end=wanted.end)
        messages = messages[-last_fitting(messages, max_bytes=MAX_REPLY_BYTES) :]
        return TranscriptPage(start=wanted.end - len(messages), messages=tuple(messages), length=wanted.end)

    async def _specs_of(self, call: ModelCall, *, run_id: str, execution_id: str) -> tuple[AgentSpec, ...]:
        """Return the spec that the run is pinned to, once with each of its models, or with the one that the call names.

        It is this worker's own if that is the same, else the run's.
        """
        name = f"{call.spec_digest} {call.model}"  # each is one object, as providers keep a request's head by it
        specs = self._specs.get(name)
        if specs is None:
            spec = self._own_spec(call)
            if spec is None or spec.digest() != call.spec_digest:
                handle = activity.client().get_workflow_handle(run_id, run_id=execution_id)
                spec = await handle.query("spec", result_type=AgentSpec, rpc_timeout=QUERY_TIMEOUT)
            models = (call.model,) if call.model else spec.models
            specs = self._specs[name] = tuple(spec.asking(model) for model in models)
            while len(self._specs) > MAX_SPECS:
                self._specs.popitem(last=False)
        return specs

    def _own_spec(self, call: ModelCall) -> AgentSpec | None:
        try:
            return self._app.resolve(self._app.agent(call.agent, call.version))
        except PerdureError:
            return None


@dataclass(frozen=True)
class _Attempt:
    """One attempt at a model call: the conversation that it is about, and how a model is asked to go on with it."""

    transcripts: Transcripts
    conversation: Conversation
    call: ModelCall
    run_id: str
    execution_id: str
    pulse: Pulse
    specs: Sequence[AgentSpec]
    deltas: DeltaBus | None
    chats: list[ChatSpan] = field(default_factory=list)
    """Of the request that was answered."""

    def close(self) -> None:
        """End the span of the request that was answered."""
        for chat in self.chats:
            chat.end()

    async def ask(self, spec: AgentSpec, provider: Provider, *, deadline: Deadline) -> ProviderReply:
        """Bring the conversation to where the call wants it, in the provider's wire form, and have it answered."""
        await self.transcripts.complete(
            self.conversation,
            self.run_id,
            self.call,
            client=activity.client(),
            execution_id=self.execution_id,
            wire=provider.wire,
            encode=provider.encode,
        )
        received = 0
        voice = self._voice(spec)

        def on_text(text: str) -> None:
            nonlocal received
            received += len(text)
            self.pulse.note({"characters": received})
            if voice is not None:
                voice.say(text)

        messages = self.conversation.items(provider.wire)
        cache = self._cache(spec, provider) if spec.prompt_caching else None
        shown = watched(spec.output_guard, on_text)
        chat = ChatSpan(spec, self.call, run_id=self.run_id)
        try:
            reply = await provider.call(spec, messages, timeout=deadline.left, on_text=shown, cache=cache)
        except BaseException as error:  # a cancellation ends the span too
            chat.failed(error)
            raise
        finally:
            if voice is not None:
                voice.end()
        chat.replied(reply)
        self.chats.append(chat)
        return reply

    def _voice(self, spec: AgentSpec) -> Voice | None:
        """Return what tells viewers, if there may be any."""
        if self.deltas is None or not may_be_heard(spec, self.call):
            return None
        place = next(place for place, one in enumerate(self.specs) if one is spec)
        # Each model that is asked is an attempt to viewers, as they are to forget what the one before it said.
        attempt = (activity.info().attempt - 1) * len(self.specs) + place + 1
        return Voice(self.deltas, self.run_id, execution_id=self.execution_id, step=self.call.step, attempt=attempt)

    def _cache(self, spec: AgentSpec, provider: Provider) -> PromptCache:
        key = cache_key(spec, run_id=self.run_id, spec_digest=self.call.spec_digest)
        return PromptCache(key=key, sent=self.conversation.sent(provider.wire))


def count_use(agent: str, model: str, usage: Usage, cost: Decimal | None) -> None:
    """Have the process's numbers know what a model call on behalf of an agent used."""
    labels = {"agent": agent, "model": model}
    kinds = {
        "input": usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens,
        "cache_read": usage.cache_read_tokens,
        "cache_write": usage.cache_write_tokens,
        "output": usage.output_tokens,
    }
    for kind, count in kinds.items():
        metrics.tokens.add(max(0, count), {**labels, "kind": kind})
    if cost is None:
        metrics.unpriced_calls.add(1, labels)
    else:
        metrics.cost.add(float(cost), labels)


def cache_key(spec: AgentSpec, *, run_id: str, spec_digest: str) -> str:
    """Name the requests that should meet the same cache.

    OpenAI sends requests of one key and one beginning to one machine, up to some 15 a minute; what is more goes
    elsewhere and finds nothing. A run with tools sends its own growing conversation again and again, one call after
    the other, which stays below that; with a key for all runs of the agent a busy day would scatter the calls of each.
    An agent without tools makes one call a run, and all that its runs share is its instructions.

    Args:
        spec: The agent.
        run_id: The run; what people named it by is not told to the provider.
        spec_digest: Of the spec that the run is pinned to.
    """
    shared = f"run:{run_id}" if spec.tools else f"agent:{spec_digest}"
    return f"perdure-{hashlib.blake2b(shared.encode('utf-8', 'replace'), digest_size=16).hexdigest()}"


def fit(message: AssistantMessage) -> AssistantMessage:
    """Cut a reply that is too large for a history; a tool call that large is not run but answered.

    Raises:
        ApplicationError: What only the provider understands is too large by itself.
    """
    if len(canonical(message)) <= MAX_REPLY_BYTES:
        return message
    share = MAX_REPLY_BYTES // (2 * max(1, len(message.parts)))
    parts: list[Part] = []
    for part in message.parts:
        if isinstance(part, TextPart):
            parts.append(TextPart(text=cut(part.text, share)))
        elif isinstance(part, ToolCallPart) and len(part.model_dump_json().encode()) > share:
            parts.append(
                ToolCallPart(id=part.id, name=part.name, malformed=f"larger than {share:,} bytes, and left out")
            )
        else:
            parts.append(part)
    fitted = AssistantMessage(parts=tuple(parts))
    if len(canonical(fitted)) > MAX_REPLY_BYTES:
        raise ApplicationError(
            f"the reply is larger than {MAX_REPLY_BYTES:,} bytes even with its text cut",
            type=REPLY_TOO_LARGE,
            non_retryable=True,
        )
    return fitted
