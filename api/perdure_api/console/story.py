"""A run as its page tells it: steps, and between them notes of what else happened. It follows from the run's events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from perdure.contracts import RunStatus, Totals
from perdure.events import (
    ApprovalAsked,
    ApprovalChanged,
    BudgetDowngraded,
    BudgetRaised,
    BudgetRefused,
    GrantChanged,
    MessageReceived,
    ModelReplied,
    NoticeChanged,
    RunAdmitted,
    RunCancelRequested,
    RunContinued,
    RunEnded,
    RunEvent,
    RunHeld,
    RunQueued,
    RunReset,
    RunStarted,
    SignalIgnored,
    Step,
    StepLog,
    WorkerTrouble,
)
from perdure.figures import span
from perdure.plan import PLAN_TOOL, PlannedStep, plan_of
from perdure_api.console.words import money

SHOWN: Final = 100
"""Entries that a page has at once; more come when they are asked for."""

Tone = Literal["plain", "good", "warn", "bad"]
_DECIDED: Final = ("approval.approved", "approval.rejected", "approval.expired", "approval.withdrawn")


@dataclass(frozen=True)
class Note:
    """Something that happened beside the steps."""

    key: str
    at: datetime
    title: str
    text: str = ""
    by: str = ""
    tone: Tone = "plain"
    reset: RunReset | None = None
    """What it tells of, if some of the run does not count any more."""


@dataclass(frozen=True)
class Window:
    """Entries of a story that a page shows at once."""

    entries: Sequence[tuple[str, Entry]]
    earlier: int
    """How many come before them."""


Entry = Step | Note


class Story:
    """What is known of a run by its events, fed in order."""

    def __init__(self, events: Iterable[RunEvent] = ()) -> None:
        self.last_id = ""
        """Of the last event."""
        self.started: RunStarted | None = None
        self.ended: RunEnded | None = None
        self.held: RunHeld | None = None
        self.waiting: dict[str, ApprovalAsked] = {}
        """Questions to humans that are open, by their ids."""
        self.plan: tuple[PlannedStep, ...] = ()
        """What the model means to do, as it last said."""
        self._queued = False
        self._totals = Totals()
        self._log = StepLog()
        self._order: dict[str, int | Note] = {}
        for event in events:
            self.add(event)

    @property
    def entries(self) -> list[tuple[str, Entry]]:
        """Steps and notes with their keys, in the order in which they came up."""
        return [(key, self.entry(key)) for key in self._order]

    @property
    def status(self) -> RunStatus:
        """Where the run is."""
        if self.ended is not None:
            return self.ended.status
        if self.held is not None:
            return RunStatus.PAUSED
        if self.waiting:
            return RunStatus.WAITING
        return RunStatus.QUEUED if self._queued else RunStatus.RUNNING

    @property
    def totals(self) -> Totals:
        """What it has used."""
        if self.ended is not None:
            return self.ended.totals
        return self._totals.model_copy(update={"steps": len(self._log.steps)})

    def window(self, *, before: str = "") -> Window:
        """Return the last entries, with all steps that go on, or the last ones before that of a key."""
        keys = list(self._order)
        end = keys.index(before) if before in self._order else len(keys)
        start = max(0, end - SHOWN)
        if end == len(keys) and (open_steps := self.open_steps()):
            start = min(start, keys.index(open_steps[0]))
        return Window([(key, self.entry(key)) for key in keys[start:end]], earlier=start)

    def entry(self, key: str) -> Entry:
        """Return the step or note of a key."""
        found = self._order[key]
        if isinstance(found, Note):
            return found
        step = self._log.find(found)
        assert step is not None  # noqa: S101  # keys of steps are made from steps
        return step

    def open_steps(self) -> list[str]:
        """Return the keys of steps that go on."""
        return [key for key, entry in self.entries if isinstance(entry, Step) and not entry.status.ended]

    def add(self, event: RunEvent) -> list[str]:
        """Take in the next event, and return the keys of the entries that are new or changed by it."""
        self.last_id = event.id
        unfinished = self.open_steps() if isinstance(event, RunEnded) else []
        self._log.add(event)
        self._keep(event)
        if (note := _note(event)) is not None:
            self._order[note.key] = note
            return [*unfinished, note.key]
        numbers = [event.step]
        if isinstance(event, ModelReplied):
            numbers += [call.step for call in event.tool_calls]
        touched = [number for number in numbers if number is not None and self._log.find(number) is not None]
        for number in touched:
            self._order.setdefault(f"step-{number}", number)
        return [*unfinished, *(f"step-{number}" for number in touched)]

    def _keep(self, event: RunEvent) -> None:
        match event:
            case RunStarted():
                self.started = event
            case RunEnded():
                self.ended, self.held, self.waiting = event, None, {}
            case RunReset():
                self.ended, self.held, self.waiting = None, None, {}
            case RunHeld():
                self.held = event if event.kind == "run.paused" else None
            case RunQueued() | RunAdmitted():
                self._queued = isinstance(event, RunQueued)
            case ApprovalAsked():
                self.waiting[event.approval_id] = event
            case ApprovalChanged() if event.kind in _DECIDED:
                self.waiting.pop(event.approval_id, None)
            case ModelReplied():
                self._totals = self._totals.with_model_call(
                    event.usage, cost_usd=event.cost_usd, tool_calls=len(event.tool_calls)
                )
                for call in event.tool_calls:
                    if call.tool == PLAN_TOOL.name:
                        with suppress(ValueError):  # the run told the model so
                            self.plan = plan_of(call.arguments)


def _note(event: RunEvent) -> Note | None:
    """Return what is told of an event that is no step's."""
    said = _said(event)
    if said is None:
        return None
    title, text, by, tone = said
    key = f"note-{event.id.replace('.', '-')}"
    return Note(key, event.at, title, text, by, tone, event if isinstance(event, RunReset) else None)


