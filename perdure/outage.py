"""An outage: none of an agent's models answers. What a run may do then, and which failures are one.

A failure that is about the request or the run itself is none: asking again, later or elsewhere, would not change it.
"""

from __future__ import annotations

from typing import Final, Literal

OnOutage = Literal["fail", "park", "answer"]
"""What a run does: it fails after its attempts, it waits until a model answers or its time is over, or it gives the
agent's message as its answer after its attempts."""

APOLOGY: Final = "I cannot answer at the moment, as the service I depend on does not respond. Please try again later."
"""What a run answers if its agent's author wrote nothing better."""
MAX_APOLOGY: Final = 4000

REQUEST_REJECTED: Final = "model_request_rejected"
CONTEXT_WINDOW: Final = "context_window"
REPLY_TOO_LARGE: Final = "model_reply_too_large"
TRANSCRIPT_LOST: Final = "transcript_lost"

_NO_OUTAGES: Final = frozenset({REQUEST_REJECTED, CONTEXT_WINDOW, REPLY_TOO_LARGE, TRANSCRIPT_LOST})


def is_outage(error_type: str) -> bool:
    """Return whether a model call that failed so may succeed once somebody, the provider or the operator, mends it.

    Args:
        error_type: The stable name of its error.
    """
    return error_type not in _NO_OUTAGES
