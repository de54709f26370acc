"""The rollouts of a namespace as this process knows them. Temporal keeps them, and tells them without a worker."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

from temporalio.client import Client, WorkflowExecutionStatus

from perdure.rollout import MEMO_ROLLOUT, ROLLOUT_WORKFLOW, Rollout, rollout_id
from perdure_api.lookups import Lookups
from perdure_api.rpc import described

KEPT_FOR: Final = timedelta(seconds=5)
"""What Temporal has said of a rollout is not asked again for so long: an earlier one may count until then."""


class KnownRollouts:
    """Looks rollouts up, and keeps what it found for a moment."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lookups: Lookups[tuple[str, str | None], Rollout | None] = Lookups(self._look_up, kept_for=KEPT_FOR)

    async def holding(self, agent: str, *, org: str | None, anew: bool = False) -> Rollout | None:
        """Return the rollout that runs of an organisation go by: its own, else everybody's, if there is one.

        Args:
            agent: The agent's name.
            org: Whose runs; None: those of no organisation.
            anew: Ask Temporal, whatever is known.

        Raises:
            ServerUnreachableError: Temporal does not answer.
            DecryptionError: The rollout is encrypted with a key that is not here.
        """
        not_before = time.monotonic() if anew else None
        for whose in dict.fromkeys((org, None)):
            if rollout := await self._lookups.find((agent, whose), not_before=not_before):
                return rollout
        return None

    async def _look_up(self, question: tuple[str, str | None]) -> Rollout | None:
        agent, org = question
        description = await described(self._client, rollout_id(agent, org=org))
        if description is None:
            return None
        if (description.workflow_type, description.status) != (ROLLOUT_WORKFLOW, WorkflowExecutionStatus.RUNNING):
            return None
        rollout = await description.memo_value(MEMO_ROLLOUT, None, type_hint=Rollout)
        return rollout if rollout is not None and (rollout.agent, rollout.org) == question else None
