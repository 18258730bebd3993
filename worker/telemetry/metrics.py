"""The worker's metrics: read by Prometheus at /metrics, and sent by `worker.telemetry.traces`.

Counts are those of this process since its start. Names follow Prometheus's conventions (prometheus.io,
"Metric and label naming"). Labels have few values, so none is a task's or a job's id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

TaskOutcome = Literal["completed", "failed", "retried", "released", "lost"]

_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 2700, 3600)
_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.1, 1.5, 2, 4, 10)
_MEGABYTES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

Recorder = Callable[[str, float, dict[str, str]], None]
"""Receives ``(name, value, labels)`` of each counter increment or histogram value, to forward it."""


class Count:
    """A counter, which only increases."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self.name = name
        self._counter = Counter(name, text, labels, registry=registry)
        self.records: list[Recorder] = []

    def add(self, amount: float = 1, **labels: str) -> None:
        """Add `amount` to the counter."""
        counter = self._counter.labels(**labels) if labels else self._counter
        counter.inc(amount)
        for record in self.records:
            record(self.name, amount, labels)


class Distribution:
    """A histogram of values."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self.name = name
        self._histogram = Histogram(name, text, labels, buckets=buckets, registry=registry)
        self.records: list[Recorder] = []

    def note(self, value: float, **labels: str) -> None:
        """Add a value."""
        histogram = self._histogram.labels(**labels) if labels else self._histogram
        histogram.observe(value)
        for record in self.records:
            record(self.name, value, labels)


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.counts: list[Count] = []
        self.distributions: list[Distribution] = []

        def count(name: str, text: str, *labels: str) -> Count:
            made = Count(name, text, labels, registry)
            self.counts.append(made)
            return made

        def distribution(name: str, text: str, buckets: Sequence[float], *labels: str) -> Distribution:
            made = Distribution(name, text, labels, buckets, registry)
            self.distributions.append(made)
            return made

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self.tasks = count("gdaltools_tasks", "Runs of tasks that ended.", "task_type", "outcome")
        self.task_seconds = distribution(
            "gdaltools_task_seconds", "How long runs took.", _SECONDS, "task_type"
        )
        self.estimate_ratio = distribution(
            "gdaltools_task_estimate_ratio",
            "Minutes that a completed task took, by those that were estimated for it.",
            _RATIOS,
            "task_type",
        )
        self.peak_memory_mb = distribution(
            "gdaltools_task_peak_memory_megabytes",
            "The most memory that a task's process had resident.",
            _MEGABYTES,
            "task_type",
        )
        self.read_bytes = count("gdaltools_task_read_bytes", "What tasks read from files.", "task_type")
        self.written_bytes = count("gdaltools_task_written_bytes", "What tasks wrote to files.", "task_type")
        self.dead_letters = count("gdaltools_dead_letters", "Messages that were dead-lettered.", "reason")
        self.lock_renewals = count("gdaltools_lock_renewals", "Renewals of messages' locks.")
        self.lock_losses = count("gdaltools_lock_losses", "Locks of messages that were lost.")

        self.messages_running = gauge("gdaltools_messages_in_hand", "Messages that are worked on now.")
        self.children_mb = gauge(
            "gdaltools_task_memory_megabytes", "Memory that only the tasks' processes use now."
        )
        self.outbox_messages = gauge("gdaltools_outbox_messages", "Messages that wait to be sent.")
        self.outbox_seconds = gauge("gdaltools_outbox_oldest_seconds", "For how long the oldest waits.")
        self.waiting = gauge("gdaltools_tasks_waiting", "Tasks that are queued, by the database.", "queue")
        self.ready = gauge("gdaltools_ready", "Whether /readyz says so: 1 or 0.")

    def rendered(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


METRICS = Metrics()
"""The metrics of this process."""
