"""Standing grants: an approval that holds for calls to come, until it expires or somebody revokes it.

A grant is for one tool on one resource, called by one agent on behalf of one user, under the rule and the requirement
that it was given under: a rule that asks for more is not satisfied by it. One for a run is part of the run. One for a
time is a workflow of its own that lives as long as the grant: Temporal's timeout ends it, and `terminate` revokes it.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import Final

from perdure.approval import ApprovalRequirement
from perdure.messages import Frozen

GRANT_WORKFLOW: Final = "Grant"
GRANT_PREFIX: Final = "perdure-grant:"


class Grant(Frozen):
    """What may run without asking again, and who said so."""

    grant_id: str
    org: str | None = None
    agent: str
    user: str | None = None
    """On whose behalf the run is; nobody else's runs."""
    tool: str
    resource: str | None = None
    """None: the tool names none, and the grant is for whatever it is called with."""
    rule: str = ""
    requirement: ApprovalRequirement = ApprovalRequirement()
    granted_by: tuple[str, ...] = ()
    reason: str = ""
    run_id: str
    """The run in which it was given."""
    approval_id: str
    at: datetime
    expires_at: datetime | None = None
    """None: with the run."""

    def covers(self, *, rule: str, requirement: ApprovalRequirement) -> bool:
        """Whether it satisfies a rule that asks for an approval."""
        return (self.rule, self.requirement) == (rule, requirement)


def grant_id(*, org: str | None, agent: str, user: str | None, tool: str, resource: str | None) -> str:
    """Name the grant of this tool on this resource, so that it can be looked up without a search."""
    content = json.dumps([org, agent, user, tool, resource])
    return GRANT_PREFIX + hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:32]
