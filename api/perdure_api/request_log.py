"""What is told of each request: its span, one log line, and how long it took."""

from __future__ import annotations

import time
from typing import Any, Final

import structlog
from fastapi.telemetry import TelemetryConfig
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure import metrics, tracing

UNTOLD: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked every few seconds by programs that watch."""
FRAMEWORK_TELEMETRY: Final[TelemetryConfig] = {"tracing": False, "metrics": False, "logs": False}
"""What FastAPI would tell by itself, again: five spans a request, probes included, and what was wrong with a body."""

log = structlog.get_logger(__name__)


class RequestLog:
    """Tells of requests. A trace that the caller is in, by its header `traceparent`, goes on here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and tell of it when its answer is complete."""
        if scope["type"] != "http" or scope["path"] in UNTOLD:
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope.setdefault("state", {})
        with (
            structlog.contextvars.bound_contextvars(),
            tracing.tracer.start_as_current_span(
                scope["method"],
                context=tracing.context_of(_traceparent(scope)),
                kind=SpanKind.SERVER,
                attributes={"http.request.method": scope["method"], "url.path": scope["path"]},
            ) as span,
        ):
            try:
                await self._app(scope, receive, sending)
            finally:
                route = _route(scope)
                span.update_name(f"{scope['method']} {route}")
                span.set_attributes({"http.route": route, "http.response.status_code": status})
                if status >= 500:
                    span.set_status(Status(StatusCode.ERROR))
                seconds = time.perf_counter() - began
                labels = {"method": scope["method"], "route": route, "status": str(status)}
                metrics.http_duration.record(seconds, labels)
                log.info("request", **labels, **_who(scope), seconds=round(seconds, 4))
                structlog.contextvars.unbind_contextvars("user", "org", "run_id")  # the caller's, which may go on


def _traceparent(scope: Scope) -> str:
    found = [value for name, value in scope["headers"] if name == tracing.HEADER.encode()]
    return found[0].decode("latin-1") if len(found) == 1 else ""


def _route(scope: Scope) -> str:
    """Return the route's path as it is declared, so that ids do not make each request one of a kind."""
    path = getattr(scope.get("route"), "path", None)
    if path is None:
        return "(none)"
    # A router's own prefix is not in it; those are the first segments of what was asked for.
    asked, declared = scope["path"].split("/"), str(path).split("/")
    return "/".join([*asked[: len(asked) - len(declared) + 1], *declared[1:]])


def _who(scope: Scope) -> dict[str, Any]:
    principal = scope["state"].get("principal")
    who = {"user": principal.user, "org": principal.org} if principal is not None else {}
    run_id = scope.get("path_params", {}).get("run_id")
    return {
        **{name: value for name, value in who.items() if value is not None},
        **({"run_id": run_id} if run_id else {}),
    }
