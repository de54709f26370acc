"""One request to a model, as a span `chat` and as numbers."""

from __future__ import annotations

import time
from typing import Final

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue
from temporalio.exceptions import ApplicationError

from perdure import metrics, tracing
from perdure.activities import ModelCall
from perdure.agent import AgentSpec
from perdure.messages import AssistantMessage, Message, UserMessage
from perdure.span_content import as_attribute, messages_attribute
from perdure_activities.providers.provider import ProviderReply

VENDORS: Final = {"openai-chat": "openai"}
"""By provider prefix, where `gen_ai.provider.name` has another name."""


class ChatSpan:
    """Begins with the request. It ends with the reply, but stays open until it is known what may be shown of that."""

    def __init__(self, spec: AgentSpec, call: ModelCall, *, run_id: str) -> None:
        self._spec = spec
        self._began = time.perf_counter()
        self._ended_at: int | None = None
        self._span: Span = tracing.tracer.start_span(
            f"chat {spec.model_name}", kind=SpanKind.CLIENT, attributes=_request(spec, call, run_id=run_id)
        )

    def replied(self, reply: ProviderReply) -> None:
        """Take the reply's end."""
        self._ended_at = time.time_ns()
        self._measure("ok")
        if self._span.is_recording():
            self._span.set_attributes(_response(reply))

    def failed(self, error: BaseException) -> None:
        """End with an error."""
        kind = (error.type if isinstance(error, ApplicationError) else None) or type(error).__name__
        self._measure("error")
        metrics.model_errors.add(1, {"model": self._spec.model, "type": kind})
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end()

    def show(self, call: ModelCall, said: AssistantMessage, *, finish: str) -> None:
        """Show what was said: what people said since the call before, and the reply as it goes into history."""
        if self._span.is_recording():
            heard: list[Message] = [new.message for new in call.tail if isinstance(new.message, UserMessage)]
            self._span.set_attribute("gen_ai.system_instructions", as_attribute(_instructions(self._spec)))
            self._span.set_attribute("gen_ai.input.messages", messages_attribute(heard))
            self._span.set_attribute("gen_ai.output.messages", messages_attribute([said], finish=finish))

    def end(self) -> None:
        """End, at the time of the reply."""
        self._span.end(end_time=self._ended_at)

    def _measure(self, outcome: str) -> None:
        seconds = time.perf_counter() - self._began
        metrics.model_duration.record(seconds, {"model": self._spec.model, "outcome": outcome})


def _request(spec: AgentSpec, call: ModelCall, *, run_id: str) -> dict[str, AttributeValue]:
    given = {"gen_ai.request.max_tokens": spec.max_output_tokens, "gen_ai.request.temperature": spec.temperature}
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": VENDORS.get(spec.provider, spec.provider),
        "gen_ai.request.model": spec.model_name,
        "gen_ai.request.stream": True,
        "gen_ai.conversation.id": run_id,
        "gen_ai.agent.name": call.agent,
        "perdure.step": call.step,
        **{name: value for name, value in given.items() if value is not None},
    }


def _response(reply: ProviderReply) -> dict[str, AttributeValue]:
    return {
        "gen_ai.response.model": reply.model,
        "gen_ai.response.finish_reasons": [reply.finish.value],
        "gen_ai.usage.input_tokens": reply.usage.input_tokens,
        "gen_ai.usage.output_tokens": reply.usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": reply.usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": reply.usage.cache_write_tokens,
    }


def _instructions(spec: AgentSpec) -> list[dict[str, str]]:
    return [{"type": "text", "content": spec.instructions}]
