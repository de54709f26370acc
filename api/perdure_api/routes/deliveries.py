"""What a run has told to whom, and telling it again."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter

from perdure.principal import Scope
from perdure_api.delivery_schemas import DeliveryList, RunDelivery
from perdure_api.dependencies import DeliveryId, Gateway, RunId
from perdure_api.problems import problems
from perdure_api.scoped_route import ScopedRoute, requires

router = APIRouter(route_class=ScopedRoute, prefix="/runs/{run_id}/deliveries", tags=["deliveries"])


@router.get(
    "",
    operation_id="listDeliveries",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="See whom a run has told what",
    responses=problems(HTTPStatus.NOT_FOUND),
)
async def list_deliveries(run_id: RunId, gateway: Gateway) -> DeliveryList:
    """Return webhooks and messages of a run, the first first: to whom, about what, and what became of each."""
    return DeliveryList(items=await gateway.deliveries.list(run_id))


@router.post(
    "/{delivery_id}/redeliver",
    operation_id="redeliver",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Send again what was given up",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
async def redeliver(run_id: RunId, delivery_id: DeliveryId, gateway: Gateway) -> RunDelivery:
    """Have a delivery that failed for good tried again, under the same `webhook-id`."""
    return await gateway.deliveries.redeliver(run_id, delivery_id)
