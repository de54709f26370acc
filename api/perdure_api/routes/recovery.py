"""Retry what failed, and see what fails why."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Response

from perdure.errors import PerdureError
from perdure.principal import Scope
from perdure_api.dependencies import Gateway, RunId
from perdure_api.problems import WITH_BODY, problems, status_of
from perdure_api.recovery_schemas import (
    FailureFilter,
    Failures,
    ForkRequest,
    Retried,
    Retries,
    RetriesRequest,
    RetryAttempt,
    RetryRequest,
)
from perdure_api.schemas import RunSummary, StartedRun
from perdure_api.scoped_route import ScopedRoute, requires
from perdure_api.text import Line

router = APIRouter(route_class=ScopedRoute, tags=["recovery"])

FORK_EXAMPLE = {"step": 3, "model": "anthropic:claude-opus-4-5", "message": "Offer a voucher instead."}
RETRIES_EXAMPLE = {
    "runs": {"status": "failed", "error": "model_timeout", "agent": "support"},
    "dry_run": True,
    "reason": "the provider is back",
}
RETRY_EXAMPLE = {"reason": "the provider is back"}


@router.post(
    "/runs/{run_id}/retry",
    operation_id="retryRun",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Retry a run",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)},
)
async def retry(
    run_id: RunId, gateway: Gateway, request: Annotated[RetryRequest | None, Body(examples=[RETRY_EXAMPLE])] = None
) -> Retried:
    """Have a run that ended badly go on from the step that failed: what it has finished is not done again."""
    return await gateway.recovery.retry(run_id, request or RetryRequest())


@router.post(
    "/retries",
    operation_id="retryRuns",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Retry runs",
    responses=WITH_BODY,
)
async def retry_many(request: Annotated[RetriesRequest, Body(examples=[RETRIES_EXAMPLE])], gateway: Gateway) -> Retries:
    """Have runs that ended badly go on, the newest first, each by itself; or say which ones it would be."""
    outcome = await gateway.recovery.retry_many(request)
    return Retries(
        items=tuple(_attempt(run, became) for run, became in outcome.runs),
        dry_run=request.dry_run,
        next_page_token=outcome.next_page_token,
    )


def _attempt(run: RunSummary, became: Retried | PerdureError | None) -> RetryAttempt:
    who = {"run_id": run.run_id, "agent": run.agent, "error_type": run.error_type}
    if isinstance(became, PerdureError):
        return RetryAttempt(**who, error=str(became), status=status_of(became))
    return RetryAttempt(**who, retried=became, status=HTTPStatus.ACCEPTED)


@router.post(
    "/runs/{run_id}/fork",
    operation_id="forkRun",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Fork a run",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)},
)
async def fork(
    run_id: RunId,
    gateway: Gateway,
    response: Response,
    request: Annotated[ForkRequest | None, Body(examples=[FORK_EXAMPLE])] = None,
    idempotency_key: Annotated[
        Line | None,
        Header(
            alias="Idempotency-Key",
            description="Chosen by the caller; with the same one, and the same request, nothing more is started.",
        ),
    ] = None,
) -> StartedRun:
    """Start a run that goes on from a step of another one, which may be open or ended, with something changed."""
    started = await gateway.recovery.fork(run_id, request or ForkRequest(), idempotency_key=idempotency_key)
    response.headers["Location"] = f"/v1/runs/{started.run_id}"
    return started


@router.get(
    "/failures",
    operation_id="listFailures",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="Count failures by error",
)
async def failures(query: Annotated[FailureFilter, Query()], gateway: Gateway) -> Failures:
    """Return how many runs failed of what, the most frequent error first; of the latest 5,000 of them."""
    return await gateway.recovery.failures(query)
