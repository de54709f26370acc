"""Histories by hand: the events that a server would write, one call each, with ids and times of their own."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.json_format import ParseDict
from pydantic import BaseModel
from temporalio.api.history.v1 import HistoryEvent

from perdure.activities import Finish, ModelCall, ModelReply, TailMessage, ToolCall, ToolOutcome
from perdure.agent import AgentSpec
from perdure.budget import Terms
from perdure.contracts import RunInput, Usage
from perdure.events import Projector, RunEvent
from perdure.messages import AssistantMessage, Part, TextPart, ToolCallPart, ToolResult
from perdure.oversight import ApprovalsMemo

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
"""When the history begins; each event comes a second later."""


class Handmade:
    """A history in the making, and the events that a projector derives from it."""

    def __init__(self, *, execution: int = 0, state: BaseModel | None = None, terms: Terms | None = None) -> None:
        """Begin with WorkflowExecutionStarted."""
        self.projector = Projector(execution)
        self.events: list[RunEvent] = []
        self.history: list[HistoryEvent] = []
        self.length = 0
        spec = AgentSpec(name="support", version="3", model="anthropic:claude")
        started = RunInput(spec=spec, input="help me", user="ann", terms=terms).model_dump(mode="json")
        if state:
            started["state"] = state.model_dump(mode="json")
        self.add("workflow_execution_started", input=_arguments(started))

    def add(self, kind: str, **attributes: Any) -> int:
        """Append an event with these attributes and return its id."""
        self.length += 1
        event = HistoryEvent(event_id=self.length)
        event.event_time.FromDatetime(self.now)
        ParseDict(attributes, getattr(event, f"{kind}_event_attributes"), ignore_unknown_fields=False)
        getattr(event, f"{kind}_event_attributes").SetInParent()
        self.history.append(event)
        self.events += self.projector.feed(event)
        return self.length

    @property
    def now(self) -> datetime:
        """When the last event happened."""
        return BEGIN + timedelta(seconds=self.length - 1)

    @property
    def last(self) -> RunEvent:
        """The latest event that was derived."""
        return self.events[-1]

    def kinds(self) -> list[str]:
        """The kinds of all events derived, but the first."""
        return [event.kind for event in self.events[1:]]

    def schedule(self, activity: str, call: BaseModel) -> int:
        """Schedule an activity."""
        return self.add("activity_task_scheduled", activityType={"name": activity}, input=_arguments(call))

    def start(self, scheduled: int, *, attempt: int = 1, last_failure: dict[str, Any] | None = None) -> int:
        """Have a worker start it."""
        failure = {"lastFailure": last_failure} if last_failure else {}
        return self.add(
            "activity_task_started", scheduledEventId=scheduled, attempt=attempt, identity="worker-1", **failure
        )

    def complete(self, scheduled: int, result: BaseModel) -> int:
        """Have it return."""
        return self.add("activity_task_completed", scheduledEventId=scheduled, result=_arguments(result))

    def fail(self, scheduled: int, failure: dict[str, Any]) -> int:
        """Have it fail for good."""
        return self.add("activity_task_failed", scheduledEventId=scheduled, failure=failure)

    def model_call(self, step: int, *parts: Part, tail: tuple[TailMessage, ...] = ()) -> None:
        """Have the model answer with these parts."""
        scheduled = self.schedule("call_model", model_call(step, tail=tail))
        self.start(scheduled)
        self.complete(scheduled, reply(*parts))

    def tool_call(self, step: int, *, effect: str = "read") -> int:
        """Dispatch a tool call."""
        return self.schedule("call_tool", tool_call(step, effect=effect))

    def memo(self, approvals: ApprovalsMemo) -> int:
        """Write the memo field `approvals`."""
        return self.remember("approvals", approvals)

    def remember(self, field: str, value: BaseModel) -> int:
        """Write a field of the memo."""
        return self.add("workflow_properties_modified", upsertedMemo={"fields": {field: payload(value)}})

    def signal(self, name: str, content: BaseModel | dict[str, Any]) -> int:
        """Have a signal arrive."""
        return self.add("workflow_execution_signaled", signalName=name, input=_arguments(content))


def model_call(step: int, *, tail: tuple[TailMessage, ...] = ()) -> ModelCall:
    """Return the input of a model call."""
    return ModelCall(
        step=step,
        agent="support",
        version="3",
        spec_digest="",
        length=step,
        digest="",
        tail=tail,
        timeout=timedelta(minutes=1),
    )


def tool_call(step: int, *, effect: str = "read") -> ToolCall:
    """Return the input of a tool call."""
    return ToolCall(
        step=step,
        call_id=f"c{step}-abc",
        tool="find_order",
        arguments={"order_id": "A1"},
        effect=effect,
        timeout=timedelta(seconds=30),
    )


def reply(*parts: Part, finish: Finish = Finish.STOP) -> ModelReply:
    """Return a reply that used ten tokens in and five out, at no known price."""
    return ModelReply(
        message=AssistantMessage(parts=parts),
        finish=finish,
        model="claude-1",
        usage=Usage(input_tokens=10, output_tokens=5),
    )


def wish(provider_id: str = "p1", tool: str = "find_order") -> ToolCallPart:
    """Return a call that the model asks for."""
    return ToolCallPart(id=provider_id, name=tool, arguments={"order_id": "A1"})


def words(text: str) -> TextPart:
    """Return words of the model."""
    return TextPart(text=text)


def heard(*results: ToolResult) -> tuple[TailMessage, ...]:
    """Return what a model call's input says of the answers to earlier calls."""
    return (TailMessage(results=results),)


def outcome(content: str, *, is_error: bool = False) -> ToolOutcome:
    """Return a tool's result."""
    return ToolOutcome(content=content, is_error=is_error)


def payload(value: BaseModel | dict[str, Any]) -> dict[str, Any]:
    """Return a payload in protobuf's JSON."""
    text = value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(value)
    encoding = base64.b64encode(b"json/plain").decode()
    return {"metadata": {"encoding": encoding}, "data": base64.b64encode(text.encode()).decode()}


def _arguments(value: BaseModel | dict[str, Any]) -> dict[str, Any]:
    return {"payloads": [payload(value)]}
