"""What routes take from the application, from the caller and from the path."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request

from perdure.principal import Principal
from perdure_api.feeds import Feeds
from perdure_api.gateway import Gateway as GatewayOf
from perdure_api.text import APPROVAL_ID_PATTERN, GRANT_ID_PATTERN, RUN_ID_PATTERN, SCHEDULE_PATTERN


async def _principal(request: Request) -> Principal:
    # A route that asks nobody who calls (see `ScopedRoute`) has no principal, and fails here.
    principal: Principal = request.state.principal
    return principal


async def _gateway(request: Request, principal: Annotated[Principal, Depends(_principal)]) -> GatewayOf:
    gateway: GatewayOf = request.app.state.gateway
    return gateway.of(principal)


async def _feeds(request: Request) -> Feeds:
    feeds: Feeds = request.app.state.feeds
    return feeds


SharedFeeds = Annotated[Feeds, Depends(_feeds)]
"""Of all runs: whose run it is has to be asked of the gateway first."""
Caller = Annotated[Principal, Depends(_principal)]
Gateway = Annotated[GatewayOf, Depends(_gateway)]
"""What the caller may see and do."""
RunId = Annotated[str, Path(pattern=RUN_ID_PATTERN, description="The run's id, which is Temporal's workflow id.")]
GrantId = Annotated[str, Path(pattern=GRANT_ID_PATTERN, description="The grant's id.")]
ScheduleId = Annotated[
    str, Path(pattern=SCHEDULE_PATTERN, description="The schedule's id, or its name in the caller's organisation.")
]
ApprovalId = Annotated[str, Path(pattern=APPROVAL_ID_PATTERN, description="The approval's id.")]
DeliveryId = Annotated[str, Path(pattern=r"^[0-9A-Za-z-]{1,100}$", description="The delivery's id.")]
