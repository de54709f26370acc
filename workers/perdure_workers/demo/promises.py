"""What the demo promises, checked against the run's events and the shop's own database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from perdure.contracts import RunStatus
from perdure.events import ModelReplied, RunEnded, RunEvent, ToolFailed, ToolReconciled


@dataclass(frozen=True)
class Promise:
    """A sentence that is true if the demo is as it should be."""

    sentence: str
    kept: bool
    seen: str = ""
    """What was there instead."""


@dataclass(frozen=True)
class Refund:
    """A row of the shop's table of refunds."""

    refund_id: str
    order_id: str
    amount: Decimal
    """Euros."""


def refunds(shop: Path) -> list[Refund]:
    """Return what the shop has paid back, by its own database; nothing while it has none."""
    if not shop.exists():
        return []
    with closing(sqlite3.connect(shop)) as database:
        rows = database.execute("SELECT id, order_id, cents FROM refunds ORDER BY id").fetchall()
    return [Refund(f"R-{number:04}", order_id, Decimal(cents).scaleb(-2)) for number, order_id, cents in rows]


def check(events: Sequence[RunEvent], *, paid: Sequence[Refund], approved: bool) -> list[Promise]:
    """Compare what happened with what was promised.

    Args:
        events: Of the run, all.
        paid: What the shop paid back in the end.
        approved: Whether the human agreed; if not, no worker was killed and nothing may be paid.
    """
    ended = next((event for event in events if isinstance(event, RunEnded)), None)
    status = ended.status.value if ended else "no end"
    promises = [Promise("the run ended as completed", status == RunStatus.COMPLETED, status)]
    if not approved:
        return [*promises, Promise("nothing was refunded", not paid, _list(paid))]
    return [
        *promises,
        Promise("the refund happened exactly once, by the shop's database", len(paid) == 1, _list(paid)),
        Promise("its call was lost with the worker", _any(events, ToolFailed, kind="tool.lost"), "no call was lost"),
        Promise(
            "the tool's probe found that it had been paid, so it was not paid again",
            any(isinstance(event, ToolReconciled) and event.done is True for event in events),
            "no probe said so",
        ),
        Promise("another worker finished the run", *_workers(events)),
    ]


def _any(events: Iterable[RunEvent], kind_of: type[ToolFailed], *, kind: str) -> bool:
    return any(isinstance(event, kind_of) and event.kind == kind for event in events)


def _workers(events: Iterable[RunEvent]) -> tuple[bool, str]:
    workers = [event.worker for event in events if isinstance(event, ModelReplied)]
    return bool(workers) and workers[0] != workers[-1], f"only {', '.join(sorted(set(workers))) or 'none'}"


def _list(paid: Sequence[Refund]) -> str:
    return ", ".join(f"{refund.refund_id} of {refund.amount} euros" for refund in paid) or "no refund"
