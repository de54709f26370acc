"""Rollouts: which version of an agent a new run starts with, by weights that an operator may change at any time.

Each rollout is a workflow that does nothing but keep it. A user stays with a version for as long as the weights allow:
the choice is a hash, so that nothing has to be remembered of anyone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from perdure.agent import NAME_PATTERN
from perdure.messages import Frozen

ROLLOUT_WORKFLOW: Final = "Rollout"
ROLLOUT_PREFIX: Final = "perdure-rollout:"
MEMO_ROLLOUT: Final = "rollout"
"""Memo field: the `Rollout`."""
MAX_VERSIONS: Final = 50
MAX_WEIGHT: Final = 1_000_000
_PERSON: Final = b"perdure-rollout"
_BITS: Final = 52
"""Of a hash that are made into a number: with half a step more, such a one is still exact as a float."""


class VersionSource(StrEnum):
    """What a run's version was chosen by."""

    EXPLICIT = "explicit"
    """The request named it."""
    SESSION = "session"
    """The latest run of the session had it."""
    ROLLOUT = "rollout"
    """The user has drawn it, by the rollout's weights."""
    NEWEST = "newest"
    """It was registered last."""


def _lets_some_start(weights: dict[str, int]) -> dict[str, int]:
    if not any(weights.values()):
        raise ValueError("no version has a weight above 0, so that no run could start")
    return weights


Weights = Annotated[
    dict[
        Annotated[str, Field(pattern=NAME_PATTERN)],
        Annotated[int, Field(ge=0, le=MAX_WEIGHT)],
    ],
    Field(min_length=1, max_length=MAX_VERSIONS),
    AfterValidator(_lets_some_start),
]
"""How much each version counts among the others; one with 0, or without a weight, gets nobody new."""


class Rollout(Frozen):
    """How the runs of an agent are shared out: the input and the memo of the workflow that keeps it."""

    agent: str
    org: str | None = None
    """Whose runs; None: those of every organisation that has no rollout of its own, and of none."""
    weights: Weights
    created_by: str
    created_at: datetime


def rollout_id(agent: str, *, org: str | None) -> str:
    """Return the id of the workflow that keeps a rollout. An agent's name has no colon, so no two are the same."""
    return ROLLOUT_PREFIX + (agent if org is None else f"{org}:{agent}")


def drawn_version(weights: Mapping[str, int], *, agent: str, org: str | None, key: str) -> str | None:
    """Return the version that whoever the key names gets; None if none has a weight.

    Weighted rendezvous hashing by the logarithmic method (C. Schindelhauer, G. Schomaker: Weighted Distributed Hash
    Tables, SPAA 2005): each version has a number u in (0, 1) that is the key's own, and the lowest -ln(u) / weight
    wins. These are exponentially distributed with the weight as their rate, so that a version wins with its share of
    all weights. A weight changes only its own version's number. So growing it moves keys to that version and between no
    others, and what one loses goes to the others by their weights.

    Args:
        weights: By version.
        agent: Whose versions they are; agents draw independently of each other.
        org: The organisation of the key, as names are its own.
        key: A user, or whatever else is to stay with its version.
    """
    distances = {
        version: -math.log(_uniform(agent, version, org, key)) / weight for version, weight in weights.items() if weight
    }
    return min(distances, key=lambda version: (distances[version], version), default=None)


def shares(weights: Mapping[str, int]) -> dict[str, float]:
    """Return the part of new users that each version gets, from 0 to 1."""
    total = sum(weights.values())
    return {version: weight / total if total else 0.0 for version, weight in weights.items()}


def _uniform(agent: str, version: str, org: str | None, key: str) -> float:
    content = json.dumps([agent, version, org, key]).encode()
    digest = hashlib.blake2b(content, digest_size=8, person=_PERSON).digest()
    return ((int.from_bytes(digest) >> (64 - _BITS)) + 0.5) / (1 << _BITS)
