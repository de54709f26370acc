"""A run's events as lines for people: when, which step, what, with tokens, cost and time. One line or two each.

Readable at 80 columns and without colour. It shows what models and tools wrote, so nothing of it is taken as markup.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import nullcontext
from datetime import datetime, timedelta

from rich.console import Console
from rich.text import Text

from perdure.activities import Finish
from perdure.contracts import RunStatus
from perdure.events import (
    ApprovalAsked,
    ApprovalChanged,
    BudgetDowngraded,
    BudgetRaised,
    BudgetRefused,
    GrantChanged,
    MessageReceived,
    ModelFailed,
    ModelReplied,
    NoticeChanged,
    RunAdmitted,
    RunCancelRequested,
    RunContinued,
    RunEnded,
    RunEvent,
    RunHeld,
    RunReset,
    RunStarted,
    SignalIgnored,
    SignalReceived,
    Step,
    StepLog,
    StepStatus,
    ToolAnswered,
    ToolCleanedUp,
    ToolFailed,
    ToolFinished,
    ToolReconciled,
    WorkerTrouble,
)
from perdure.events.event import Attempted
from perdure.figures import span
from perdure_workers.plain_text import bill, block, call, line, money, tokens
from perdure_workers.standstill import Standstill

_INDENT = 25
_NOTABLE = timedelta(seconds=1)
"""A shorter wait for a place is none."""
_WRAPPED = 300
"""Characters of a text that may take several lines, as its end matters."""
_STYLES = {
    "model": "cyan",
    "tool": "blue",
    "ask": "bold yellow",
    "approved": "green",
    "completed": "bold green",
    "failed": "bold red",
    "lost": "bold red",
    "error": "red",
    "voted": "green",
    "edited": "yellow",
    "escalated": "bold yellow",
    "grant": "green",
    "revoked": "yellow",
    "denied": "red",
    "rejected": "red",
    "expired": "red",
    "refused": "red",
    "ignored": "yellow",
    "paused": "bold yellow",
    "admitted": "green",
    "no budget": "bold red",
    "raised": "green",
    "downgraded": "yellow",
    "out_of_budget": "bold red",
    "resumed": "green",
    "message": "magenta",
    "untold": "yellow",
    "worker": "yellow",
}


class Timeline:
    """Prints a run's events, each as it is added."""

    def __init__(self, console: Console) -> None:
        """Begin; nothing is printed yet.

        Args:
            console: Where to print. Its width decides what is cut.
        """
        self._console = console
        self._log = StepLog()
        self._began: datetime | None = None
        self._paused = False
        self._standstill = Standstill()

    def add(self, event: RunEvent) -> None:
        """Print what the event says, if it is worth a line."""
        self._log.add(event)
        self._standstill.add(event)
        self._began = self._began or event.at
        match event:
            case RunStarted():
                self._title(event)
            case ModelReplied():
                self._replied(event)
            case ToolFinished():
                word = "error" if event.is_error else "tool"
                took = f"cached  {span(event.duration)}" if event.cached else span(event.duration)
                self._row(event, word, self._call(event.step, event.tool), took)
                self._retries(event)
                self._rule(event.step)
                self._excerpt(event.content)
            case ModelFailed() | ToolFailed():
                self._failed(event)
            case ToolReconciled():
                self._row(event, "probe", _probe(event), span(event.duration))
            case ToolCleanedUp():
                became = f"failed: {event.error}" if event.error else "done"
                self._row(event, "clean-up", f"of {event.tool}: {became}", span(event.duration))
            case ToolAnswered():
                self._answered(event)
            case ApprovalAsked() | ApprovalChanged():
                self._approval(event)
            case GrantChanged():
                self._grant(event)
            case RunHeld():
                self._hold(event)
            case BudgetRefused():
                self._row(event, "no budget", event.budget, f"{money(event.spent_usd)} of {money(event.cap_usd)}")
                self._detail(event.reason)
            case MessageReceived():
                self._row(event, "message", f"from {event.sender or '(nobody)'}")
                self._excerpt(f"“{line(event.text)}”")
            case SignalIgnored():
                self._row(event, "ignored", f"a {event.name} of {event.by or '(nobody)'}")
                self._detail(event.reason)
            case RunEnded():
                self._end(event)
            case _:
                if remark := _remark(event):
                    self._row(event, *remark)

    def add_open_steps(self, *, now: datetime) -> None:
        """Print the steps that are under way."""
        for step in self._log.steps:
            if not step.status.ended:
                what = call(step.name, step.arguments) if step.kind == "tool" else line(step.name)
                since = step.approvals[-1].asked_at if step.status is StepStatus.WAITING else step.started_at
                self._print(since, step.number, step.status.value, what, f"for {span(now - since)}")

    @property
    def under_way(self) -> str:
        """What the run does at this moment, in a few words."""
        steps = [step for step in self._log.steps if not step.status.ended]
        waits = self._standstill.waits
        doing = f"waits for {waits}" if waits else ", ".join(_doing(step) for step in steps)
        if self._paused:
            return f"the run is paused; {doing}" if doing else "the run is paused"
        return f"the run {doing}" if waits else doing or "the run goes on"

    def _title(self, event: RunStarted) -> None:
        self._console.print(
            Text.assemble(
                (line(f"{event.agent} {event.version}"), "bold"), "  ", (line(event.model), "dim"), overflow="ellipsis"
            ),
            no_wrap=True,
            highlight=False,
        )
        self._console.print(Text(line(event.input), overflow="ellipsis"), no_wrap=True, highlight=False)
        self._console.print()

    def _replied(self, event: ModelReplied) -> None:
        used = f"{tokens(event.usage)}  {money(event.cost_usd)}  {span(event.duration)}"
        self._row(event, "model", line(event.model), used)
        self._retries(event)
        for skipped in event.skipped:
            self._detail(f"not {skipped.model}: {skipped.error_type}: {skipped.why}")
        if event.finish not in (Finish.STOP, Finish.TOOL_CALLS):
            self._detail(f"stopped: {event.finish} {event.detail}")
        if event.text:
            self._excerpt(f"“{line(event.text)}”")
        if event.tool_calls:
            self._detail("calls " + ", ".join(requested.tool for requested in event.tool_calls))

    def _failed(self, event: ModelFailed | ToolFailed) -> None:
        what = self._call(event.step, event.tool) if isinstance(event, ToolFailed) else "the model call"
        self._row(event, event.kind.partition(".")[2], what, span(event.duration))
        self._retries(event)
        self._detail(event.error)

    def _answered(self, event: ToolAnswered) -> None:
        step = self._log.find(event.step)
        if step and step.status is StepStatus.REJECTED:  # the decision was shown
            return
        word = "denied" if event.rule else "refused" if event.is_error else "settled"
        self._row(event, word, self._call(event.step, event.tool))
        self._detail(event.content or (f"by rule “{event.rule}”" if event.rule else ""))

    def _approval(self, event: ApprovalAsked | ApprovalChanged) -> None:
        if isinstance(event, ApprovalAsked):
            self._row(event, "ask", "more money" if event.question == "budget" else call(event.tool, event.arguments))
            self._detail(f"approval {event.approval_id}: {event.reason}")
            return
        word = event.kind.removeprefix("approval.")
        if event.kind == "approval.ignored":
            self._row(event, word, f"a decision of {event.decided_by or '(nobody)'} on {event.approval_id or '(none)'}")
            self._detail(event.reason)
            return
        waited = f" after {span(event.waited)}" if event.waited is not None else ""
        by = f" by {event.decided_by}" if event.decided_by else ""
        edited = ", with other arguments" if event.edited and event.kind != "approval.edited" else ""
        to = f" to {', '.join(event.approvers) or 'everyone'}" if event.kind == "approval.escalated" else ""
        more = f", {event.missing} more needed" if event.missing else ""
        reason = f": {event.reason}" if event.reason else ""
        what = event.tool or "more money"
        self._row(event, word, f"{what}{to}{by}{waited}{edited}{more}{reason}")
        for change in event.changes:
            self._detail(f"{change.path}: {change.before or '(nothing)'} → {change.after or '(nothing)'}")

    def _grant(self, event: GrantChanged) -> None:
        if event.kind == "grant.created":
            until = f"for {span(event.expires_at - event.at)}" if event.expires_at else "for this run"
            self._row(event, "grant", f"{event.tool} needs no further approval {until}, by {event.by}")
        else:
            self._row(event, "revoked", f"the grant for {event.tool} by {event.by or '(nobody)'}")
        if event.reason:
            self._detail(event.reason)

    def _hold(self, event: RunHeld) -> None:
        self._paused = event.kind == "run.paused"
        by = f"by {event.by}" if event.by else ""
        after = f" after {span(event.paused_for)}" if event.paused_for is not None else ""
        reason = f": {event.reason}" if event.reason else ""
        self._row(event, event.kind.partition(".")[2], f"{by}{after}{reason}".strip())

    def _end(self, event: RunEnded) -> None:
        totals = event.totals
        took = span(event.at - (self._began or event.at))
        plural = "" if totals.steps == 1 else "s"
        steps = f"{totals.steps} step{plural}: {totals.model_calls} model, {totals.tool_calls} tool"
        self._row(event, event.status.value, steps, f"{tokens(totals.usage)}  {bill(totals)}  {took}")
        if event.error:
            self._detail(f"{event.error.type}: {event.error.message}")
        if event.reason and not event.refusal:  # what a budget refused was shown
            self._detail(event.reason)
        if event.output:
            self._console.print()
            self._console.print(Text(block(event.output)), highlight=False)

    def _call(self, number: int | None, tool: str) -> str:
        step = self._log.find(number)
        return call(tool, step.arguments if step else None)

    def _retries(self, event: Attempted) -> None:
        if event.attempts > 1:
            before = f"; before that: {event.retried_because}" if event.retried_because else ""
            self._detail(f"attempt {event.attempts}{before}")

    def _rule(self, number: int | None) -> None:
        step = self._log.find(number)
        if step and step.rule:
            self._detail(f"by rule “{step.rule}”")

    def _row(self, event: RunEvent, word: str, what: str, measure: str = "") -> None:
        self._print(event.at, event.step, word, what, measure)

    def _print(self, at: datetime, step: int | None, word: str, what: str, measure: str) -> None:
        offset = span(at - (self._began or at))
        row = Text(no_wrap=True, overflow="ellipsis")
        row.append(f"{offset:>9} ", style="dim")
        row.append(f"{'' if step is None else step:>3} ")
        row.append(f"{word:<10} ", style=_STYLES.get(word, ""))
        row.append(line(what))
        if measure:
            row.truncate(max(_INDENT, self._console.width - len(measure) - 2), overflow="ellipsis", pad=True)
            row.append(f"  {measure}", style="dim")
        self._console.print(row, no_wrap=True, overflow="ellipsis", highlight=False)

    def _excerpt(self, text: str) -> None:
        row = Text(" " * _INDENT + line(text), style="dim")
        self._console.print(row, no_wrap=True, overflow="ellipsis", highlight=False)

    def _detail(self, text: str) -> None:
        width = max(20, self._console.width - _INDENT)
        for part in Text(line(text, _WRAPPED), style="dim").wrap(self._console, width):
            part.rstrip()
            self._console.print(Text(" " * _INDENT).append_text(part), highlight=False, no_wrap=True)


