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
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from worker.errors import ConfigurationError
from worker.protocol.messages import TaskMessage
from worker.protocol.routing import RASTER_TASKS, normal_task_type
from worker.telemetry.metrics import METRICS, Metrics, TaskOutcome

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
    forwarded = _forward(METRICS, meters.get_meter("gdaltools.worker"))
    try:
        yield
    finally:
        current_tracer.reset(token)
        for records, record in forwarded:
            records.remove(record)
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


def _forward(metrics: Metrics, meter: Any) -> list[tuple[list[Any], Any]]:
    """Forward the metrics to OpenTelemetry's instruments; return the recorders to remove at the end."""
    forwarded: list[tuple[list[Any], Any]] = []
    for each in metrics.counts:
        counter = meter.create_counter(each.name)
        forwarded.append((each.records, lambda _, value, labels, to=counter: to.add(value, labels)))
    for distribution in metrics.distributions:
        histogram = meter.create_histogram(distribution.name)
        forwarded.append(
            (distribution.records, lambda _, value, labels, to=histogram: to.record(value, labels))
        )
    for records, record in forwarded:
        records.append(record)
    return forwarded


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


@dataclass
class TaskRun:
    """One run of a task, counted at its end; its outcome is "lost" unless it is set."""

    outcome: TaskOutcome = "lost"


@contextmanager
def task_run(task: TaskMessage) -> Iterator[TaskRun]:
    """Count the block as a run of a task, and record its duration and the ratio to the estimate."""
    run = TaskRun()
    began = time.monotonic()
    try:
        yield run
    finally:
        seconds = time.monotonic() - began
        label = task_label(task.task_type)
        METRICS.tasks.add(task_type=label, outcome=run.outcome)
        METRICS.task_seconds.note(seconds, task_type=label)
        estimate = task.parameters.get("estimated_duration_minutes")
        if run.outcome == "completed" and isinstance(estimate, int | float) and estimate > 0:
            METRICS.estimate_ratio.note(seconds / 60 / estimate, task_type=label)


def task_label(task_type: str) -> str:
    """Return a task type as a metric label; all but raster tasks are "other", so that labels stay few."""
    name = normal_task_type(task_type)
    return name if name in RASTER_TASKS else "other"
