"""Temporal's errors as errors of ours, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.service import RPCError, RPCStatusCode

from perdure.errors import (
    ConflictError,
    InputTooLargeError,
    InvalidInputError,
    PerdureError,
    RunNotFoundError,
    ServerUnreachableError,
)

RPC_TIMEOUT: Final = timedelta(seconds=10)
"""One call to Temporal; what takes longer counts as unreachable."""

_AWAY: Final = (
    RPCStatusCode.UNAVAILABLE,
    RPCStatusCode.DEADLINE_EXCEEDED,
    RPCStatusCode.CANCELLED,  # what the SDK makes of its own time limit
    RPCStatusCode.RESOURCE_EXHAUSTED,
)


@contextmanager
def temporal_errors(*, run_id: str | None = None) -> Iterator[None]:
    """Raise what Temporal refuses or cannot do as an error of ours.

    Args:
        run_id: The run that the calls inside are about.

    Raises:
        RunNotFoundError: There is no such run.
        ConflictError: The run has ended.
        InputTooLargeError: What was sent is larger than Temporal carries.
        InvalidInputError: Temporal does not take an argument.
        ServerUnreachableError: It does not answer, or not now.
        PerdureError: Anything else.
    """
    try:
        yield
    except RPCError as error:
        raise _translated(error, run_id) from error
    except (RuntimeError, ValueError) as error:
        # A lazy client says so when its first connection fails, or its address turns out to be none.
        if not any(said in str(error) for said in ("client connect", "target URL")):
            raise
        raise ServerUnreachableError("no Temporal server answers at the configured address") from error


async def described(client: Client, workflow_id: str) -> WorkflowExecutionDescription | None:
    """Return the workflow of an id as it is now; None if there is none.

    Raises:
        PerdureError: As `temporal_errors`; a namespace that is not there says nothing of the workflow.
    """
    with temporal_errors():
        try:
            return await client.get_workflow_handle(workflow_id).describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND and not error.message.startswith("Namespace "):
                return None
            raise


def _translated(error: RPCError, run_id: str | None) -> PerdureError:
    if error.status in _AWAY:
        return ServerUnreachableError(f"Temporal does not answer now ({error.status.name.lower()}): {error.message}")
    if error.status is RPCStatusCode.NOT_FOUND and run_id is not None:
        if "already completed" in error.message:
            return ConflictError(f"run {run_id!r} has ended")
        return RunNotFoundError(f"no run has the id {run_id!r}")
    if error.status is RPCStatusCode.INVALID_ARGUMENT:
        if "size exceeds limit" in error.message:
            return InputTooLargeError(f"this is more than Temporal carries: {error.message}")
        return InvalidInputError(f"Temporal does not take this: {error.message}")
    return PerdureError(f"Temporal refuses this ({error.status.name.lower()}): {error.message}")
