"""Feedback as the API sees it: given on runs of the caller's organisation, and read back by visibility."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import structlog
from temporalio.client import WorkflowExecution

from perdure.encryption import seal
from perdure.errors import ConflictError, DecryptionError, FeedbackNotFoundError, InvalidInputError, RunNotFoundError
from perdure.feedback import MEMO_FEEDBACK, SCORER_PREFIX, Feedback, feedback_id
from perdure.feedback_store import keep_feedback
from perdure.redaction import redacted
from perdure.search_attributes import AGENT, ORG, USER, VERSION
from perdure_api import visibility
from perdure_api.authority import required_speaker
from perdure_api.feedback_schemas import FeedbackRequest
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors

MAX_LISTED: Final = 100

log = structlog.get_logger(__name__)


class FeedbackBook:
    """What people and scorers think of the runs that a principal may see."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def give(self, run_id: str, request: FeedbackRequest) -> Feedback:
        """Keep what somebody thinks of a run, in the place of what they thought before; also when the run is over.

        Raises:
            RunNotFoundError: There is no such run.
            InvalidInputError: It is not said, or cannot be, whose word it is.
        """
        by = required_speaker(self._reach.principal, request.by, field="by")
        if by.startswith(SCORER_PREFIX):
            raise InvalidInputError(f"by is {by!r}, but names that begin with {SCORER_PREFIX!r} are those of scorers")
        description = await self._reach.executions.describe(run_id)
        attributes = description.typed_search_attributes
        feedback = Feedback(
            run_id=run_id,
            agent=attributes.get(AGENT) or "",
            version=attributes.get(VERSION) or "",
            org=attributes.get(ORG),
            user=attributes.get(USER),
            by=by,
            score=request.value,
            comment=request.comment,
            at=datetime.now(UTC),
        )
        with temporal_errors():
            await keep_feedback(self._reach.client, feedback, task_queue=self._reach.settings.task_queue)
        return await redacted(feedback, self._reach.redactor)

    async def list(self, run_id: str) -> tuple[Feedback, ...]:
        """Return what people and scorers think of a run, the latest first.

        Raises:
            RunNotFoundError: There is no such run.
        """
        await self._reach.executions.describe(run_id)
        return await feedback_of(self._reach, run_id)

    async def withdraw(self, run_id: str, *, by: str | None = None) -> None:
        """Take one's own word back.

        Raises:
            RunNotFoundError: There is no such run.
            FeedbackNotFoundError: Nobody of that name has said anything, or it is taken back already.
        """
        name = required_speaker(self._reach.principal, by, field="by")
        await self._reach.executions.describe(run_id)
        handle = self._reach.client.get_workflow_handle(feedback_id(run_id, name))
        reason = await seal(f"taken back by {name}", self._reach.client.data_converter)
        try:
            with temporal_errors(run_id=run_id):
                await handle.terminate(reason=reason, rpc_timeout=RPC_TIMEOUT)
        except (RunNotFoundError, ConflictError) as error:
            raise FeedbackNotFoundError(f"{name!r} has given run {run_id!r} no feedback") from error


async def feedback_of(reach: Reach, run_id: str) -> tuple[Feedback, ...]:
    """Return what is thought of a run that the principal is known to see, the latest first; at most 100."""
    rows = reach.client.list_workflows(
        visibility.feedback_query(run_id), page_size=MAX_LISTED, limit=MAX_LISTED, rpc_timeout=RPC_TIMEOUT
    )
    found: list[Feedback] = []
    with temporal_errors():
        async for row in rows:
            if (feedback := await read_feedback(row)) is not None and feedback.run_id == run_id:
                found.append(await redacted(feedback, reach.redactor))
    return tuple(sorted(found, key=lambda feedback: feedback.at, reverse=True))


async def read_feedback(row: WorkflowExecution) -> Feedback | None:
    """Return the feedback that a row keeps; None, and a warning, if its key is gone."""
    try:
        return await row.memo_value(MEMO_FEEDBACK, None, type_hint=Feedback)
    except DecryptionError as error:  # it must not keep the others from being seen
        log.warning("feedback_unreadable", workflow_id=row.id, error=str(error))
        return None