def _said(event: RunEvent) -> tuple[str, str, str, Tone] | None:
    match event:
        case MessageReceived():
            return "Message", event.text, event.sender, "plain"
        case RunHeld(kind="run.paused"):
            return "Paused", event.reason, event.by, "warn"
        case RunHeld():
            after = f"after {span(event.paused_for)}" if event.paused_for else ""
            return "Resumed", event.reason or after, event.by, "good"
        case RunCancelRequested():
            return "Cancellation requested", event.reason, "", "warn"
        case RunQueued():
            return "Queued", "As many runs are open as may be.", "", "plain"
        case RunAdmitted():
            return "Admitted", f"after {span(event.waited)}" if event.waited else "", "", "plain"
        case RunContinued():
            return "Continued in a new execution", "", "", "plain"
        case RunReset():
            return "Went on from here once more", event.reason, event.by, "warn"
        case WorkerTrouble():
            return ("Worker lost" if event.kind == "worker.lost" else "Worker failed"), event.error, "", "bad"
        case SignalIgnored():
            return f"Ignored: {event.name}", event.reason, event.by, "warn"
        case NoticeChanged(kind="notice.failed"):
            return f"{event.host} could not be told", event.error, "", "bad"
        case GrantChanged():
            became = "may run without asking" if event.kind == "grant.created" else "needs to ask again"
            return f"{event.tool} {became}", event.reason, event.by, "plain"
        case _:
            return _said_of_budget(event)


def _said_of_budget(event: RunEvent) -> tuple[str, str, str, Tone] | None:
    match event:
        case ApprovalAsked(question="budget"):
            return "The budget has no room; a human is asked", event.reason, "", "warn"
        case BudgetRefused():
            return f"Budget {event.budget} has no room", event.reason, "", "warn"
        case BudgetRaised():
            added = money(event.amount_usd) if event.amount_usd else ""
            return f"Budget {event.budget} raised", added, event.by, "good"
        case BudgetDowngraded():
            return "Goes on with a cheaper model", event.model, "", "warn"
    return None


def withdrawn(counting: Iterable[RunEvent], others: Iterable[RunEvent]) -> tuple[Story, list[tuple[str, Entry]]]:
    """Return the story of an execution that a retry left behind, and of its entries those that do not count any more.

    Args:
        counting: Its events up to where the run went on.
        others: Those behind.
    """
    story = Story(counting)
    keys = dict.fromkeys(key for event in others for key in story.add(event))
    entries = [(key, story.entry(key)) for key in keys]
    # What was said to the run is said again, by Temporal, behind the reset.
    return story, [(key, entry) for key, entry in entries if isinstance(entry, Step) or entry.reset is not None]
