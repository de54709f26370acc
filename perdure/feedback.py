"""Feedback: what a person, or a scorer, thinks of a run. Each is a workflow that does nothing but keep it.

There is one for each run and each who gives one: a later word takes the place of the earlier one. It outlives the run's
own history, so that versions of an agent can be compared by it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final

from pydantic import Field

from perdure.messages import Frozen

FEEDBACK_WORKFLOW: Final = "Feedback"
FEEDBACK_PREFIX: Final = "perdure-feedback:"
MEMO_FEEDBACK: Final = "feedback"
"""Memo field: the `Feedback`."""
SCORER_PREFIX: Final = "scorer:"
"""What the name of a scorer begins with where that of a person stands."""
LIFETIME: Final = timedelta(days=400)
"""As long as usage is kept: two years can be compared."""
MAX_COMMENT: Final = 4000

Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""How good a run was, from 0 to 1."""


class Feedback(Frozen):
    """What somebody thinks of a run: the input and the memo of the workflow that keeps it."""

    run_id: str
    agent: str
    version: str
    org: str | None = None
    user: str | None = None
    """On whose behalf the run was."""
    by: str
    """Who thinks so; `scorer:NAME` for a scorer."""
    score: Score | None = None
    """None: there are words only."""
    comment: str = ""
    at: datetime
    cost_usd: Decimal | None = None
    """Of a scorer's model call; None: it made none, or nobody has a price for it."""


def feedback_id(run_id: str, by: str) -> str:
    """Return the id of the workflow that keeps what somebody thinks of a run."""
    return f"{FEEDBACK_PREFIX}{run_id}:{by}"
