"""The step that a fork begins with, as the history of its run tells of it: the model call that it is, or is behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client

from perdure import history
from perdure.activities import ModelCall, ModelReply, Reconciliation, ToolCall, ToolOutcome
from perdure.contracts import RunInput
from perdure.errors import ConflictError
from perdure.events.payloads import read_first
from perdure.tool import Effect
from perdure_api.rpc import temporal_errors


@dataclass
class Answers:
    """What became of the calls of a reply."""

    dispatched: dict[int, ToolCall] = field(default_factory=dict)
    """By their steps."""
    outcomes: dict[int, ToolOutcome] = field(default_factory=dict)
    heard: bool = False
    """The model was called again, with all results."""

    def join(self, rest: Answers) -> None:
        """Take in what a later execution did."""
        self.dispatched |= rest.dispatched
        self.outcomes |= rest.outcomes
        self.heard = self.heard or rest.heard


@dataclass(kw_only=True)
class Turn(Answers):
    """A model call, its reply, and what became of the calls in it."""

    call: ModelCall
    reply: ModelReply | None = None

    @property
    def last_step(self) -> int:
        """The last step that the turn has."""
        return self.call.step + (len(self.reply.message.tool_calls) if self.reply else 0)


@dataclass(frozen=True)
class Origin:
    """Where a fork begins."""

    run: RunInput
    turn: Turn
    step: int
    before: ModelReply | None
    """The reply before the turn, if the same execution made it."""

    @property
    def is_model_call(self) -> bool:
        """Whether the step is the turn's own model call."""
        return self.step == self.turn.call.step

    @property
    def is_behind(self) -> bool:
        """Whether the step is none that the run made: the fork goes on after its end."""
        return self.step > self.turn.last_step


async def find_step(client: Client, run_id: str, step: int | None) -> Origin:
    """Return where a fork from that step begins.

    Args:
        client: Of the server.
        run_id: A run that the caller may see.
        step: None is the last model call.

    Raises:
        ConflictError: The run has no such step.
    """
    rest = Answers()  # calls of a turn may be answered in later executions than its reply came in
    with temporal_errors(run_id=run_id):
        async for execution in history.fetch_latest_first(client, run_id):
            run = read_first(execution.events[0].workflow_execution_started_event_attributes.input, RunInput)
            turns, stray = _turns(execution.events)
            (turns[-1] if turns else stray).join(rest)
            if run is not None and (place := _found(turns, step)) is not None:
                return _origin(run, turns, place, step)
            rest = stray
    raise ConflictError(f"run {run_id!r} has no step {step if step is not None else 'yet'} that it could be forked at")


def _found(turns: Sequence[Turn], step: int | None) -> int | None:
    places = [place for place, turn in enumerate(turns) if step is None or turn.call.step <= step]
    return places[-1] if places else None


def _origin(run: RunInput, turns: Sequence[Turn], place: int, step: int | None) -> Origin:
    turn = turns[place]
    wanted = turn.call.step if step is None else step
    if wanted > turn.last_step + 1 or (wanted > turn.last_step and (place + 1 < len(turns) or turn.reply is None)):
        raise ConflictError(f"the run has no step {wanted} yet; its last one is {turn.last_step}")
    return Origin(run, turn, wanted, before=turns[place - 1].reply if place else None)


def _turns(events: Sequence[HistoryEvent]) -> tuple[list[Turn], Answers]:
    """Return the turns of an execution, and what it did for a turn that an earlier one began."""
    turns, stray = list[Turn](), Answers()
    scheduled: dict[int, tuple[Answers, ModelCall | ToolCall]] = {}
    for event in events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            attributes = event.activity_task_scheduled_event_attributes
            name = attributes.activity_type.name
            current: Answers = turns[-1] if turns else stray
            if name == "call_model" and (model := read_first(attributes.input, ModelCall)):
                current.heard = True
                turns.append(Turn(call=model))
                scheduled[event.event_id] = turns[-1], model
            elif name in ("call_tool", "reconcile_call") and (tool := read_first(attributes.input, ToolCall)):
                current.dispatched[tool.step] = tool
                scheduled[event.event_id] = current, tool
        elif event.HasField("activity_task_completed_event_attributes"):
            completed = event.activity_task_completed_event_attributes
            turn, call = scheduled.get(completed.scheduled_event_id, (stray, None))
            if isinstance(turn, Turn) and isinstance(call, ModelCall):
                turn.reply = read_first(completed.result, ModelReply)
            elif isinstance(call, ToolCall) and (outcome := _outcome(event)):
                turn.outcomes[call.step] = outcome
    return turns, stray


def _outcome(event: HistoryEvent) -> ToolOutcome | None:
    result = event.activity_task_completed_event_attributes.result
    if found := read_first(result, Reconciliation):
        return found.outcome if found.done else None
    return read_first(result, ToolOutcome)


def once(call: ToolCall | None) -> bool:
    """Whether a call was dispatched that must not be made a second time."""
    return call is not None and call.effect == Effect.ONCE
