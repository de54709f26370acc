"""Activities as events: model calls, tool calls, and the answers that calls get without being dispatched.

Arguments that a tool declares as secret are masked here, also where a result, an error or the model repeats them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypedDict

from google.protobuf.message import Message as Proto
from temporalio.api.common.v1 import Payloads
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import (
    ActivityTaskCanceledEventAttributes,
    ActivityTaskCompletedEventAttributes,
    ActivityTaskFailedEventAttributes,
    ActivityTaskScheduledEventAttributes,
    ActivityTaskStartedEventAttributes,
    ActivityTaskTimedOutEventAttributes,
)

from perdure.activities import TOOL_MISSING, ModelCall, ModelReply, Reconciliation, TailMessage, ToolCall, ToolOutcome
from perdure.contracts import RunInput, RunResult, Totals
from perdure.events.event import (
    ModelCalled,
    ModelFailed,
    ModelReplied,
    RequestedCall,
    RunEvent,
    ToolAnswered,
    ToolCalled,
    ToolCleanedUp,
    ToolFailed,
    ToolFinished,
    ToolReconciled,
)
from perdure.events.payloads import CarriedRun, OpenCall, describe, read_first
from perdure.events.stamp import Stamp
from perdure.messages import JsonObject, ToolCallPart, ToolResult
from perdure.redaction import ValueRedactor
from perdure.secret_arguments import mask_arguments, secret_values
from perdure.secret_forms import MASK
from perdure.tool import Effect

_Purpose = Literal["call", "probe", "clean_up"]
"""Whether an activity makes a call, asks what became of it, or cleans up behind it."""
_OF_TOOLS: Final[dict[str, _Purpose]] = {"call_tool": "call", "reconcile_call": "probe", "clean_up_call": "clean_up"}


@dataclass
class _Scheduled:
    """An activity under way."""

    call: ModelCall | ToolCall
    purpose: _Purpose
    at: datetime
    said: ValueRedactor
    """Masks the call's secret arguments in what is said about it."""
    attempts: int = 1
    retried_because: str | None = None
    worker: str = ""


class _Attempts(TypedDict):
    """What every end of an activity says of the way there."""

    id: str
    at: datetime
    step: int
    attempts: int
    retried_because: str | None
    worker: str
    duration: timedelta


