"""A cancellation that an activity's end has overtaken.

The SDK has a cancelled task wait for its activity and then hands over the activity's end, whichever it was. So a task
whose activity completed, or failed in words of its own, goes on as if nobody had cancelled it, unless it looks.
"""

from __future__ import annotations

import asyncio

from temporalio.exceptions import ActivityError, is_cancelled_exception


def raise_if_cancelled(error: ActivityError | None = None) -> None:
    """Let the cancellation through that this task was given.

    Args:
        error: How the activity that the task waited for failed, if it did.

    Raises:
        ActivityError: It says itself that the activity was cancelled.
        CancelledError: The task was cancelled.
    """
    if error is not None and is_cancelled_exception(error):
        raise error
    if is_cancelled():
        raise asyncio.CancelledError from error


def is_cancelled() -> bool:
    """Whether the task that asks was cancelled, also if it has not heard of it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
