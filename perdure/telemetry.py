"""Logs and traces of a process: one format for our own lines and the libraries', and spans where OTLP is configured."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from structlog.typing import EventDict, Processor
from temporalio import activity, workflow

from perdure.errors import SettingsError
from perdure.personal_data import load_redactor
from perdure.redaction import SECRETS, Redactor
from perdure.settings import Settings
from perdure.telemetry_redaction import LogRedaction, SpanRedaction

OTLP_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""OpenTelemetry's own variables; one of them switches tracing on, and all its others apply too."""
OTLP_EXPORTER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
QUIET = ("httpx2", "httpcore2", "uvicorn.access", "sse_starlette")
"""Libraries that log each request at info."""


def _add_trace(_: Any, __: str, event: EventDict) -> EventDict:
    """Name the span that is active where the line is written."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"], event["span_id"] = f"{span.trace_id:032x}", f"{span.span_id:016x}"
    return event


def _add_workflow(_: Any, __: str, event: EventDict) -> EventDict:
    """Name the workflow or activity that one of the SDK's loggers writes for; the interceptors name the rest."""
    record = event.get("_record")
    about = getattr(record, "temporal_workflow", None) or getattr(record, "temporal_activity", None)
    if isinstance(about, Mapping):
        event.setdefault("run_id", about.get("workflow_id"))
        for name in ("workflow_type", "activity_type", "attempt"):
            if name in about:
                event.setdefault(name, about[name])
    return event


SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    _add_trace,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


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
            foreign_pre_chain=[*SHARED, _add_workflow],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redaction,
                *renderer,
            ],
        )
    )
    # As fields of the line they are worth more than as the end of its text.
    workflow.logger.workflow_info_on_message = False
    activity.logger.activity_info_on_message = False
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
    # A name that the operator gave by OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES counts before ours.
    provider = TracerProvider(resource=Resource({SERVICE_NAME: service}).merge(_named_resource()))
    provider.add_span_processor(SpanRedaction(BatchSpanProcessor(exporter), redactor))
    trace.set_tracer_provider(provider)


def shut_tracing_down() -> None:
    """Send what spans have not been sent, as the process ends."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


@asynccontextmanager
async def traced(service: str, *, redactor: Redactor = SECRETS) -> AsyncIterator[None]:
    """Export spans for the length of a block, as `configure_tracing`; what is left of them is sent at its end."""
    configure_tracing(service, redactor=redactor)
    try:
        yield
    finally:
        await asyncio.to_thread(shut_tracing_down)


def _named_resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return Resource({name: value for name, value in resource.attributes.items() if name != SERVICE_NAME})
    return resource
