"""What travels between the auditor's workflow and its activity, and the activity's stub.

Fields are only ever added, with defaults, as for runs (`perdure.contracts`).
"""

from __future__ import annotations

from typing import Final

from pydantic import Field
from temporalio import activity

from perdure.messages import Frozen

AUDITOR_WORKFLOW: Final = "Auditor"
AUDITOR_ID: Final = "perdure-auditor"
"""The auditor's workflow id: there is one in a namespace."""
MEMO_ANCHORS: Final = "anchors"
"""Memo field: `Anchors`, as they were when the execution began."""
MAX_ANCHORS: Final = 5000
"""Chains whose ends are anchored, those that grew last."""

MAX_BEAT_ANCHORS: Final = 500
"""Those of them that a heartbeat carries."""


class Anchor(Frozen):
    """Where a chain ended."""

    seq: int
    hash: str


class Anchors(Frozen):
    """Where chains ended, kept by Temporal, which whoever can write to the store cannot change."""

    store: str = ""
    """The id of the store that has the chains; another store's chains are others."""
    heads: dict[str, Anchor] = Field(default_factory=dict)
    """By organisation; the empty one is nobody's. Those that grew last come last."""

    def moved(self, later: Anchors) -> Anchors:
        """Return these as they are after a stretch that moved some of them."""
        if later.store != self.store:
            return later if later.store else self
        kept = {org: anchor for org, anchor in self.heads.items() if org not in later.heads} | later.heads
        return Anchors(store=self.store, heads=dict(list(kept.items())[-MAX_ANCHORS:]))


class AuditorState(Frozen):
    """Input of the workflow `Auditor` and of the activity `audit`."""

    anchors: Anchors = Anchors()


class Stretch(Frozen):
    """Result of the activity `audit`, and the details of its heartbeats: what it has done so far."""

    anchors: Anchors = Anchors()
    """Of the chains that grew."""
    records: int = 0
    executions: int = 0
    """Executions that were read to their end."""
    following: int = 0
    """Open executions that are looked at again and again."""
    waiting: int = 0
    """Executions that have ended and are not read to their end."""
    behind_seconds: float = 0
    """Since the oldest of them ended, or an open one should have been looked at."""

    def short(self) -> Stretch:
        """Return it as a heartbeat carries it, with those chains alone that grew last."""
        heads = dict(list(self.anchors.heads.items())[-MAX_BEAT_ANCHORS:])
        return self.model_copy(update={"anchors": Anchors(store=self.anchors.store, heads=heads)})


@activity.defn
async def audit(state: AuditorState) -> Stretch:
    """Append to the chains what histories tell, until a while is over or somebody asks to stop."""
    raise NotImplementedError
