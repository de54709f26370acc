"""What a run's history knows, as another run can be answered from it: results of calls, decisions, words of people.

It is read from the raw history and not from events, as these mask what a tool declares as secret.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError
from temporalio.api.history.v1 import (
    ActivityTaskScheduledEventAttributes,
    HistoryEvent,
    WorkflowExecutionSignaledEventAttributes,
)
from temporalio.client import WorkflowHistory

from perdure.activities import (
    CallCheck,
    ModelCall,
    ModelReply,
    Reconciliation,
    ToolCall,
    ToolOutcome,
)
from perdure.contracts import WORKFLOW_NAME
from perdure.errors import HistoryFileError
from perdure.events import ApprovalAsked, ApprovalChanged
from perdure.events.payloads import read_first
from perdure.history import project
from perdure.messages import AssistantMessage, JsonObject, ToolCallPart, ToolResult
from perdure.oversight import Decision
from perdure.tool import ToolSpec
from perdure_workflows.state import RunArguments

_JSON: Final = TypeAdapter[Any](Any)
_ENDS: Final[Mapping[str, Literal["approved", "rejected", "expired"]]] = {
    "approval.approved": "approved",
    "approval.rejected": "rejected",
    "approval.expired": "expired",
}
SPOKEN: Final = ("message", "revoke")
"""Signals that are sent again. A pause changes what a run does when, not what it does."""


@dataclass(frozen=True)
class Answered:
    """What a decision-maker said about a question, in its order."""

    decisions: tuple[tuple[Literal["approve", "reject"], Decision], ...]
    digest: str
    """Of the call that was asked about."""
    end: Literal["approved", "rejected", "expired"]
    """What came of it; `expired`: nobody decided before the deadline."""


@dataclass(frozen=True)
class RecordedTurn:
    """A reply of the model."""

    step: int
    message: AssistantMessage
    finish: str
    model: str
    """As the agent names it: `provider:model`."""


@dataclass(frozen=True)
class Spoken:
    """A signal of a person, and before which of the run's model calls it came: 0 is the first."""

    before_call: int
    name: str
    payload: object


@dataclass
class Recording:
    """What the history of a run knows."""

    run_id: str
    arguments: RunArguments
    turns: list[RecordedTurn] = field(default_factory=list)
    results: dict[str, list[ToolOutcome | None]] = field(default_factory=lambda: defaultdict(list))
    """By call, in the order in which they were made; None where nobody ever knew the outcome."""
    checks: dict[str, CallCheck] = field(default_factory=dict)
    """By call: whether its arguments fit."""
    answers: dict[str, list[Answered]] = field(default_factory=lambda: defaultdict(list))
    """By call: what people said when they were asked."""
    spoken: list[Spoken] = field(default_factory=list)

    def name(self, tool: str, arguments: JsonObject) -> str:
        """Identify a call by what it asks for: the tool and its arguments, those left out being their defaults."""
        spec = self.arguments.spec.tool(tool)
        return json.dumps([tool, _plain({**_defaults(spec), **arguments})], sort_keys=True, default=str)

    def calls_of(self, turn: RecordedTurn) -> list[str]:
        """Return what a reply calls."""
        return [self.name(part.name, part.arguments) for part in turn.message.tool_calls]

    def calls_to(self, tool: str) -> list[JsonObject]:
        """Return the arguments of the calls to a tool whose results are known."""
        known = (json.loads(name) for name, results in self.results.items() if any(results))
        return [arguments for called, arguments in known if called == tool]


def read_recording(histories: Sequence[WorkflowHistory]) -> Recording:
    """Read a run's executions, first to latest, payloads decoded.

    Raises:
        HistoryFileError: They are not an agent run's, or its first execution is missing.
    """
    started = histories[0].events[0].workflow_execution_started_event_attributes
    if started.workflow_type.name != WORKFLOW_NAME:
        raise HistoryFileError(
            f"this is the history of a workflow of type {started.workflow_type.name!r}; an agent run's is "
            f"{WORKFLOW_NAME!r}"
        )
    arguments = read_first(started.input, RunArguments)
    if arguments is None:
        raise HistoryFileError("what the run was started with cannot be read")
    if arguments.state is not None and started.continued_execution_run_id:
        raise HistoryFileError(
            "the history of the run's first execution is deleted: a what-if begins where the run began"
        )
    reader = _Reader(Recording(histories[0].workflow_id, arguments))
    for history in histories:
        for event in history.events:
            reader.feed(event)
    reader.finish(histories)
    return reader.recording


@dataclass
class _Call:
    """A call of the model on its way to a result."""

    part: ToolCallPart
    sent: ToolCall | None = None
    """As it was dispatched last."""
    outcome: ToolOutcome | None = None


