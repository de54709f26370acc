"""What an approval takes: who may give it, how many of them, by when, and what happens if nobody does."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from perdure.duration import Duration
from perdure.messages import Frozen

MAX_QUORUM = 20
MAX_ESCALATIONS = 5

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
