"""What an approval takes: who may give it, how many of them, by when, and what happens if nobody does.

Beside that, what comes together while people decide: their votes, and what they changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from perdure.duration import Duration
from perdure.messages import Frozen, JsonObject
from perdure.principal import ANY
from perdure.secret_arguments import is_declared
from perdure.secret_forms import MASK

MAX_QUORUM: Final = 20
MAX_ESCALATIONS: Final = 5
MAX_GRANT: Final = timedelta(days=30)
MAX_CHANGES: Final = 50
MAX_QUOTED_VALUE: Final = 200
"""Characters of a value that a change repeats."""

PositiveDuration = Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=365))]


class ApprovalRequirement(Frozen):
    """Who must approve a call before it runs; part of a policy, pinned with it in the run's history."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    approvers: tuple[str, ...] = ()
    """Roles; whoever holds one of them may decide. Empty: everyone who may decide at all."""
    quorum: int = Field(default=1, ge=1, le=MAX_QUORUM)
    """Different people who must approve; one who rejects is enough to reject."""
    separation_of_duties: bool = False
    """Whoever started the run, or on whose behalf it runs, does not count."""
    deadline: PositiveDuration | None = None
    """After the question was asked; None leaves it to the agent's `approval_timeout`, which rejects."""
    on_deadline: Literal["reject", "escalate", "fail"] = "reject"
    """`reject`: the model hears that nobody decided. `fail`: the run fails. `escalate`: others are asked."""
    escalate_to: ApprovalRequirement | None = None
    """Who is asked next, with a deadline of their own."""

    @model_validator(mode="after")
    def _consistent(self) -> ApprovalRequirement:
        if (self.on_deadline == "escalate") != (self.escalate_to is not None):
            raise ValueError("escalate_to goes with on_deadline: escalate, and the other way round")
        if self.on_deadline != "reject" and self.deadline is None:
            raise ValueError(f"on_deadline: {self.on_deadline} needs a deadline, as in deadline: 4h")
        if len(self.levels) > MAX_ESCALATIONS + 1:
            raise ValueError(f"escalates more than {MAX_ESCALATIONS} times")
        return self

    @property
    def levels(self) -> tuple[ApprovalRequirement, ...]:
        """This requirement and those it escalates to, in their order."""
        return (self, *(self.escalate_to.levels if self.escalate_to else ()))

    def may_decide(self, roles: tuple[str, ...]) -> bool:
        """Whether whoever holds these roles is asked."""
        return not self.approvers or ANY in roles or not set(self.approvers).isdisjoint(roles)

    def covers(self, other: ApprovalRequirement) -> bool:
        """Whether who satisfies this requirement, at whatever level, also satisfies the first level of the other."""
        return self == other or all(level._as_strict_as(other) for level in self.levels)

    def _as_strict_as(self, other: ApprovalRequirement) -> bool:
        roles = set(self.approvers)
        return (
            self.quorum >= other.quorum
            and (self.separation_of_duties or not other.separation_of_duties)
            and (not other.approvers or (bool(roles) and roles <= set(other.approvers)))
        )


GrantTerm = Literal["run"] | Annotated[Duration, Field(gt=timedelta(0), le=MAX_GRANT)]
"""How long an approval is to hold for calls of the same kind: for the run, or for a time."""


class Vote(Frozen):
    """One person's yes, while others are still needed."""

    by: str
    at: datetime
    reason: str = ""
    grant: GrantTerm | None = None
    amount_usd: Decimal | None = None
    """For a budget: how much they would add."""


class ArgumentChange(Frozen):
    """One argument that an approver changed."""

    path: str
    """Dotted."""
    before: str | None = None
    """JSON, its first 200 characters; None: it was not there."""
    after: str | None = None
    """JSON, its first 200 characters; None: it was taken out."""


def argument_changes(
    before: JsonObject, after: JsonObject, *, secrets: tuple[str, ...] = ()
) -> tuple[ArgumentChange, ...]:
    """Return what differs, in the order of the paths: at most 50 changes, without secret values."""
    flat_before, flat_after = dict(_leaves(before)), dict(_leaves(after))
    paths = sorted(path for path in flat_before | flat_after if flat_before.get(path) != flat_after.get(path))
    return tuple(
        ArgumentChange(
            path=path,
            before=_quoted(flat_before.get(path), secret=is_declared(path, secrets)),
            after=_quoted(flat_after.get(path), secret=is_declared(path, secrets)),
        )
        for path in paths[:MAX_CHANGES]
    )


def same_person(one: str, other: str) -> bool:
    """Whether two names are one person's, however they are written."""
    return one.strip().casefold() == other.strip().casefold()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    elif path:
        yield path, json.dumps(value, ensure_ascii=False, sort_keys=True)


def _quoted(value: str | None, *, secret: bool) -> str | None:
    if value is None:
        return None
    return json.dumps(MASK) if secret else value[:MAX_QUOTED_VALUE]