class _Reader:
    """Goes through a history's events in order."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._scheduled: dict[int, ActivityTaskScheduledEventAttributes] = {}
        self._calls: dict[int, _Call] = {}
        """By step: those of the turn that is open, and of all before."""
        self._open: dict[str, int] = {}
        """The steps of the last reply's calls, by the provider's ids."""
        self._questions: dict[str, list[tuple[Literal["approve", "reject"], Decision]]] = defaultdict(list)
        self._model_calls = 0

    def feed(self, event: HistoryEvent) -> None:
        match event.WhichOneof("attributes"):
            case "workflow_execution_started_event_attributes":
                self._scheduled.clear()  # of another execution
            case "workflow_execution_signaled_event_attributes":
                self._signaled(event.workflow_execution_signaled_event_attributes)
            case "activity_task_scheduled_event_attributes":
                scheduled = event.activity_task_scheduled_event_attributes
                self._scheduled[event.event_id] = scheduled
                self._began(scheduled)
            case "activity_task_completed_event_attributes":
                completed = event.activity_task_completed_event_attributes
                if scheduled_before := self._scheduled.pop(completed.scheduled_event_id, None):
                    self._completed(scheduled_before, completed.result)

    def finish(self, histories: Sequence[WorkflowHistory]) -> None:
        """Put together what is known when all has been read."""
        recording = self.recording
        for _, call in sorted(self._calls.items()):
            if call.sent is not None:
                recording.results[recording.name(call.sent.tool, call.sent.arguments)].append(call.outcome)
        asked: dict[str, tuple[str, ToolCallPart]] = {}
        for event in project(histories):
            match event:
                case ApprovalAsked(question="call", step=int(step)) if step in self._calls:
                    asked[event.approval_id] = event.digest, self._calls[step].part
                case ApprovalChanged() if (end := _ENDS.get(event.kind)) and event.approval_id in asked:
                    digest, part = asked.pop(event.approval_id)
                    answered = Answered(tuple(self._questions[event.approval_id]), digest, end)
                    recording.answers[recording.name(part.name, part.arguments)].append(answered)

    def _signaled(self, signaled: WorkflowExecutionSignaledEventAttributes) -> None:
        match signaled.signal_name:
            case "approve" | "reject" as name:
                if decision := read_first(signaled.input, Decision):
                    self._questions[decision.approval_id].append((name, decision))
            case name if name in SPOKEN and signaled.input.payloads:
                try:
                    payload = _JSON.validate_json(signaled.input.payloads[0].data)
                except ValidationError:
                    return
                self.recording.spoken.append(Spoken(self._model_calls, name, payload))

    def _began(self, scheduled: ActivityTaskScheduledEventAttributes) -> None:
        match scheduled.activity_type.name:
            case "call_model":
                self._model_calls += 1
                if call := read_first(scheduled.input, ModelCall):
                    self._hear(
                        {
                            result.call_id: result
                            for item in call.tail
                            for result in item.results
                            if isinstance(result, ToolResult)
                        }
                    )
            case "call_tool":
                sent = read_first(scheduled.input, ToolCall)
                if sent is not None and sent.step in self._calls:
                    self._calls[sent.step].sent = sent

    def _completed(self, scheduled: ActivityTaskScheduledEventAttributes, result: Any) -> None:
        match scheduled.activity_type.name:
            case "call_model":
                called, reply = read_first(scheduled.input, ModelCall), read_first(result, ModelReply)
                if called and reply:
                    self._replied(called, reply)
            case "call_tool":
                self._settle(scheduled, read_first(result, ToolOutcome))
            case "reconcile_call":
                if (found := read_first(result, Reconciliation)) and found.done:
                    self._settle(scheduled, found.outcome)
            case "check_call":
                sent, check = read_first(scheduled.input, ToolCall), read_first(result, CallCheck)
                if sent and check:
                    self.recording.checks[self.recording.name(sent.tool, sent.arguments)] = check

    def _replied(self, called: ModelCall, reply: ModelReply) -> None:
        reference = reply.reference or called.model or self.recording.arguments.spec.model
        turn = RecordedTurn(called.step, reply.message, reply.finish.value, reference)
        self.recording.turns.append(turn)
        # The run numbers the calls of a reply in order, right behind it.
        parts = dict(enumerate(reply.message.tool_calls, called.step + 1))
        self._open = {part.id: step for step, part in parts.items()}
        self._calls |= {step: _Call(part) for step, part in parts.items()}

    def _settle(self, scheduled: ActivityTaskScheduledEventAttributes, outcome: ToolOutcome | None) -> None:
        sent = read_first(scheduled.input, ToolCall)
        if outcome is not None and sent is not None and sent.step in self._calls:
            self._calls[sent.step].outcome = outcome

    def _hear(self, heard: Mapping[str, ToolResult]) -> None:
        """Take what the model heard of calls that failed, or whose outcome a human knew."""
        for provider_id, result in heard.items():
            call = self._calls.get(self._open.get(provider_id, -1))
            if call is not None and call.sent is not None and call.outcome is None:
                call.outcome = ToolOutcome(content=result.content, is_error=result.is_error)


def _defaults(tool: ToolSpec | None) -> JsonObject:
    properties = tool.input_schema.get("properties", {}) if tool else {}
    return {name: schema["default"] for name, schema in properties.items() if "default" in schema}


def _plain(value: Any) -> Any:
    """Return a JSON value in which numbers that are equal look equal."""
    match value:
        case bool():
            return value
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _plain(each) for key, each in value.items()}
        case list():
            return [_plain(each) for each in value]
    return value
