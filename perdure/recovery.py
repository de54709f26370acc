"""A way back from a failure: what travels between API, the workflow `Retry` and its activity, and what a reset says.

Fields are only ever added, with defaults, as a history written today is replayed by the code of tomorrow.
"""

from __future__ import annotations

from typing import Final

from pydantic import ValidationError
from temporalio import activity

from perdure.messages import Frozen

RETRY_NAME: Final = "Retry"
RETRY_PREFIX: Final = "perdure-retry:"
MEMO_RETRY: Final = "retry"
"""Memo field of a `Retry`: the `RetryOrder`."""
NOT_RETRIABLE: Final = "not_retriable"
"""Error type of `reset_run` when the run cannot go on from anywhere."""


class RetryOrder(Frozen):
    """Input of the workflow `Retry` and of its activity `reset_run`."""

    run_id: str
    execution_id: str
    """Temporal's run id of the execution that ended badly. Once another one is the run's latest, all is done."""
    by: str = ""
    reason: str = ""


class RetryOutcome(Frozen):
    """Result of the workflow `Retry` and of its activity `reset_run`."""

    execution_id: str
    """Temporal's run id of the execution that the run goes on in."""
    step: int | None = None
    """The first step that is made again; None where that is not known."""


class ResetNote(Frozen):
    """What the reason of a reset says, as JSON: Temporal has no other place for it."""

    by: str = ""
    reason: str = ""
    resets: int
    """How many resets the execution has behind it with this one, those included whose traces the reset undoes."""

    @classmethod
    def read(cls, text: str) -> ResetNote | None:
        """Read the reason of a reset; None if it is somebody else's, who may write anything."""
        try:
            return cls.model_validate_json(text)
        except ValidationError:
            return None


def retry_id(run_id: str, execution_id: str) -> str:
    """Return the workflow id of a retry: of several requests for one failed execution, one counts."""
    return f"{RETRY_PREFIX}{run_id}:{execution_id}"


@activity.defn
async def reset_run(order: RetryOrder) -> RetryOutcome:
    """Have a run go on from before the step that failed."""
    raise NotImplementedError
