"""Add a message's ids to the log and a trace span while the message is processed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from worker.queue.bus import Message
from worker.queue.listener import Process
from worker.telemetry import logs
from worker.telemetry.metrics import METRICS
from worker.telemetry.traces import current_tracer

_LONGEST_FIELD = 100


def observed(process: Process) -> Process:
    """Wrap `process` so that log lines have the message's ids and a span covers the processing."""

    async def observed(message: Message) -> None:
        METRICS.messages_running.inc()
        try:
            about = fields_of(message)
            with logs.about(about), _received(message, about):
                await process(message)
        finally:
            METRICS.messages_running.dec()

    return observed


@contextmanager
def _received(message: Message, about: logs.About) -> Iterator[None]:
    tracer = current_tracer.get()
    if tracer is None:
        yield
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract(
        {name: str(value) for name, value in message.application_properties.items()}
    )
    attributes: dict[str, str | int] = {
        "messaging.system": "servicebus",
        "messaging.destination.name": message.queue,
        "messaging.message.id": message.message_id or "",
        "messaging.servicebus.message.delivery_count": message.delivery_count,
        **{f"gdaltools.{name}": value for name, value in about.items() if value is not None},
    }
    kind = "task" if about.get("task_id") else "job message"
    with tracer.start_as_current_span(kind, context=parent, kind=SpanKind.CONSUMER, attributes=attributes):
        yield


def fields_of(message: Message) -> logs.About:
    """Return the task, job and other ids of a message; its body is not validated and may be anything."""
    try:
        body = json.loads(message.body)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        body = {}
    job_id = _short(body.get("parent_job_id") or body.get("job_id"))
    correlation = _short(message.correlation_id or body.get("correlation_id"))
    stage = body.get("stage", body.get("completed_stage"))
    return {
        "task_id": _short(body.get("task_id")),
        "job_id": job_id,
        "stage": stage if isinstance(stage, int) else None,
        "correlation_id": correlation or (f"docker-{job_id[:8]}" if job_id else None),
    }


def _short(value: object) -> str | None:
    return value[:_LONGEST_FIELD] if isinstance(value, str) and value else None
