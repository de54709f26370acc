"""One Prometheus endpoint of a process: our numbers and the Temporal SDK's, in one text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from opentelemetry import metrics as otel
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from temporalio.contrib.opentelemetry import MetricsExporter
from temporalio.runtime import MetricBuffer, MetricBufferDurationFormat, Runtime, TelemetryConfig

from perdure.errors import ConfigurationError
from perdure.metrics import LATENCY_BUCKETS

__all__ = ["CONTENT_TYPE", "MetricsExport"]

BUFFERED: Final = 100_000
"""Updates of the SDK's numbers between two seconds; it drops what is more."""
SDK_METER: Final = "temporalio"


class MetricsExport:
    """The numbers of this process. Made once, before the first connection to Temporal."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(scope_info_enabled=False, disable_target_info=True, registry=self._registry)
        seconds = View(
            instrument_type=Histogram,
            meter_name=SDK_METER,
            aggregation=ExplicitBucketHistogramAggregation(LATENCY_BUCKETS),
        )
        self._provider = MeterProvider(metric_readers=[reader], views=[seconds])
        otel.set_meter_provider(self._provider)
        self._buffer = MetricBuffer(BUFFERED, duration_format=MetricBufferDurationFormat.SECONDS)
        Runtime.set_default(Runtime(telemetry=TelemetryConfig(metrics=self._buffer)))

    def text(self) -> bytes:
        """Return all numbers as Prometheus reads them."""
        return generate_latest(self._registry)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take the SDK's numbers over while in here."""
        async with MetricsExporter(self._buffer, self._provider, meter_name=SDK_METER):
            yield

    @asynccontextmanager
    async def served(self, address: str) -> AsyncIterator[int]:
        """Serve the numbers at `host:port`, and take the SDK's over, while in here; yield the port.

        Raises:
            ConfigurationError: The address cannot be listened on.
        """
        host, _, port = address.rpartition(":")
        try:
            server, thread = start_http_server(int(port), addr=host.strip("[]"), registry=self._registry)
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"PERDURE_METRICS_ADDRESS={address!r} cannot be listened on: {error}") from error
        try:
            async with self.running():
                yield server.server_port
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
