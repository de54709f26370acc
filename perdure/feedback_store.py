"""Writing feedback down, for whoever has a client: a person through the API, a scorer on a worker."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from perdure.feedback import FEEDBACK_WORKFLOW, LIFETIME, MEMO_FEEDBACK, Feedback, feedback_id
from perdure.search_attributes import AGENT, ORG, ORIGIN, SCORE, USER, VERSION

RPC_TIMEOUT: Final = timedelta(seconds=10)


async def keep_feedback(client: Client, feedback: Feedback, *, task_queue: str) -> None:
    """Keep a feedback; an earlier one of the same run by the same person ends. Repeating it changes nothing."""
    named = {
        AGENT: feedback.agent,
        VERSION: feedback.version,
        ORG: feedback.org,
        USER: feedback.user,
        ORIGIN: feedback.run_id,
    }
    attributes = [SearchAttributePair(key, value) for key, value in named.items() if value]
    score = [] if feedback.score is None else [SearchAttributePair(SCORE, feedback.score)]
    await client.start_workflow(
        FEEDBACK_WORKFLOW,
        feedback,
        id=feedback_id(feedback.run_id, feedback.by),
        task_queue=task_queue,
        execution_timeout=LIFETIME,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
        search_attributes=TypedSearchAttributes([*attributes, *score]),
        memo={MEMO_FEEDBACK: feedback},
        static_summary=f"feedback on {feedback.run_id}",
        rpc_timeout=RPC_TIMEOUT,
    )
