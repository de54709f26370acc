"""What people think of a run: given, read, taken back."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response

from perdure.feedback import Feedback
from perdure.principal import Scope
from perdure_api.dependencies import Gateway, RunId
from perdure_api.feedback_schemas import FeedbackList, FeedbackRequest
from perdure_api.problems import WITH_BODY, problems
from perdure_api.scoped_route import ScopedRoute, requires
from perdure_api.text import Line

router = APIRouter(route_class=ScopedRoute, prefix="/runs/{run_id}/feedback", tags=["feedback"])

EXAMPLE = {"score": 0.5, "comment": "right, but slow", "by": "ann"}


@router.post(
    "",
    operation_id="giveFeedback",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Say how good a run was",
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND)},
)
async def give(
    run_id: RunId, request: Annotated[FeedbackRequest, Body(examples=[EXAMPLE])], gateway: Gateway
) -> Feedback:
    """Keep the caller's word on a run that goes on or is over, in the place of an earlier one."""
    return await gateway.feedback.give(run_id, request)


@router.get(
    "",
    operation_id="listFeedback",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="See what is thought of a run",
    responses=problems(HTTPStatus.NOT_FOUND),
)
async def list_feedback(run_id: RunId, gateway: Gateway) -> FeedbackList:
    """Return what people and scorers think of a run, the latest first."""
    return FeedbackList(items=await gateway.feedback.list(run_id))


@router.delete(
    "",
    operation_id="withdrawFeedback",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Take one's word on a run back",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses=problems(HTTPStatus.NOT_FOUND),
)
async def withdraw(
    run_id: RunId,
    gateway: Gateway,
    by: Annotated[Line | None, Query(description="While the API is open: whose. Otherwise the caller's own.")] = None,
) -> None:
    """Forget what the caller has said about a run."""
    await gateway.feedback.withdraw(run_id, by=by)
