"""The FastAPI application: routes, errors, limits, and the connection to Temporal over its lifetime."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Final

import structlog
from fastapi import Depends, FastAPI
from temporalio.client import Client

from perdure.app import App
from perdure.audit.opening import open_store
from perdure.codec import payload_codec
from perdure.connection import connect, ensure_search_attributes
from perdure.deltas import DeltaBus
from perdure.deltas.opening import delta_bus
from perdure.errors import PerdureError
from perdure.metrics_export import MetricsExport
from perdure.personal_data import load_redactor
from perdure.settings import Settings
from perdure_api import problems
from perdure_api.access import Access, OpenAccess, RequiredAccess
from perdure_api.audit import Audit
from perdure_api.bodies import BodyLimit
from perdure_api.console import console_site
from perdure_api.cors import CodecCors
from perdure_api.feeds import Feeds
from perdure_api.fleet_metrics import FleetMetrics
from perdure_api.gateway import Gateway
from perdure_api.keys import ApiKeys
from perdure_api.login_record import RecordedLoginFailures
from perdure_api.logins import LoggedLoginFailures, LoginFailures
from perdure_api.oidc import Issuer
from perdure_api.openapi import corrected
from perdure_api.rate_limiter import rate_limiter
from perdure_api.rate_limits import RateLimitHeaders, limit
from perdure_api.readiness import Readiness
from perdure_api.request_log import FRAMEWORK_TELEMETRY, RequestLog
from perdure_api.routes import (
    agents,
    approvals,
    audit,
    codec,
    deliveries,
    events,
    feedback,
    grants,
    health,
    recovery,
    runs,
    schedules,
    scorings,
    usage,
)
from perdure_api.routes import metrics as numbers
from perdure_api.rpc import temporal_errors

log = structlog.get_logger(__name__)

FIRST_PAUSE: Final = timedelta(seconds=1)
LONGEST_PAUSE: Final = timedelta(minutes=1)

ROUTED: Final = (
    runs,
    recovery,
    events,
    feedback,
    deliveries,
    schedules,
    scorings,
    approvals,
    grants,
    agents,
    usage,
    audit,
)
"""Whose routes are below /v1."""
DESCRIPTION: Final = """\
Start agent runs, follow them, decide on their approvals. Errors are problems (RFC 9457). Docs: `docs/api.md`.
"""


def create_app(
    app: App,
    settings: Settings,
    *,
    client: Client | None = None,
    login_failures: LoginFailures | None = None,
    metrics: MetricsExport | None = None,
    deltas: DeltaBus | None = None,
) -> FastAPI:
    """Return the API for an app's runs.

    Args:
        app: Agents and tools.
        settings: Who may call, the task queue, links.
        client: A connected client; default: one that connects with the first request that needs it.
        metrics: What `/metrics` tells; default: there is no such path.
        login_failures: Is told of keys and tokens that do not count; default: the audit, or without one the log.
        deltas: Brings what models say; default: the bus that the settings name, if they do.

    Raises:
        ConfigurationError: The app is wrong (see `App.check`), or a setting is.
    """
    if settings.policy is not None:
        app.govern(settings.policy)
    for remark in app.check():
        log.warning("policy_remark", remark=remark)

    bus = deltas or delta_bus(settings)

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        connected = client or await connect(settings, lazy=True)
        _attach(api, connected, app, settings, login_failures, bus)
        if metrics is not None:
            api.state.fleet = FleetMetrics(connected, api.state.gateway, export=metrics, task_queue=settings.task_queue)
        preparing = asyncio.create_task(_prepare(connected))
        try:
            yield
        finally:
            await api.state.feeds.close()
            if bus is not None:
                await bus.close()
            await api.state.rate_limiter.close()
            preparing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await preparing

    api = _Api(
        title="Perdure",
        version=version("perdure"),
        description=DESCRIPTION,
        lifespan=lifespan,
        telemetry=FRAMEWORK_TELEMETRY,
    )
    api.state.settings = settings
    api.state.codec = payload_codec(compress_above=settings.compress_above_bytes, keyring=settings.keyring())
    api.state.audit = Audit(open_store(settings))
    api.state.readiness = Readiness(settings, api.state.audit)
    api.state.rate_limiter = rate_limiter(settings)
    if client is not None:
        _attach(api, client, app, settings, login_failures, bus)
    for noun in ROUTED:
        api.include_router(noun.router, prefix="/v1", dependencies=[Depends(limit)], responses=problems.COMMON)
    api.include_router(health.router)
    api.include_router(codec.router)
    if metrics is not None:
        api.include_router(numbers.router)
    api.mount("/console", console_site(settings, api.state))
    api.add_middleware(RateLimitHeaders)
    api.add_middleware(BodyLimit)
    api.add_middleware(CodecCors)
    api.add_middleware(RequestLog)
    problems.install(api)
    return api


def _attach(
    api: FastAPI,
    client: Client,
    app: App,
    settings: Settings,
    failures: LoginFailures | None,
    deltas: DeltaBus | None,
) -> None:
    api.state.gateway = Gateway(client, app, settings)
    api.state.feeds = Feeds(client, redactor=load_redactor(settings), deltas=deltas)
    api.state.access = _access(client, settings, failures or _login_failures(client, settings))


def _access(client: Client, settings: Settings, failures: LoginFailures) -> Access:
    if not settings.auth_required:
        return OpenAccess()
    keys = ApiKeys(client, task_queue=settings.task_queue)
    return RequiredAccess(keys, issuer=Issuer(settings.oidc) if settings.oidc else None, failures=failures)


def _login_failures(client: Client, settings: Settings) -> LoginFailures:
    """Return who is told of failed logins: the audit, if there is one, else the log."""
    if settings.audit_url is None:
        return LoggedLoginFailures()
    return RecordedLoginFailures(client, task_queue=settings.task_queue)


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            self.openapi_schema = corrected(super().openapi())
        return self.openapi_schema


async def _prepare(client: Client) -> None:
    """Register our search attributes as soon as Temporal answers, so that runs can be started before any worker."""
    pause = FIRST_PAUSE
    while True:
        try:
            with temporal_errors():
                await ensure_search_attributes(client)
        except PerdureError as error:
            if pause == FIRST_PAUSE:
                log.warning("temporal_not_prepared", error=str(error), cause=str(error.__cause__))
        else:
            return
        await asyncio.sleep(pause.total_seconds())
        pause = min(2 * pause, LONGEST_PAUSE)
