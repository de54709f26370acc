"""The inbox over all runs, and decisions."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field

from perdure.errors import PerdureError
from perdure.principal import Scope
from perdure_api.dependencies import ApprovalId, Gateway, RunId
from perdure_api.problems import WITH_BODY, problems, status_of
from perdure_api.schemas import (
    Answer,
    ApprovalDetail,
    BatchItem,
    BatchOutcome,
    BatchRequest,
    Decided,
    DecisionRequest,
    InboxApproval,
    InboxFilter,
)
from perdure_api.scoped_route import ScopedRoute, requires

router = APIRouter(route_class=ScopedRoute, tags=["approvals"])

EXAMPLE = {"decision": "approve", "decided_by": "ann", "reason": "the photo shows the damage"}


BATCH_EXAMPLE = {"items": [{"run_id": "run-7", "approval_id": "c2-1f0e9a77", **EXAMPLE}]}


class InboxQuery(InboxFilter):
    """The query of the inbox."""

    limit: int = Field(default=100, ge=1, le=1000)


class Inbox(Answer):
    """What waits for a human, the oldest first."""

    items: tuple[InboxApproval, ...]


class Outcomes(Answer):
    """What became of each decision, in the order of the request."""

    items: tuple[BatchOutcome, ...]


@router.get(
    "/approvals",
    operation_id="listApprovals",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="List what waits for a human",
)
async def inbox(query: Annotated[InboxQuery, Query()], gateway: Gateway) -> Inbox:
    """List the pending approvals of all runs, the oldest first. This works while no worker is running."""
    return Inbox(items=tuple(await gateway.approvals.pending(query, limit=query.limit)))


@router.post(
    "/approvals/decisions",
    operation_id="decideMany",
    openapi_extra=requires(Scope.APPROVALS_DECIDE),
    summary="Decide on several approvals",
    responses=WITH_BODY,
)
async def decide_many(request: Annotated[BatchRequest, Body(examples=[BATCH_EXAMPLE])], gateway: Gateway) -> Outcomes:
    """Decide on up to 100 approvals of any runs; each is told by itself what became of it."""
    outcomes = await gateway.approvals.decide_many(request.items)
    return Outcomes(items=tuple(_outcome(*pair) for pair in zip(request.items, outcomes, strict=True)))


def _outcome(item: BatchItem, outcome: Decided | PerdureError) -> BatchOutcome:
    if isinstance(outcome, PerdureError):
        problem = {"error": str(outcome), "status": status_of(outcome)}
        return BatchOutcome(run_id=item.run_id, approval_id=item.approval_id, **problem)
    status = HTTPStatus.OK if outcome.confirmed else HTTPStatus.ACCEPTED
    return BatchOutcome(run_id=item.run_id, approval_id=item.approval_id, decided=outcome, status=status)


@router.get(
    "/runs/{run_id}/approvals/{approval_id}",
    operation_id="getApproval",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="Look at an approval",
    responses=problems(HTTPStatus.NOT_FOUND),
)
async def get(run_id: RunId, approval_id: ApprovalId, gateway: Gateway) -> ApprovalDetail:
    """Return an approval's durable record, pending or decided. This is where the links of notifications lead."""
    return await gateway.approvals.get(run_id, approval_id)


@router.post(
    "/runs/{run_id}/approvals/{approval_id}",
    operation_id="decide",
    openapi_extra=requires(Scope.APPROVALS_DECIDE),
    summary="Decide on an approval",
    responses={
        **WITH_BODY,
        **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
        HTTPStatus.OK.value: {"description": "The run has taken the decision."},
        HTTPStatus.ACCEPTED.value: {"model": Decided, "description": "The decision is stored and waits for a worker."},
    },
)
async def decide(
    run_id: RunId,
    approval_id: ApprovalId,
    request: Annotated[DecisionRequest, Body(examples=[EXAMPLE])],
    gateway: Gateway,
    response: Response,
) -> Decided:
    """Approve or reject a call, or say what became of one whose outcome is unknown."""
    decided = await gateway.approvals.decide(run_id, approval_id, request)
    response.status_code = HTTPStatus.OK if decided.confirmed else HTTPStatus.ACCEPTED
    return decided
