"""The numbers of this process and of the deployment, as Prometheus reads them. Open to whoever reaches the API."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from perdure.metrics_export import CONTENT_TYPE
from perdure_api.fleet_metrics import FleetMetrics

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={HTTPStatus.OK.value: {"description": "The numbers.", "content": {"text/plain": {}}}},
)
async def metrics(request: Request) -> Response:
    """Tell the numbers of this process, and those of queues and approvals as they were within the last seconds."""
    fleet: FleetMetrics = request.app.state.fleet
    await fleet.refresh()
    return Response(fleet.export.text(), media_type=CONTENT_TYPE)
