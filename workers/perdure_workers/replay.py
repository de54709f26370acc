"""Replay: the run's own code against its recorded history, in this process. No worker, no server, no user's app.

It answers whether today's code still makes the decisions that the history holds, and where it departs from them; and it
can stop in the debugger at a step, with the run as it was then.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

from temporalio.api.enums.v1 import EventType
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowHistory
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.worker import (
    Interceptor,
    Replayer,
    StartActivityInput,
    UnsandboxedWorkflowRunner,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)
from temporalio.workflow import ActivityHandle, NondeterminismError

from perdure.codec import data_converter
from perdure.contracts import WORKFLOW_NAME
from perdure.errors import HistoryFileError
from perdure.events import EventId, RunEvent
from perdure.history import project
from perdure.redaction import SECRETS, Redactor
from perdure_workers.debugger import StepDebugger
from perdure_workers.plain_text import line
from perdure_workers.sandbox import strict
from perdure_workflows.agent_run import AgentRun

_MESSAGE: Final = re.compile(r'message: "((?:[^"\\]|\\.)*)"')
_EVENT: Final = re.compile(r"HistoryEvent\(id: (\d+)")
_CODE: Final = re.compile(r"^\[TMPRL\d+\] (?:Nondeterminism error: )?")

T = TypeVar("T")


@dataclass(frozen=True)
class Departure:
    """Where the code stopped following the history, and why."""

    execution: int
    """Which execution of the run: 0 is the first."""
    event_id: int | None
    """The history event that the code does not lead to; None when the code failed instead of departing."""
    event_type: str
    """Its type as Temporal names it, `ActivityTaskScheduled`; empty without an event."""
    step: int | None
    """The step it belongs to, or the last one that the code came to."""
    message: str
    """Temporal's words, or the code's own error."""
    instead: str = ""
    """What the code does there, where it calls something: `call_tool for step 7`."""

    def __str__(self) -> str:
        event = "" if self.event_id is None else f"event {self.event_id} ({self.event_type})"
        step = "" if self.step is None else f"step {self.step}"
        execution = f"execution {self.execution}" if self.execution else ""
        place = ", ".join(filter(None, (execution, event, step))) or "the start"
        return f"{place}: the code goes on with {self.instead}" if self.instead else f"{place}: {line(self.message)}"


@dataclass(frozen=True)
class ReplayReport:
    """What a replay found."""

    run_id: str
    events: tuple[RunEvent, ...]
    """What the history tells of, for a timeline."""
    executions: int
    """How many executions of the run were replayed."""
    departure: Departure | None
    """None: the code is deterministic with this history."""
    stopped: bool = False
    """The debugger came to the step it was to stop at."""

    @property
    def deterministic(self) -> bool:
        """Whether the code made every decision that the history holds."""
        return self.departure is None

    @property
    def verdict(self) -> str:
        """Return the answer in a line."""
        return f"deterministic: no, departs at {self.departure}" if self.departure else "deterministic: yes"


async def replay(
    histories: Sequence[WorkflowHistory], *, debugger: StepDebugger | None = None, redactor: Redactor = SECRETS
) -> ReplayReport:
    """Run the workflow's code against a run's histories, up to the first departure.

    The run may still be going on, or have failed. Temporal compares which calls the code makes, not their arguments.

    Args:
        histories: The run's executions, first to latest, payloads decoded.
        debugger: Stops at its step. The code then runs in this thread and outside of the sandbox.
        redactor: Masks what the report's events must not show. The debugger shows everything.

    Raises:
        HistoryFileError: The history is not one of an agent run.
    """
    for history in histories:
        _check(history)
    departure = None
    for execution, history in enumerate(histories):
        departure = await _replay_execution(history, execution=execution, debugger=debugger)
        if departure:
            break
    return ReplayReport(
        run_id=histories[0].workflow_id,
        events=tuple(project(histories, redactor=redactor)),
        executions=len(histories),
        departure=departure,
        stopped=debugger is not None and debugger.stopped,
    )


class Trace(Interceptor):
    """Records which activities the code starts, and lets the debugger in."""

    def __init__(self, debugger: StepDebugger | None) -> None:
        self.started: list[StartActivityInput] = []
        self.debugger = debugger

    @property
    def last_step(self) -> int | None:
        """The step of the last activity."""
        return _step_of(self.started[-1]) if self.started else None

    def workflow_interceptor_class(self, _: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """Return the class that the worker puts around each run."""
        trace = self

        class Outbound(WorkflowOutboundInterceptor):
            def start_activity(self, input: StartActivityInput) -> ActivityHandle[T]:  # noqa: A002  # the SDK's name
                trace.started.append(input)
                debugger = trace.debugger
                if debugger is None or _step_of(input) != debugger.step:
                    return super().start_activity(input)
                debugger.call_made(input.activity)
                handle: ActivityHandle[T] = super().start_activity(input)
                handle.add_done_callback(lambda _: debugger.result_arrived(input.activity))
                return handle

        class Inbound(WorkflowInboundInterceptor):
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

        return Inbound


async def _replay_execution(
    history: WorkflowHistory, *, execution: int, debugger: StepDebugger | None
) -> Departure | None:
    if not has_begun(history):
        return None
    trace = Trace(debugger)
    replayer = Replayer(
        workflows=[AgentRun],
        data_converter=data_converter(),
        interceptors=[trace],
        workflow_runner=UnsandboxedWorkflowRunner() if debugger else strict(),
        debug_mode=debugger is not None,
        runtime=quiet_runtime(),
    )
    tracer = sys.gettrace()
    try:
        result = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    finally:
        sys.settrace(tracer)
    failure = result.replay_failure
    return None if failure is None else departure_of(history, failure, trace, execution=execution)


def departure_of(history: WorkflowHistory, failure: Exception, trace: Trace, *, execution: int = 0) -> Departure:
    """Return where and why a replay failed.

    Args:
        history: What was replayed.
        failure: How that ended.
        trace: Saw which activities the code started.
        execution: Which execution of its run this is.
    """
    found = _MESSAGE.search(str(failure))
    message = _CODE.sub("", found[1].replace('\\"', '"').replace("\\n", "\n") if found else str(failure))
    event = _departed_event(history, message, trace) if isinstance(failure, NondeterminismError) else None
    if event is None:
        return Departure(execution=execution, event_id=None, event_type="", step=trace.last_step, message=message)
    # Temporal's words begin with the kind of the command that the code gave.
    started = _started_instead(history, event, trace) if message.startswith("Activity") else None
    return Departure(
        execution=execution,
        event_id=event.event_id,
        event_type=_type_name(event),
        step=_step_of(started) if started else _step_at(history, event.event_id),
        message=message,
        instead=_named(started) if started else "",
    )


def _named(started: StartActivityInput) -> str:
    step = _step_of(started)
    return started.activity if step is None else f"{started.activity} for step {step}"


def _departed_event(history: WorkflowHistory, message: str, trace: Trace) -> HistoryEvent | None:
    """Find the event: Temporal names it, or else it is the first call that history has otherwise than the code."""
    if named := _EVENT.search(message):
        return next((event for event in history.events if event.event_id == int(named[1])), None)
    scheduled = [event for event in history.events if event.HasField("activity_task_scheduled_event_attributes")]
    for event, started in zip(scheduled, trace.started, strict=False):
        if event.activity_task_scheduled_event_attributes.activity_type.name != started.activity:
            return event
    return None


def _started_instead(history: WorkflowHistory, event: HistoryEvent, trace: Trace) -> StartActivityInput | None:
    """Return the activity that the code starts where history has this event."""
    before = sum(
        earlier.HasField("activity_task_scheduled_event_attributes")
        for earlier in history.events
        if earlier.event_id < event.event_id
    )
    return trace.started[before] if before < len(trace.started) else None


def _step_at(history: WorkflowHistory, event_id: int) -> int | None:
    """Return the step that the run was at with that event; None of other workflows, which have no steps."""
    if type_of(history) != WORKFLOW_NAME:
        return None
    steps = [
        event.step
        for event in project([history])
        if event.step is not None and EventId.parse(event.id).history_event <= event_id
    ]
    return steps[-1] if steps else None


def has_begun(history: WorkflowHistory) -> bool:
    """Whether the workflow's code has had its turn; a replayer would wait for one that has not."""
    return any(event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED for event in history.events)


def type_of(history: WorkflowHistory) -> str:
    """Return the type of the workflow that the history is of."""
    return history.events[0].workflow_execution_started_event_attributes.workflow_type.name


def _check(history: WorkflowHistory) -> None:
    kind = type_of(history)
    if kind != WORKFLOW_NAME:
        raise HistoryFileError(
            f"this is the history of a workflow of type {kind!r}; an agent run's is {WORKFLOW_NAME!r}"
        )


def _step_of(activity: StartActivityInput) -> int | None:
    step = getattr(activity.args[0], "step", None) if activity.args else None
    return step if isinstance(step, int) else None


def _type_name(event: HistoryEvent) -> str:
    return EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").title().replace("_", "")


@lru_cache(maxsize=1)
def quiet_runtime() -> Runtime:
    """Return a runtime that does not log: what goes wrong in a replay is in its report."""
    return Runtime(telemetry=TelemetryConfig(logging=None))
