"""Send traces and metrics with OpenTelemetry, if the environment names a receiver.

Each task has a span, and its steps are child spans. A task's process reports its steps to the worker, which
has the only exporter. The trace context arrives as the message property ``traceparent`` (W3C Trace Context)
and is passed on with the messages that result. Without a receiver this module does nothing, and
OpenTelemetry is not loaded.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from worker.errors import ConfigurationError
from worker.telemetry.metrics import METRICS, Metrics, Recorder

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

_APPLICATION_INSIGHTS = "APPLICATIONINSIGHTS_CONNECTION_STRING"
# The variables that OpenTelemetry itself reads (opentelemetry.io, "OTLP Exporter Configuration").
_OTLP = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_FLUSH_MILLISECONDS = 5000

Attributes = Mapping[str, str | int | float | bool]

log = logging.getLogger(__name__)

current_tracer: ContextVar[Any] = ContextVar("tracer", default=None)


@asynccontextmanager
async def exporting(name: str) -> AsyncIterator[None]:
    """Send traces and metrics from entry to exit, if the environment names a receiver.

    Parameters
    ----------
    name
        The service's name, unless OTEL_SERVICE_NAME is set.

    Raises
    ------
    ConfigurationError
        The environment's settings are wrong, or OpenTelemetry is not installed.
    """
    named = [each for each in (_APPLICATION_INSIGHTS, *_OTLP) if os.environ.get(each)]
    if not named or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield
        return
    try:
        # In a thread: the imports take a second, in which the event loop must answer probes.
        tracers, meters = await asyncio.to_thread(_providers, os.environ.get("OTEL_SERVICE_NAME") or name)
    except ImportError as error:
        raise ConfigurationError(
            f"{named[0]} is set and OpenTelemetry is not installed ({error}): install "
            "'gdaltools[worker,telemetry]', or unset it"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"{' or '.join(named)} cannot be used: {error}") from error
    token = current_tracer.set(tracers.get_tracer("gdaltools.worker"))
    record = _recorder(METRICS, meters.get_meter("gdaltools.worker"))
    METRICS.recorders.append(record)
    try:
        yield
    finally:
        current_tracer.reset(token)
        METRICS.recorders.remove(record)
        tracers.force_flush(_FLUSH_MILLISECONDS)
        tracers.shutdown()
        meters.shutdown(_FLUSH_MILLISECONDS)


def _providers(name: str) -> tuple[TracerProvider, MeterProvider]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": name})
    tracers = TracerProvider(resource=resource)
    spans, numbers = _exporters(tracers)
    for exporter in spans:
        tracers.add_span_processor(BatchSpanProcessor(exporter))
    readers = [PeriodicExportingMetricReader(exporter) for exporter in numbers]
    return tracers, MeterProvider(resource=resource, metric_readers=readers)


def _exporters(tracers: TracerProvider) -> tuple[list[SpanExporter], list[MetricExporter]]:
    spans: list[SpanExporter] = []
    numbers: list[MetricExporter] = []
    if os.environ.get(_APPLICATION_INSIGHTS):
        from azure.monitor.opentelemetry.exporter import AzureMonitorMetricExporter, AzureMonitorTraceExporter

        spans.append(AzureMonitorTraceExporter(tracer_provider=tracers))  # it reads their resource
        numbers.append(AzureMonitorMetricExporter())
    if any(os.environ.get(name) for name in _OTLP):
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        spans.append(OTLPSpanExporter())
        numbers.append(OTLPMetricExporter())
    return spans, numbers


def _recorder(metrics: Metrics, meter: Any) -> Recorder:
    """Return a recorder that adds each value to OpenTelemetry's instrument of the same name."""
    add = {
        each.name: meter.create_counter(each.name).add
        if each.is_counter
        else meter.create_histogram(each.name).record
        for each in metrics.recorded
    }
    return lambda name, value, labels: add[name](value, labels)


@contextmanager
def span(name: str, attributes: Attributes | None = None) -> Iterator[None]:
    """Record the block as a child span of the current span; an exception marks it as failed."""
    tracer = current_tracer.get()
    if tracer is None:
        yield
        return
    with tracer.start_as_current_span(name, attributes=attributes):
        yield


def note_step(name: str, began: float, ended: float, attributes: Attributes | None = None) -> None:
    """Record a step of another process as a child span; times are in seconds since 1970."""
    tracer = current_tracer.get()
    if tracer is not None:
        made = tracer.start_span(name, start_time=int(began * 1e9), attributes=attributes)
        made.end(end_time=int(ended * 1e9))


def properties() -> dict[str, str]:
    """Return the properties that link a message to the current span."""
    if current_tracer.get() is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier
