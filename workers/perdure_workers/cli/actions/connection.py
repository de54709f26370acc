"""The connection of one command to Temporal, and the gateway on it."""

from __future__ import annotations

import getpass
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from temporalio.client import Client
from temporalio.runtime import Runtime, TelemetryConfig

from perdure.app import App
from perdure.connection import connect
from perdure.principal import OPERATOR, Principal
from perdure.settings import Settings, load_settings
from perdure_api.gateway import Gateway
from perdure_api.rpc import temporal_errors


@asynccontextmanager
async def connected(settings: Settings, *, address: str | None) -> AsyncIterator[Client]:
    """Yield a client; what the server refuses or cannot do leaves the block as an error of ours.

    Raises:
        PerdureError: As `temporal_errors`; nothing answers, or no longer.
    """
    silence()
    client = await connect(settings, address=address)
    with temporal_errors():
        yield client


@asynccontextmanager
async def open_gateway(*, address: str | None, app: App | None = None) -> AsyncIterator[Gateway]:
    """Yield the gateway of whoever uses the command line.

    Args:
        address: The Temporal server.
        app: Needed to start runs; to look at them and steer them, none is.

    Raises:
        PerdureError: As `connected`.
    """
    settings = load_settings()
    async with connected(settings, address=address) as client:
        yield Gateway(client, app or App(), settings, principal=operator())


def operator() -> Principal:
    """Return who uses the command line: somebody with Temporal at hand, under the name that this machine knows."""
    return OPERATOR.model_copy(update={"user": getpass.getuser()})


def silence() -> None:
    """Have nothing logged in this process: what a command has to say it prints."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # The SDK's core logs to standard output, where it would stand between a command's lines of JSON.
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=None)), error_if_already_set=False)
