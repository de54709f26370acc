"""Standing grants: what may run without asking again, and taking that back."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response

from perdure.principal import Scope
from perdure_api.dependencies import Gateway, GrantId, RunId
from perdure_api.problems import WITH_BODY, problems
from perdure_api.schemas import GrantFilter, GrantList, RevokeRequest, RunReference
from perdure_api.scoped_route import ScopedRoute, requires

router = APIRouter(route_class=ScopedRoute, tags=["grants"])


@router.get(
    "/grants", operation_id="listGrants", openapi_extra=requires(Scope.RUNS_READ), summary="List standing grants"
)
async def list_grants(query: Annotated[GrantFilter, Query()], gateway: Gateway) -> GrantList:
    """List the grants that stand, the newest first. Those that hold for one run are in the run."""
    return GrantList(items=tuple(await gateway.grants.list(query)))


@router.post(
    "/grants/{grant_id}/revoke",
    operation_id="revokeGrant",
    openapi_extra=requires(Scope.APPROVALS_DECIDE),
    summary="Revoke a standing grant",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)},
)
async def revoke(grant_id: GrantId, gateway: Gateway, request: RevokeRequest | None = None) -> None:
    """End a grant; from now on its calls are asked about again."""
    await gateway.grants.revoke(grant_id, request or RevokeRequest())


@router.post(
    "/runs/{run_id}/grants/{grant_id}/revoke",
    operation_id="revokeRunGrant",
    openapi_extra=requires(Scope.APPROVALS_DECIDE),
    summary="Revoke a grant that holds for a run",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)},
)
async def revoke_for_run(
    run_id: RunId, grant_id: GrantId, gateway: Gateway, request: RevokeRequest | None = None
) -> RunReference:
    """Ask a run to forget a grant that it was given for itself."""
    await gateway.grants.revoke_for_run(run_id, grant_id, request or RevokeRequest())
    return RunReference(run_id=run_id)
