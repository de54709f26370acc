"""Which runs come first while workers are busy: a run's priority, and the keys by which organisations share fairly.

Temporal orders the tasks of a queue by these keys; activities, sub-agents and later executions of a run inherit them.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

from temporalio.common import Priority as PriorityKeys

MAX_FAIRNESS_KEY_BYTES: Final = 64
"""What Temporal takes."""


class Priority(StrEnum):
    """Which of the waiting runs go on first, over all organisations."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    def keys(self, *, org: str | None) -> PriorityKeys:
        """Return the keys of a run: the smaller number first, and among equals each organisation in its turn."""
        return PriorityKeys(priority_key=_KEYS[self], fairness_key=None if org is None else fairness_key(org))


_KEYS: Final = {Priority.HIGH: 1, Priority.NORMAL: 3, Priority.LOW: 5}
"""Temporal has five levels by default, and takes the middle one for whoever says nothing."""


def priority_of(key: int) -> Priority:
    """Return the priority that a key of Temporal's stands for; one that others chose counts as the nearest of ours."""
    return min(Priority, key=lambda priority: abs(_KEYS[priority] - (key or _KEYS[Priority.NORMAL])))


def fairness_key(org: str) -> str:
    """Return an organisation's key: its name, or a digest of a name that is too long for one."""
    return org if len(org.encode()) <= MAX_FAIRNESS_KEY_BYTES else hashlib.sha256(org.encode()).hexdigest()
