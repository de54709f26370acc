"""The limits of requests at the routes: who is counted, against what, and what headers say of it.

The fields `RateLimit-Policy` and `RateLimit` are those of draft-ietf-httpapi-ratelimit-headers-10.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.errors import RateLimitedError
from perdure.principal import Principal
from perdure.rate_limits import Act, RateLimits
from perdure.settings import Settings
from perdure_api.rate_limiter import Bucket, RateLimiter, Standing

DECISIONS: Final = frozenset(
    {
        "decide",
        "decideMany",
        "revokeGrant",
        "revokeRunGrant",
        "cancelRun",
        "pauseRun",
        "resumeRun",
        "sendMessage",
        "retryRun",
        "pauseSchedule",
        "deleteSchedule",
        "setRollout",
        "clearRollout",
    }
)
"""Operations by which a human steps in; no load of another kind may lock them out."""


async def limit(request: Request) -> None:
    """Count the request, and refuse it if its caller has sent too many of its kind.

    Raises:
        RateLimitedError: It has.
    """
    settings: Settings = request.app.state.settings
    principal: Principal | None = getattr(request.state, "principal", None)
    if not _counts(settings, principal):
        return
    limiter: RateLimiter = request.app.state.rate_limiter
    address = request.client.host if request.client else ""
    counted_in = buckets(settings.rate_limits, act_of(request), principal, address=address)
    verdict = await limiter.count(counted_in)
    request.state.rate_limit_headers = _headers(counted_in, verdict.standings)
    if verdict.refused:
        full = verdict.standings[-1]
        raise RateLimitedError(
            f"more than {full.bucket.rate} requests of this kind ({full.bucket.policy}); try again in {full.reset} s",
            retry_after=full.reset,
        )


def act_of(request: Request) -> Act:
    """Return what a request does."""
    route = request.scope.get("route")
    if isinstance(route, APIRoute) and route.operation_id in DECISIONS:
        return "decision"
    return "read" if request.method in ("GET", "HEAD", "OPTIONS") else "write"


def buckets(limits: RateLimits, act: Act, principal: Principal | None, *, address: str) -> list[Bucket]:
    """Return what a request is counted in, the narrowest first.

    Args:
        limits: The operator's.
        act: What the request does.
        principal: Who sends it; None, or one who is not told from others, is an address.
        address: Of the client.
    """
    allowance = limits.allowance(act)
    subjects: dict[str, tuple[str, ...]] = {}
    if principal is None or principal.via == "open":
        subjects["key"] = ("address", address)
    else:
        if principal.via == "key":
            subjects["key"] = ("key", principal.credential)
        org = principal.org or ""
        subjects["user"] = (principal.via, principal.credential if principal.via == "oidc" else "", org, principal.user)
        if principal.org is not None:
            subjects["org"] = (org,)
    rates = {"key": allowance.key, "user": allowance.user, "org": allowance.org}
    return [
        Bucket(f"{act}-{kind}", subject, rate)
        for kind, subject in subjects.items()
        if (rate := rates[kind]) is not None
    ]


def _counts(settings: Settings, principal: Principal | None) -> bool:
    if settings.rate_limits.enabled is not None:
        return settings.rate_limits.enabled
    return principal is not None and principal.authenticated


def _headers(counted_in: Sequence[Bucket], standings: Sequence[Standing]) -> dict[str, str]:
    if not standings:
        return {}
    tightest = min(standings, key=lambda standing: standing.remaining)
    return {
        "RateLimit-Policy": ", ".join(
            f"{json.dumps(bucket.policy)};q={bucket.rate.calls};w={bucket.window}" for bucket in counted_in
        ),
        "RateLimit": f"{json.dumps(tightest.bucket.policy)};r={tightest.remaining};t={tightest.reset}",
    }


class RateLimitHeaders:
    """Sets the headers on whatever a counted request is answered with, streams and errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(scope.get("state", {}).get("rate_limit_headers", {}))
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