def show(events: Iterable[RunEvent], console: Console, *, now: datetime) -> None:
    """Print a run as far as it went."""
    timeline = Timeline(console)
    for event in events:
        timeline.add(event)
    timeline.add_open_steps(now=now)


async def watch(events: AsyncIterator[RunEvent], console: Console) -> RunStatus | None:
    """Print a run's events as they come; on a terminal, also what goes on at the moment.

    Returns:
        How the run ended; None if the events stopped before it did.
    """
    timeline = Timeline(console)
    status = console.status(Text("waiting for the run to begin")) if console.is_terminal else None
    with status or nullcontext():
        async for event in events:
            timeline.add(event)
            if status:
                status.update(Text(line(timeline.under_way), no_wrap=True, overflow="ellipsis"))
            if isinstance(event, RunEnded):
                return event.status
    return None


def _remark(event: RunEvent) -> tuple[str, str] | None:
    match event:
        case SignalReceived() if event.name not in ("approve", "reject", "revoke", "message", "pause", "resume"):
            return "signal", f"{event.name} from {event.sender}"
        case RunAdmitted() if event.waited is not None and event.waited >= _NOTABLE:
            return "admitted", f"after {span(event.waited)} in line"
        case BudgetRaised():
            return "raised", f"budget {event.budget}, by {money(event.amount_usd)}, by {event.by}"
        case BudgetDowngraded():
            return "downgraded", f"goes on with {event.model}"
        case WorkerTrouble():
            return "worker", event.error
        case NoticeChanged(kind="notice.delivered"):
            return "told", f"{event.host}: {event.about}"
        case NoticeChanged(kind="notice.failed"):
            return "untold", f"{event.host}: {event.about}; {event.error}"
        case RunCancelRequested():
            return "cancel", f"requested by {event.requested_by}{f': {event.reason}' if event.reason else ''}"
        case RunContinued():
            return "continued", "in a new execution, as the history is full"
        case RunReset():
            return "reset", f"what followed is done again{_told_by(event)}"
    return None


def _told_by(event: RunReset) -> str:
    by = f", by {event.by}" if event.by else ""
    return f"{by}: {event.reason}" if event.reason else by


def _probe(event: ToolReconciled) -> str:
    if event.done is None:
        return f"{event.tool} may have taken effect: {event.error}"
    return f"{event.tool} took effect: {event.content}" if event.done else f"{event.tool} did not take effect"


def _doing(step: Step) -> str:
    match step.status:
        case StepStatus.WAITING:
            return f"{step.name} waits for a decision on {step.approvals[-1].approval_id}"
        case StepStatus.REQUESTED:
            return f"{step.name} is about to run"
    return f"{step.name} runs" if step.kind == "tool" else f"{step.name} answers"