class Activities:
    """Follows the activities of one execution, and counts what they used."""

    def __init__(self) -> None:
        self.totals = Totals()
        """What the run has used so far."""
        self.last_words = ""
        """The model's latest text."""
        self._model = ""
        self._secrets: dict[str, tuple[str, ...]] = {}
        """The arguments that each tool declares as secret."""
        self._under_way: dict[int, _Scheduled] = {}
        self._open_calls: dict[int, OpenCall] = {}

    def begin(self, run: RunInput | None, carried: CarriedRun | None) -> None:
        """Take in what the execution starts from."""
        self._model = run.spec.model if run else ""
        self._secrets = {tool.name: tool.secrets for tool in run.spec.tools if tool.secrets} if run else {}
        if carried and carried.state:
            self.totals = carried.state.totals
            self.last_words = carried.state.last_words
            self._open_calls = {
                call.step: call.model_copy(update={"answered": call.result is not None}) for call in carried.state.calls
            }

    def hand_over(self, carried: CarriedRun | None, stamp: Stamp) -> Iterator[RunEvent]:
        """Tell the answers that only the next execution's input holds."""
        if carried is None or carried.state is None:
            return
        state = carried.state
        heard = {call.provider_id: call.result for call in state.calls if call.result}
        # A turn that was closed right before is not among the open calls any more, but its answers are the tail.
        heard |= _heard(state.tail) if not state.calls else {}
        yield from self._answers(heard, stamp, denied=state.denied, last_chance=not state.calls)

    def end(self, result: RunResult | None, stamp: Stamp) -> Iterator[RunEvent]:
        """Tell the denials that no model call told of, as the run is over."""
        yield from self._answers({}, stamp, denied=result.denied if result else {})

    def feed(self, attributes: Proto, stamp: Stamp) -> Iterator[RunEvent]:
        """Return the events of an activity's history event."""
        match attributes:
            case ActivityTaskScheduledEventAttributes():
                yield from self._scheduled(attributes, stamp)
            case ActivityTaskStartedEventAttributes():
                self._started(attributes)
            case ActivityTaskCompletedEventAttributes():
                if scheduled := self._under_way.pop(attributes.scheduled_event_id, None):
                    yield from self._completed(scheduled, attributes.result, stamp)
            case ActivityTaskFailedEventAttributes() | ActivityTaskTimedOutEventAttributes():
                if scheduled := self._under_way.pop(attributes.scheduled_event_id, None):
                    yield self._failed(scheduled, attributes.failure, stamp)
            case ActivityTaskCanceledEventAttributes():
                if scheduled := self._under_way.pop(attributes.scheduled_event_id, None):
                    yield from self._cancelled(scheduled, stamp)

    def _scheduled(self, scheduled: ActivityTaskScheduledEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        match scheduled.activity_type.name:
            case "call_model":
                if model_call := read_first(scheduled.input, ModelCall):
                    self._under_way[stamp.history_event] = _Scheduled(
                        model_call, purpose="call", at=stamp.at, said=ValueRedactor(())
                    )
                    yield from self._model_called(model_call, stamp)
            case "call_tool" | "reconcile_call" | "clean_up_call" as name:
                if tool_call := read_first(scheduled.input, ToolCall):
                    purpose = _OF_TOOLS[name]
                    said = ValueRedactor(self._values(tool_call.tool, tool_call.arguments))
                    self._under_way[stamp.history_event] = _Scheduled(
                        tool_call, purpose=purpose, at=stamp.at, said=said
                    )
                    if purpose == "call":
                        yield ToolCalled(
                            id=stamp.next_id(),
                            at=stamp.at,
                            step=tool_call.step,
                            call_id=tool_call.call_id,
                            tool=tool_call.tool,
                            arguments=self._shown(tool_call.tool, tool_call.arguments),
                            effect=tool_call.effect,
                            rule=tool_call.rule,
                            grant_id=tool_call.grant_id,
                        )

    def _started(self, started: ActivityTaskStartedEventAttributes) -> None:
        # Temporal writes this one only when the activity ends, so it tells about the last attempt.
        if scheduled := self._under_way.get(started.scheduled_event_id):
            scheduled.attempts = max(1, started.attempt)
            scheduled.worker = started.identity
            if started.HasField("last_failure"):
                scheduled.retried_because = describe(started.last_failure)[0]

    def _model_called(self, call: ModelCall, stamp: Stamp) -> Iterator[RunEvent]:
        yield from self._answers(_heard(call.tail), stamp, denied=call.denied, last_chance=True)
        self._open_calls = {}
        self.totals = self.totals.model_copy(update={"steps": max(self.totals.steps, call.step)})
        yield ModelCalled(id=stamp.next_id(), at=stamp.at, step=call.step, model=self._model, messages=call.length)

    def _answers(
        self,
        heard: Mapping[str, ToolResult],
        stamp: Stamp,
        *,
        denied: Mapping[int, str],
        last_chance: bool = False,
    ) -> Iterator[RunEvent]:
        for call in list(self._open_calls.values()):
            result, rule = heard.get(call.provider_id), denied.get(call.step, "")
            if call.answered or not (result or rule or last_chance):
                continue
            self._close(call.step)
            said = ValueRedactor(self._values(call.tool, call.arguments))
            yield ToolAnswered(
                id=stamp.next_id(),
                at=stamp.at,
                step=call.step,
                tool=call.tool,
                content=said.redact(result.content) if result else None,
                is_error=result.is_error if result else True,
                rule=rule or (result.denied_by if result else ""),
            )

    def _completed(self, scheduled: _Scheduled, result: Payloads, stamp: Stamp) -> Iterator[RunEvent]:
        call = scheduled.call
        if isinstance(call, ModelCall):
            if reply := read_first(result, ModelReply):
                yield self._replied(scheduled, reply, stamp)
        elif scheduled.purpose == "clean_up":
            yield ToolCleanedUp(**_attempts(scheduled, stamp), call_id=call.call_id, tool=call.tool)
        elif scheduled.purpose == "probe":
            if found := read_first(result, Reconciliation):
                yield self._reconciled(scheduled, call, found, stamp)
        elif outcome := read_first(result, ToolOutcome):
            self._close(call.step)
            yield ToolFinished(
                **_attempts(scheduled, stamp),
                call_id=call.call_id,
                tool=call.tool,
                content=scheduled.said.redact(outcome.content),
                is_error=outcome.is_error,
                cached=outcome.cached,
            )

    def _replied(self, scheduled: _Scheduled, reply: ModelReply, stamp: Stamp) -> ModelReplied:
        first = scheduled.call.step + 1  # the run numbers the calls of a reply in order, right behind it
        parts = dict(enumerate(reply.message.tool_calls, first))
        requested = tuple(self._requested(part, step=step) for step, part in parts.items())
        self._open_calls = {
            step: OpenCall(step=step, provider_id=part.id, tool=part.name, arguments=part.arguments)
            for step, part in parts.items()
        }
        said = ValueRedactor(value for part in parts.values() for value in self._values(part.name, part.arguments))
        text = said.redact(reply.message.text)
        self.last_words = text or self.last_words
        self.totals = Totals(
            steps=scheduled.call.step + len(requested),
            model_calls=self.totals.model_calls + 1,
            tool_calls=self.totals.tool_calls + len(requested),
            usage=self.totals.usage + reply.usage,
            cost_usd=self.totals.cost_usd + (reply.cost_usd or 0),
            unpriced_calls=self.totals.unpriced_calls + (reply.cost_usd is None),
            tool_errors=self.totals.tool_errors,
        )
        return ModelReplied(
            **_attempts(scheduled, stamp),
            model=reply.model,
            reference=reply.reference,
            skipped=reply.skipped,
            finish=reply.finish,
            detail=said.redact(reply.detail),
            text=text,
            tool_calls=requested,
            usage=reply.usage,
            cost_usd=reply.cost_usd,
        )

    def _reconciled(self, scheduled: _Scheduled, call: ToolCall, found: Reconciliation, stamp: Stamp) -> ToolReconciled:
        if found.done and found.outcome:
            self._close(call.step)
        return ToolReconciled(
            **_attempts(scheduled, stamp),
            call_id=call.call_id,
            tool=call.tool,
            done=found.done,
            content=scheduled.said.redact(found.outcome.content) if found.outcome else None,
            is_error=found.outcome.is_error if found.outcome else False,
        )

    def _failed(self, scheduled: _Scheduled, failure: Failure, stamp: Stamp) -> RunEvent:
        error, error_type = describe(failure)
        error = scheduled.said.redact(error)
        call = scheduled.call
        attempts = _attempts(scheduled, stamp)
        if isinstance(call, ModelCall):
            return ModelFailed(**attempts, kind="model.failed", error=error, error_type=error_type)
        if scheduled.purpose == "clean_up":
            return ToolCleanedUp(**attempts, call_id=call.call_id, tool=call.tool, error=error)
        if scheduled.purpose == "probe":
            return ToolReconciled(**attempts, call_id=call.call_id, tool=call.tool, done=None, error=error)
        lost = call.effect == Effect.ONCE and error_type != TOOL_MISSING
        if not lost:
            self._close(call.step)
        return ToolFailed(
            **attempts,
            kind="tool.lost" if lost else "tool.failed",
            call_id=call.call_id,
            tool=call.tool,
            error=error,
            error_type=error_type,
        )

    def _cancelled(self, scheduled: _Scheduled, stamp: Stamp) -> Iterator[RunEvent]:
        call, error = scheduled.call, "it was cancelled"
        if isinstance(call, ModelCall):
            yield ModelFailed(**_attempts(scheduled, stamp), kind="model.cancelled", error=error)
        elif scheduled.purpose == "call":
            self._close(call.step)
            yield ToolFailed(
                **_attempts(scheduled, stamp),
                kind="tool.cancelled",
                call_id=call.call_id,
                tool=call.tool,
                error=error,
            )

    def _requested(self, part: ToolCallPart, *, step: int) -> RequestedCall:
        malformed = MASK if part.malformed is not None and part.name in self._secrets else part.malformed
        return RequestedCall(
            step=step,
            provider_id=part.id,
            tool=part.name,
            arguments=self._shown(part.name, part.arguments),
            malformed=malformed,
        )

    def _shown(self, tool: str, arguments: JsonObject) -> JsonObject:
        return mask_arguments(arguments, self._secrets.get(tool, ()))

    def _values(self, tool: str, arguments: JsonObject) -> list[str]:
        return secret_values(arguments, self._secrets.get(tool, ()))

    def _close(self, step: int) -> None:
        if step in self._open_calls:
            self._open_calls[step] = self._open_calls[step].model_copy(update={"answered": True})


def _heard(tail: Iterable[TailMessage]) -> dict[str, ToolResult]:
    return {result.call_id: result for item in tail for result in item.results if isinstance(result, ToolResult)}


def _attempts(scheduled: _Scheduled, stamp: Stamp) -> _Attempts:
    return _Attempts(
        id=stamp.next_id(),
        at=stamp.at,
        step=scheduled.call.step,
        attempts=scheduled.attempts,
        retried_because=scheduled.said.redact(scheduled.retried_because) if scheduled.retried_because else None,
        worker=scheduled.worker,
        duration=stamp.at - scheduled.at,
    )
