"""Routes that name the scope they need: the OpenAPI document has it, and callers without it get no further.

router = APIRouter(route_class=ScopedRoute)

@router.get("/runs", openapi_extra=requires(Scope.RUNS_READ))
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import ConfigurationError
from perdure.principal import Principal, Scope
from perdure_api.access import Access, authorise

FIELD: Final = "x-perdure-scope"
"""The field of an operation that names its scope."""
ALL_ORGS: Final = "x-perdure-all-orgs"
"""The field of an operation that is for callers of no organisation alone."""
SCHEME: Final = "bearer"
SECURITY_SCHEMES: Final = {
    SCHEME: {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key made by 'perdure keys create', or a token of the configured issuer; none while the "
        "API is open, as on a developer's machine.",
    }
}


def requires(scope: Scope, *, all_orgs: bool = False) -> dict[str, Any]:
    """Return what a route says of itself in the OpenAPI document, which is also what is asked of its callers.

    Args:
        scope: What they need.
        all_orgs: The route reaches what is every organisation's: it is for callers of none.
    """
    return {FIELD: scope.value, "security": [{SCHEME: []}], **({ALL_ORGS: True} if all_orgs else {})}


class ScopedRoute(APIRoute):
    """A route for callers who have its scope; a handler finds the caller as `request.state.principal`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, behind the question who calls.

        Raises:
            ConfigurationError: The route names no scope.
        """
        said = self.openapi_extra or {}
        if FIELD not in said:
            raise ConfigurationError(f"the route {self.path!r} names no scope; add openapi_extra=requires(Scope.…)")
        scope, all_orgs, handle = Scope(said[FIELD]), ALL_ORGS in said, super().get_route_handler()

        async def admitted(request: Request) -> Response:
            principal = request.state.principal = await self.admit(request, scope, all_orgs=all_orgs)
            run_id = request.path_params.get("run_id")
            ids = {"user": principal.user, "org": principal.org, "run_id": run_id}
            structlog.contextvars.bind_contextvars(**{name: value for name, value in ids.items() if value is not None})
            return await handle(request)

        return admitted

    async def admit(self, request: Request, scope: Scope, *, all_orgs: bool) -> Principal:
        """Return the caller, who may be served; raises as `authorise`."""
        access: Access = request.app.state.access
        return await authorise(access, request, scope, all_orgs=all_orgs)
