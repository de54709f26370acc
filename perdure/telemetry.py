"""Logs and traces of a process: one format for our own lines and the libraries', and spans where OTLP is configured."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from structlog.typing import Processor

from perdure.errors import SettingsError
from perdure.personal_data import load_redactor
from perdure.redaction import SECRETS, Redactor
from perdure.settings import Settings
from perdure.telemetry_redaction import LogRedaction, SpanRedaction

SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)
OTLP_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""OpenTelemetry's own variables; one of them switches tracing on, and all its others apply too."""
OTLP_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
QUIET = ("httpx2", "httpcore2", "uvicorn.access", "sse_starlette")
"""Libraries that log each request at info."""


def configure_logging(settings: Settings) -> None:
    """Send all logs of this process to standard error in one format. Called once, by the command line."""
    redaction = LogRedaction(load_redactor(settings))
    for_people = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    renderer: list[Processor] = (
        # Exceptions are text by now: left to itself it writes the local variables of each frame too.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if for_people
        else [structlog.processors.JSONRenderer(default=str)]
    )
    structlog.configure(
        processors=[*SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redaction,
                *renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def configure_tracing(service: str, *, redactor: Redactor = SECRETS) -> None:
    """Export this process's spans by OTLP/HTTP, if an endpoint is configured. Called once, by the command line.

    Args:
        service: The process's name in traces.
        redactor: Masks what spans must not show.

    Raises:
        SettingsError: An endpoint is configured, but the exporter is not installed.
    """
    configured = next((name for name in OTLP_VARIABLES if os.environ.get(name)), None)
    if configured is None:
        return
    try:
        exporter = importlib.import_module(OTLP_EXPORTER).OTLPSpanExporter()
    except ModuleNotFoundError as error:
        raise SettingsError(f"{configured} is set but the exporter is missing: pip install 'perdure[otel]'") from error
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    provider.add_span_processor(SpanRedaction(BatchSpanProcessor(exporter), redactor))
    trace.set_tracer_provider(provider)
