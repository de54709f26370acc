"""`perdure api`: the HTTP API in a process of its own, until a signal."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

import structlog
import uvicorn

from perdure.connection import connect
from perdure.errors import ConfigurationError
from perdure.metrics_export import MetricsExport
from perdure.personal_data import load_redactor
from perdure.settings import Settings, load_settings
from perdure.telemetry import configure_logging, traced
from perdure_api.application import create_app
from perdure_workers.loading import load_here
from perdure_workers.signals import stop_signals

STREAM_GRACE: Final = 3
"""Seconds that open requests get when the API stops."""
BACKLOG: Final = 2048

log = structlog.get_logger(__name__)


async def serve_api(*, app: str | None, address: str | None, host: str | None, port: int | None) -> None:
    """Serve the HTTP API until a signal. Temporal may come later: until it answers, the API is not ready.

    Raises:
        PerdureError: The app or the settings are wrong, or the address cannot be listened on.
    """
    settings = load_settings(app=app, api_host=host, api_port=port)
    settings.check_exposure()
    configure_logging(settings)
    metrics = MetricsExport() if settings.metrics else None
    client = await connect(settings, address=address, lazy=True)
    config = uvicorn.Config(
        create_app(load_here(settings), settings, client=client, metrics=metrics),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=STREAM_GRACE,
        server_header=False,
    )
    async with AsyncExitStack() as held:
        await held.enter_async_context(traced("perdure-api", redactor=load_redactor(settings)))
        if metrics is not None:
            await held.enter_async_context(metrics.running())
        listener, stop = held.enter_context(_listener(settings)), held.enter_context(stop_signals())
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        log.info("api_started", url=_url(listener), auth="required" if settings.auth_required else "open")
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        # As uvicorn itself takes a signal: this is where open event streams hear of it.
        server.handle_exit(signal.SIGTERM, None)
        stopping.cancel()
        await serving
        log.info("api_stopped")


class _Server(uvicorn.Server):
    """Leaves the signals to the command, whose exit code they would otherwise decide."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listener(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    try:
        return socket.create_server((settings.api_host, settings.api_port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"the API cannot listen on port {settings.api_port} of {settings.api_host!r} ({error.strerror}); choose "
            "another with --port PORT or --host HOST"
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
