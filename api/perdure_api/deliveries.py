"""Deliveries as the API sees them: whom a run has told what, what became of it, and sending one again."""

from __future__ import annotations

from typing import Final

import structlog
from temporalio.client import WorkflowExecutionDescription
from temporalio.common import (
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError

from perdure.endpoint import parse_endpoint
from perdure.errors import ConflictError, DeliveryNotFoundError, RunNotFoundError
from perdure.events.payloads import read_first
from perdure.notice import DELIVERY_NAME, DELIVERY_PREFIX, Delivered, Notice, summary
from perdure.redaction import redacted
from perdure.search_attributes import AGENT, ORG, ORIGIN
from perdure_api.delivery_schemas import RunDelivery
from perdure_api.errands import Errand, ErrandStatus, errands_of, read_errand
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_workflows.delivery import Delivery
from perdure_workflows.options import DELIVERY_LIFETIME

_STATUSES: Final[dict[ErrandStatus, str]] = {"under_way": "under_way", "done": "delivered", "failed": "failed"}

log = structlog.get_logger(__name__)


class Deliveries:
    """What the runs that a principal may see have told."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def list(self, run_id: str) -> tuple[RunDelivery, ...]:
        """Return the deliveries of a run, the first first, as far as Temporal has them still.

        Raises:
            RunNotFoundError: There is no such run.
        """
        await self._reach.executions.describe(run_id)
        errands = await errands_of(self._reach, run_id, workflow_type=DELIVERY_NAME)
        shown = [_shown(errand, notice) for errand in errands if (notice := read_first(errand.input, Notice))]
        return tuple([await redacted(delivery, self._reach.redactor) for delivery in shown])

    async def redeliver(self, run_id: str, delivery_id: str) -> RunDelivery:
        """Have a delivery that was given up tried again, as long as a new one; it keeps its `webhook-id`.

        Raises:
            RunNotFoundError: There is no such run.
            DeliveryNotFoundError: The run has no such delivery.
            ConflictError: It has arrived, or is under way.
        """
        await self._reach.executions.describe(run_id)
        failed = await self._find(run_id, delivery_id)
        notice = read_first(failed.input, Notice)
        if notice is None:
            raise DeliveryNotFoundError(f"nobody can tell any more what delivery {delivery_id!r} was to say")
        try:
            await self._start(notice, failed.description)
        except WorkflowAlreadyStartedError as error:
            raise ConflictError(f"delivery {delivery_id!r} has arrived, or is under way") from error
        log.info("delivery_begun_anew", run_id=run_id, delivery_id=delivery_id)
        begun = await self._find(run_id, delivery_id)
        return await redacted(_shown(begun, notice), self._reach.redactor)

    async def _find(self, run_id: str, delivery_id: str) -> Errand:
        try:
            errand = await read_errand(self._reach, f"{DELIVERY_PREFIX}{delivery_id}")
        except RunNotFoundError:
            errand = None
        if (
            errand is None
            or errand.description.workflow_type != DELIVERY_NAME
            or errand.description.typed_search_attributes.get(ORIGIN) != run_id
        ):
            raise DeliveryNotFoundError(f"run {run_id!r} has no delivery {delivery_id!r}")
        return errand

    async def _start(self, notice: Notice, failed: WorkflowExecutionDescription) -> None:
        kept = [pair for pair in failed.typed_search_attributes if pair.key in (AGENT, ORG, ORIGIN)]
        with temporal_errors():
            await self._reach.client.start_workflow(
                Delivery.run,
                notice,
                id=failed.id,
                task_queue=failed.task_queue,
                execution_timeout=DELIVERY_LIFETIME,
                # The server itself sees to it that of several requests one counts, and that none repeats what arrived.
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                search_attributes=TypedSearchAttributes(kept),
                static_summary=summary(notice),
                rpc_timeout=RPC_TIMEOUT,
            )


def _shown(errand: Errand, notice: Notice) -> RunDelivery:
    description = errand.description
    delivered = read_first(errand.result, Delivered)
    return RunDelivery.model_validate(
        {
            "delivery_id": description.id.removeprefix(DELIVERY_PREFIX),
            "notice_id": notice.notice_id,
            "about": notice.type,
            "host": parse_endpoint(notice.url).host,
            "format": notice.format,
            "status": _STATUSES[errand.status],
            "attempts": errand.attempts,
            "answered": delivered.status if delivered else None,
            "error": errand.error,
            "next_attempt_at": errand.next_attempt_at,
            "started_at": description.start_time,
            "ended_at": description.close_time,
        }
    )
