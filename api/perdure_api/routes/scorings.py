"""Which scorers have judged a run."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter

from perdure.principal import Scope
from perdure_api.dependencies import Gateway, RunId
from perdure_api.problems import problems
from perdure_api.scoped_route import ScopedRoute, requires
from perdure_api.scoring_schemas import ScoringList

router = APIRouter(route_class=ScopedRoute, prefix="/runs/{run_id}/scorings", tags=["feedback"])


@router.get(
    "",
    operation_id="listScorings",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="See which scorers have judged a run",
    responses=problems(HTTPStatus.NOT_FOUND),
)
async def list_scorings(run_id: RunId, gateway: Gateway) -> ScoringList:
    """Return who has judged a run that has ended, who is at it, and who has failed and why."""
    return ScoringList(items=await gateway.scorings.list(run_id))
