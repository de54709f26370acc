"""The list of runs, which keeps itself up to date."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import HTMLResponse

from perdure.contracts import RunStatus
from perdure.principal import Scope
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.forms import filled
from perdure_api.console.rendering import page
from perdure_api.dependencies import Gateway
from perdure_api.schemas import RunFilter
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/runs")

PAGE: Final = 50


class Wanted(BaseModel):
    """The filters as the form sends them: what is left empty lets every run pass."""

    status: str = ""
    agent: str = ""
    user: str = ""
    session_id: str = ""
    org: str = ""
    page_token: Annotated[str, Field(max_length=4096)] = ""

    @property
    def filters(self) -> dict[str, str]:
        """Those that are set."""
        return {name: value.strip() for name, value in self.model_dump(exclude={"page_token"}).items() if value.strip()}


@router.get("", openapi_extra=requires(Scope.RUNS_READ))
async def list_runs(wanted: Annotated[Wanted, Query()], request: Request, gateway: Gateway) -> HTMLResponse:
    """Show a page of runs, the newest first."""
    filters = filled(RunFilter, wanted.filters)
    found = await gateway.runs.list(filters, limit=PAGE, page_token=wanted.page_token or None)
    return page(
        request,
        "runs_table.html" if "hx-request" in request.headers else "runs.html",
        runs=found.items,
        next_page_token=found.next_page_token,
        wanted=wanted,
        statuses=list(RunStatus),
        agents=sorted({agent.name for agent in gateway.agents.list()}),
        query=request.url.query,
    )
