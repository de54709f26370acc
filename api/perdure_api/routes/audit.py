"""The audit: a page of records, or all that are wanted as JSON lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from perdure.errors import PerdureError
from perdure.principal import Scope
from perdure_api.audit import MAX_PAGE, Audit, AuditPage, AuditQuery
from perdure_api.dependencies import Caller
from perdure_api.problems import problems
from perdure_api.scoped_route import ScopedRoute, requires

router = APIRouter(route_class=ScopedRoute, tags=["audit"])
log = structlog.get_logger(__name__)

LINES: Final = "application/x-ndjson"


class ListQuery(AuditQuery):
    """The query of a list of records."""

    limit: int = Field(default=100, ge=1, le=MAX_PAGE)
    page_token: str | None = Field(default=None, max_length=4096)
    """`next_page_token` of the page before, with the same filters."""


@router.get(
    "/audit",
    operation_id="listAudit",
    openapi_extra=requires(Scope.AUDIT_READ),
    summary="Read the audit",
    response_model=AuditPage,
    responses={
        **problems(HTTPStatus.NOT_FOUND),
        HTTPStatus.OK.value: {
            "description": f"A page of records. For `Accept: {LINES}`: all of them, one line of JSON each, as they "
            "stand in their chains; `limit` and `page_token` do not count then.",
            "content": {LINES: {"schema": {"type": "string"}}},
        },
    },
)
async def read(query: Annotated[ListQuery, Query()], request: Request, caller: Caller) -> AuditPage | Response:
    """Return what was done by whom, in the order of each organisation's chain. It lags some seconds behind."""
    audit: Audit = request.app.state.audit
    org = caller.org
    if LINES not in request.headers.get("accept", ""):
        wanted = AuditQuery.model_validate(query.model_dump(include=set(AuditQuery.model_fields)))
        return await audit.page(wanted, org=org, limit=query.limit, page_token=query.page_token)
    audit.check()
    return StreamingResponse(_told(audit.lines(query, org=org)), media_type=LINES)


async def _told(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for line in lines:
            yield line
    except PerdureError as error:
        log.warning("audit_stream_broke", error=str(error))
        raise  # so that the client sees the connection break, and does not take what it has for all there is
