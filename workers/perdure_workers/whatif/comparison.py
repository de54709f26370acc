"""Two runs side by side, turn by turn: what each said, called and cost, and where they parted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from pydantic import Field
from temporalio.client import WorkflowHistory

from perdure.contracts import RunError, RunStatus, Totals, Usage
from perdure.events import RunEnded, RunEvent, Step, steps
from perdure.history import project
from perdure.messages import Frozen, JsonObject
from perdure.redaction import SECRETS, Redactor
from perdure_workers.whatif.offline_run import OfflineRun
from perdure_workers.whatif.recording import RecordedTurn, Recording


class ComparedCall(Frozen):
    """A tool call, as it may be shown."""

    step: int
    tool: str
    arguments: JsonObject = Field(default_factory=dict)
    status: str
    result: str | None = None


class ComparedTurn(Frozen):
    """A reply of the model, and what became of its calls."""

    step: int
    text: str = ""
    calls: tuple[ComparedCall, ...] = ()
    finish: str | None = None
    usage: Usage = Usage()
    cost_usd: Decimal | None = None
    """None where nobody has a price."""


class ComparedRun(Frozen):
    """One of the two runs."""

    model: str
    instructions: str
    status: str
    """How it ended; `stopped`: at a call that the recording does not know; `open`: it has not ended."""
    answer: str | None = None
    error: RunError | None = None
    reason: str = ""
    totals: Totals = Totals()
    turns: tuple[ComparedTurn, ...] = ()


class UnknownCall(Frozen):
    """A call of the what-if that the recording has no answer for."""

    step: int
    tool: str
    arguments: JsonObject
    why: str
    recorded: tuple[JsonObject, ...] = ()
    """Arguments that the recorded run called the tool with."""


class Parting(Frozen):
    """Where the two runs parted."""

    turn: int
    """The first turn in which they do not do the same; 1 is the first."""
    why: str


class Comparison(Frozen):
    """What a what-if showed."""

    run_id: str
    recorded: ComparedRun
    what_if: ComparedRun
    parted: Parting | None = None
    """None: the model made the same calls in every turn."""
    same_answer: bool
    unknown: tuple[UnknownCall, ...] = ()
    unsaid: int = 0
    """Words of people to the recorded run that the what-if ended before."""


def compare(
    recording: Recording,
    histories: Sequence[WorkflowHistory],
    offline: OfflineRun,
    *,
    redactor: Redactor = SECRETS,
) -> Comparison:
    """Compare a recorded run with its what-if.

    Args:
        recording: The recorded run.
        histories: What it was read from.
        offline: The what-if.
        redactor: Masks what must not be shown.
    """
    before = _side(recording, project(histories, redactor=redactor))
    after = _side(offline.recording, project(offline.histories, redactor=redactor))
    if offline.stopped:
        why = offline.unknown[0].why if offline.unknown else ""
        after = after.model_copy(update={"status": "stopped", "reason": why})
    return Comparison(
        run_id=recording.run_id,
        recorded=before,
        what_if=after,
        parted=_parting(recording, offline.recording),
        same_answer=before.answer == after.answer,
        unknown=tuple(_unknown(recording, offline, after)),
        unsaid=offline.unsaid,
    )


def _side(recording: Recording, events: Iterable[RunEvent]) -> ComparedRun:
    told = list(events)
    spec = recording.arguments.spec
    ended = next((event for event in reversed(told) if isinstance(event, RunEnded)), None)
    turns = tuple(_turns(steps(told)))
    if ended is None:
        totals = _totals(turns)
        return ComparedRun(model=spec.model, instructions=spec.instructions, status="open", totals=totals, turns=turns)
    completed = ended.status is RunStatus.COMPLETED
    return ComparedRun(
        model=spec.model,
        instructions=spec.instructions,
        status=ended.status.value,
        answer=ended.output if completed else None,
        error=ended.error,
        reason=ended.reason,
        totals=ended.totals,
        turns=turns,
    )


def _turns(told: Iterable[Step]) -> Iterator[ComparedTurn]:
    turn: ComparedTurn | None = None
    for step in told:
        if step.kind == "model":
            if turn is not None:
                yield turn
            turn = ComparedTurn(
                step=step.number,
                text=step.text or step.error or "",
                finish=step.finish.value if step.finish else None,
                usage=step.usage or Usage(),
                cost_usd=step.cost_usd,
            )
        elif turn is not None:
            call = ComparedCall(
                step=step.number,
                tool=step.name,
                arguments=step.arguments or {},
                status=step.status.value,
                result=step.result if step.result is not None else step.error,
            )
            turn = turn.model_copy(update={"calls": (*turn.calls, call)})
    if turn is not None:
        yield turn


def _totals(turns: Sequence[ComparedTurn]) -> Totals:
    totals = Totals(steps=sum(1 + len(turn.calls) for turn in turns))
    for turn in turns:
        totals = totals.with_model_call(turn.usage, cost_usd=turn.cost_usd, tool_calls=len(turn.calls))
    return totals


def _parting(recorded: Recording, what_if: Recording) -> Parting | None:
    pairs = list(zip(recorded.turns, what_if.turns, strict=False))
    for number, (before, after) in enumerate(pairs, 1):
        # Calls side by side have no order.
        if sorted(recorded.calls_of(before)) != sorted(what_if.calls_of(after)):
            return Parting(turn=number, why=f"the recorded run {_does(before)}, the what-if {_does(after)}")
    if len(recorded.turns) == len(what_if.turns):
        return None
    longer = "recorded run" if len(recorded.turns) > len(what_if.turns) else "what-if"
    return Parting(turn=len(pairs) + 1, why=f"only the {longer} goes on")


def _does(turn: RecordedTurn) -> str:
    calls = turn.message.tool_calls
    if not calls:
        return "answers"
    return "calls " + ", ".join(dict.fromkeys(call.name for call in calls))


def _unknown(recording: Recording, offline: OfflineRun, after: ComparedRun) -> Iterator[UnknownCall]:
    shown = {call.step: call.arguments for turn in after.turns for call in turn.calls}
    for unknown in offline.unknown:
        tool = recording.arguments.spec.tool(unknown.tool)
        secret = bool(tool and tool.secrets)
        yield UnknownCall(
            step=unknown.step,
            tool=unknown.tool,
            arguments=shown.get(unknown.step, {}),
            why=unknown.why,
            recorded=() if secret else tuple(recording.calls_to(unknown.tool)),
        )
