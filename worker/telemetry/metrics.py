"""The worker's metrics: read by Prometheus at /metrics, and sent by `worker.telemetry.traces`.

Counts are those of this process since its start. Names follow Prometheus's conventions (prometheus.io,
"Metric and label naming"). Labels have few values, so none is a task's or a job's id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from worker.protocol.routing import RASTER_TASKS, normal_task_type

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

TaskOutcome = Literal["completed", "failed", "retried", "released", "lost"]

_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 2700, 3600)
_RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.1, 1.5, 2, 4, 10)
_MEGABYTES = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

Recorder = Callable[[str, float, dict[str, str]], None]
"""Receives ``(name, value, labels)`` of each counter increment or histogram value, to forward it."""


class Recorded:
    """A counter or a histogram, whose values also go to the recorders of its `Metrics`."""

    def __init__(self, name: str, metric: Counter | Histogram, recorders: Sequence[Recorder]) -> None:
        self.name = name
        self.is_counter = isinstance(metric, Counter)
        self._metric = metric
        self._recorders = recorders

    def add(self, value: float = 1, **labels: str) -> None:
        """Increase the counter by `value`, or add `value` to the histogram."""
        metric = self._metric.labels(**labels) if labels else self._metric
        if isinstance(metric, Counter):
            metric.inc(value)
        else:
            metric.observe(value)
        for record in self._recorders:
            record(self.name, value, labels)


class Metrics:
    """All metrics of one process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.recorded: list[Recorded] = []
        """The counters and histograms."""
        self.recorders: list[Recorder] = []
        """Where the values of the counters and histograms go as well."""

        def recorded(name: str, metric: Counter | Histogram) -> Recorded:
            self.recorded.append(Recorded(name, metric, self.recorders))
            return self.recorded[-1]

        def count(name: str, text: str, *labels: str) -> Recorded:
            return recorded(name, Counter(name, text, labels, registry=registry))

        def distribution(name: str, text: str, buckets: Sequence[float], *labels: str) -> Recorded:
            return recorded(name, Histogram(name, text, labels, buckets=buckets, registry=registry))

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self.tasks = count("gdaltools_tasks", "Runs of tasks that ended.", "task_type", "outcome")
        self.task_seconds = distribution(
            "gdaltools_task_seconds", "How long runs took.", _SECONDS, "task_type"
        )
        self.estimate_ratio = distribution(
            "gdaltools_task_estimate_ratio",
            "Time that a completed task took, by the one that was estimated at its start.",
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

    def count_run(
        self, task_type: str, *, outcome: TaskOutcome, seconds: float, expected_seconds: float | None
    ) -> None:
        """Count a run of a task that ended, with its duration and the ratio to the estimate."""
        label = task_label(task_type)
        self.tasks.add(task_type=label, outcome=outcome)
        self.task_seconds.add(seconds, task_type=label)
        if outcome == "completed" and expected_seconds:
            self.estimate_ratio.add(seconds / expected_seconds, task_type=label)

    def rendered(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)


def task_label(task_type: str) -> str:
    """Return a task type as a metric label; all but raster tasks are "other", so that labels stay few."""
    name = normal_task_type(task_type)
    return name if name in RASTER_TASKS else "other"


METRICS = Metrics()
"""The metrics of this process."""
