"""Human oversight: what people are asked, what they say, and what the memo shows of it.

Fields are only ever added, with defaults, as a history written today is replayed by the code of tomorrow.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import ConfigDict, Field

from perdure.approval import ApprovalRequirement, ArgumentChange, GrantTerm, Vote
from perdure.messages import Frozen, JsonObject
from perdure.secret_arguments import mask_arguments


class PendingApproval(Frozen):
    """A question to a human: may this call run, or, if its outcome is unknown, what became of it?"""

    approval_id: str
    kind: Literal["call", "outcome", "budget"] = "call"
    """`call`: approve or reject a call before it runs. `outcome`: a `once` call was lost in flight; say what became of
    it: approve with outcome `done` (and the result) or `retry`, or reject to abort. `budget`: one has no room for the
    next model call; approve with `amount_usd` to add so much to it, or reject to end the run."""
    tool: str
    """Empty for a budget."""
    arguments: JsonObject
    """For a budget: which one, and how it stands."""
    digest: str
    """Of tool and arguments; a decision may name it to be sure of what it decides on."""
    step: int
    asked_at: datetime
    deadline: datetime | None = None
    reason: str = ""
    """Why a human is asked."""
    rule: str = ""
    """Of the policy, that asks."""
    resource: str | None = None
    """What the call touches, by the tool's template."""
    requirement: ApprovalRequirement = ApprovalRequirement()
    """Who must decide, how many of them, and what the deadline does."""
    not_from: tuple[str, ...] = ()
    """Who may not decide: duties are separated."""
    votes: tuple[Vote, ...] = ()
    """Who approved already, while more must."""
    edited_by: str = ""
    """Who changed the arguments that are shown here."""
    escalations: int = 0
    """How often nobody decided in time, and others were asked."""

    secrets: tuple[str, ...] = ()
    """Arguments that the tool declares as secret."""

    @property
    def missing(self) -> int:
        """How many more must approve."""
        return self.requirement.quorum - len(self.votes)

    def shown(self) -> PendingApproval:
        """Return the question as people may see it, its secret arguments masked."""
        if not self.secrets:
            return self
        return self.model_copy(update={"arguments": mask_arguments(self.arguments, self.secrets)})


class Decision(Frozen):
    """The payload of the signals `approve` and `reject`. Every field is optional on the wire and checked by the run."""

    approval_id: str = ""
    decided_by: str = ""
    roles: tuple[str, ...] = ()
    """Of whoever decides; `*` is every role."""
    reason: str = ""
    digest: str | None = None
    """Refuse the decision unless the call still has this digest."""
    arguments: JsonObject | None = None
    """Approve with these arguments instead of the model's; they are validated first."""
    outcome: Literal["done", "retry"] | None = None
    """For an unknown outcome only."""
    result: Any = None
    """For outcome `done`: what the tool returned, as far as known."""
    grant: GrantTerm | None = None
    """Approve calls of this tool on this resource to come as well: `run`, or for how long."""
    amount_usd: Decimal | None = None
    """For a budget: how much is added to it."""


class Revocation(Frozen):
    """The payload of the signal `revoke`: take back a grant that holds for the run."""

    grant_id: str = ""
    by: str = ""
    reason: str = ""


class ApprovalRecord(Frozen):
    """One thing that happened to an approval, as the run's memo records it."""

    kind: Literal[
        "asked",
        "voted",
        "edited",
        "escalated",
        "approved",
        "rejected",
        "expired",
        "withdrawn",
        "ignored",
        "granted",
        "revoked",
    ]
    at: datetime
    approval_id: str = ""
    tool: str = ""
    decided_by: str = ""
    reason: str = ""
    """The decider's reason; for `ignored`, why the decision had no effect."""
    edited: bool = False
    changes: tuple[ArgumentChange, ...] = ()
    """For `edited`: what was changed."""
    missing: int = 0
    """How many more must approve."""
    approvers: tuple[str, ...] = ()
    """For `escalated`: the roles that are asked now."""
    grant_id: str = ""
    """For `granted` and `revoked`."""
    expires_at: datetime | None = None
    """For `granted`: until when; None: with the run."""


class ApprovalsMemo(Frozen):
    """The memo field `approvals`: what is pending now, and what changed since the memo was last written."""

    pending: tuple[PendingApproval, ...] = ()
    changes: tuple[ApprovalRecord, ...] = ()


class SteeringMessage(Frozen):
    """The payload of the signal `message`. Every field is optional on the wire and checked by the run."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    text: str = ""
    sender: str = Field(default="", alias="from")


class Hold(Frozen):
    """The payload of the signals `pause` and `resume`; a signal without one will do."""

    by: str = ""
    reason: str = ""


class SteeringRecord(Frozen):
    """One thing that a human did to the course of the run, as the run's memo records it."""

    kind: Literal["paused", "resumed", "message", "ignored"]
    at: datetime
    by: str = ""
    text: str = ""
    """A message's first 200 characters; the transcript has it whole."""
    reason: str = ""
    """Why it was paused or resumed; for `ignored`, why the signal had no effect."""
    signal: str = ""
    """For `ignored`: the signal's name."""


class SteeringMemo(Frozen):
    """The memo field `steering`: whether the run is paused, and what changed since the memo was last written."""

    paused: SteeringRecord | None = None
    changes: tuple[SteeringRecord, ...] = ()
