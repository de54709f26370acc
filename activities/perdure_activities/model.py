"""The activity `call_model`: bring the conversation, have the provider answer it, count what it cost.

Idempotent as far as a model can be: a repeated call asks the same question again, and only the reply that reaches the
history counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from perdure.agent import AgentSpec
from perdure.app import App
from perdure.contracts import (
    MAX_REPLY_BYTES,
    ModelCall,
    ModelReply,
    TranscriptPage,
    TranscriptSlice,
    cut,
)
from perdure.errors import PerdureError
from perdure.messages import AssistantMessage, Part, TextPart, ToolCallPart, canonical
from perdure.settings import Price
from perdure_activities.heartbeat import heartbeats
from perdure_activities.pricing import price
from perdure_activities.providers.provider import Provider
from perdure_activities.providers.registry import provider_for
from perdure_activities.transcripts import QUERY_TIMEOUT, Transcripts, last_fitting, segment_of

MAX_SPECS = 256
log = structlog.get_logger(__name__)


class ModelActivities:
    """Model calls of one worker process."""

    def __init__(
        self,
        app: App,
        *,
        providers: Mapping[str, Provider],
        transcripts: Transcripts,
        prices: Mapping[str, Price],
        worker: str,
    ) -> None:
        self._app = app
        self._providers = providers
        self._transcripts = transcripts
        self._prices = prices
        self._worker = worker
        self._specs: OrderedDict[str, AgentSpec] = OrderedDict()

    @activity.defn
    async def call_model(self, call: ModelCall) -> ModelReply:
        """Have the model answer the transcript."""
        info = activity.info()
        run_id, execution_id = info.workflow_id or "", info.workflow_run_id or ""
        with heartbeats() as pulse:
            spec = await self._spec(call, run_id=run_id, execution_id=execution_id)
            provider = provider_for(spec.provider, self._providers)
            conversation = await self._transcripts.take(
                run_id,
                call,
                client=activity.client(),
                execution_id=execution_id,
                wire=provider.wire,
                encode=provider.encode,
            )
            try:
                received = 0

                def on_text(text: str) -> None:
                    nonlocal received
                    received += len(text)
                    pulse.note({"characters": received})

                reply = await provider.call(spec, conversation.items(), timeout=call.timeout, on_text=on_text)
                reply = replace(reply, message=fit(reply.message))
                conversation.append(reply.message)
            finally:
                self._transcripts.put(run_id, conversation)
            cost = price(reply, model_reference=spec.model, provider=provider, overrides=self._prices)
        log.info(
            "model_replied",
            model=reply.model,
            finish=reply.finish.value,
            input_tokens=reply.usage.input_tokens,
            output_tokens=reply.usage.output_tokens,
            cost_usd=str(cost) if cost is not None else None,
        )
        return ModelReply(
            message=reply.message,
            finish=reply.finish,
            detail=reply.detail,
            model=reply.model,
            usage=reply.usage,
            cost_usd=cost,
            worker=self._worker,
        )

    @activity.defn
    async def adopt_transcript(self, wanted: TranscriptSlice) -> TranscriptPage:
        """Read messages back from an earlier execution of the run; they end where `wanted.end` says."""
        segment = segment_of(wanted.segments, wanted.end - 1)
        client = activity.client()
        handle = client.get_workflow_handle(activity.info().workflow_id or "", run_id=segment.execution_id)
        with heartbeats():
            messages = await self._transcripts.messages(handle, client, start=segment.start, end=wanted.end)
        messages = messages[-last_fitting(messages, max_bytes=MAX_REPLY_BYTES) :]
        return TranscriptPage(start=wanted.end - len(messages), messages=tuple(messages), length=wanted.end)

    async def _spec(self, call: ModelCall, *, run_id: str, execution_id: str) -> AgentSpec:
        """Return the spec that the run is pinned to, with the model that the call names.

        It is this worker's own if that is the same, else the run's.
        """
        name = f"{call.spec_digest} {call.model}"  # each is one object, as providers keep a request's head by it
        spec = self._specs.get(name)
        if spec is None:
            spec = self._own_spec(call)
            if spec is None or spec.digest() != call.spec_digest:
                handle = activity.client().get_workflow_handle(run_id, run_id=execution_id)
                spec = await handle.query("spec", result_type=AgentSpec, rpc_timeout=QUERY_TIMEOUT)
            self._specs[name] = spec = spec.model_copy(update={"model": call.model}) if call.model else spec
            while len(self._specs) > MAX_SPECS:
                self._specs.popitem(last=False)
        return spec

    def _own_spec(self, call: ModelCall) -> AgentSpec | None:
        try:
            return self._app.resolve(self._app.agent(call.agent, call.version))
        except PerdureError:
            return None


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
            type="model_reply_too_large",
            non_retryable=True,
        )
    return fitted
