"""What was used and what it cost."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request, Response

from perdure.principal import Scope
from perdure_api.dependencies import Gateway
from perdure_api.scoped_route import ScopedRoute, requires
from perdure_api.usage import as_csv
from perdure_api.usage_schemas import UsageFilter, UsageReport

router = APIRouter(route_class=ScopedRoute, tags=["usage"])

CSV: Final = "text/csv"


class UsageQuery(UsageFilter):
    """The query of a report."""

    format: Literal["json", "csv"] | None = None
    """Default: CSV for `Accept: text/csv`, else JSON."""


@router.get(
    "/usage",
    operation_id="getUsage",
    openapi_extra=requires(Scope.USAGE_READ),
    summary="Report usage and cost",
    response_model=UsageReport,
    responses={HTTPStatus.OK.value: {"description": "The report.", "content": {CSV: {"schema": {"type": "string"}}}}},
)
async def usage(query: Annotated[UsageQuery, Query()], request: Request, gateway: Gateway) -> UsageReport | Response:
    """Report calls, tokens, cost and the cached share, by organisation, user, agent, model and day.

    Days are read while no worker is running; what is in no page yet is asked of the ledgers, which takes one.
    """
    report = await gateway.usage.report(query)
    wants_csv = query.format == "csv" or (query.format is None and CSV in request.headers.get("accept", ""))
    if not wants_csv:
        return report
    # A program that sums a column up is to know that rows are missing.
    headers = {"X-Perdure-Complete": str(report.complete).lower()}
    return Response(as_csv(report), media_type=f"{CSV}; charset=utf-8; header=present", headers=headers)
