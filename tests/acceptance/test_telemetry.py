"""Logs, traces and metrics of a real worker and its tasks' processes, as their receivers see them."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.world import DOCKER, World, world
from tests.support.eventually import eventually
from tests.support.platform.jobs import NOOP
from tests.support.services.otlp_receiver import Receiver, attributes, otlp_receiver
from worker.queue.bus import OutgoingMessage
from worker.telemetry.logs import FIELDS

pytestmark = pytest.mark.timeout(240)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@dataclass
class Seen:
    """Telemetry of a worker that ran a job of two tasks and received a message that is none."""

    job_id: str
    receiver: Receiver
    lines: list[dict[str, Any]]
    families: dict[str, Any]


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    with otlp_receiver() as receiver:
        yield asyncio.run(_observed(receiver))


async def _observed(receiver: Receiver) -> Seen:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
    async with world(workers=1, seed=0, environment=environment) as made:
        (worker,) = made.workers
        job_id = await made.platform.submit(
            {"stages": 1, "tasks": 2, "task_type": "say_something", "task_parameters": {}}, job_type=NOOP
        )
        rows = await made.platform.quiet([job_id], deadline=120)
        assert rows[job_id]["status"] == "completed", rows[job_id]["error_details"]
        await _send_nonsense(made)
        await eventually(lambda: "InvalidMessage" in _metrics(worker.port), within_seconds=60)
        text = _metrics(worker.port)
        made.restless = False
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 60) == 0
        lines = [json.loads(line) for line in worker.log.splitlines()]
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return Seen(job_id, receiver, lines, families)


async def _send_nonsense(made: World) -> None:
    properties = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    message = OutgoingMessage(body="nonsense", message_id="nonsense", application_properties=properties)
    await made.bus.send(DOCKER, [message])


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def _sample(seen: Seen, name: str, **labels: str) -> float:
    values = [
        sample.value
        for family in seen.families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert values, f"{name} is not among {sorted(seen.families)}"
    return float(sum(values))


def test_every_line_of_the_log_has_the_fields(seen: Seen) -> None:
    assert all(set(FIELDS) <= line.keys() for line in seen.lines)
    text = [line for line in seen.lines if seen.job_id[:8] in line["message"]]
    assert text
    assert all(line["job_id"] == seen.job_id and line["stage"] == 1 for line in text)
    assert all(line["correlation_id"] == f"docker-{seen.job_id[:8]}" for line in text)


def test_a_tasks_process_logs_with_its_ids(seen: Seen) -> None:
    said = [line for line in seen.lines if line["message"] == "said by a task's process"]
    assert {line["task_id"] for line in said} == {f"{seen.job_id[:8]}-s1-{index}" for index in range(2)}
    (worker,) = {line["process"] for line in seen.lines if "serves docker-tasks" in line["message"]}
    assert all(line["process"] != worker for line in said)


def test_a_task_is_a_span_whose_children_are_its_steps(seen: Seen) -> None:
    spans = seen.receiver.named("task")
    assert {attributes(span)["gdaltools.task_id"] for span in spans} == {
        f"{seen.job_id[:8]}-s1-{index}" for index in range(2)
    }
    for task in spans:
        inner = [span for span in seen.receiver.spans if span.parent_span_id == task.span_id]
        assert {span.name for span in inner} == {"claim", "run", "complete"}
        (run,) = (span for span in inner if span.name == "run")
        (read,) = (span for span in seen.receiver.spans if span.parent_span_id == run.span_id)
        assert read.name == "read"
        assert run.start_time_unix_nano <= read.start_time_unix_nano <= read.end_time_unix_nano
    assert seen.receiver.services == {"worker-0"}


def test_a_messages_context_is_gone_on_with(seen: Seen) -> None:
    spans = [span for span in seen.receiver.spans if span.trace_id.hex() == TRACE]
    (root,) = (span for span in spans if span.parent_span_id.hex() == PARENT)
    assert attributes(root)["messaging.destination.name"] == DOCKER


def test_prometheus_and_the_collector_get_the_same_counts(seen: Seen) -> None:
    assert _sample(seen, "gdaltools_tasks_total", task_type="other", outcome="completed") == 2
    assert _sample(seen, "gdaltools_dead_letters_total", reason="InvalidMessage") == 1
    assert _sample(seen, "gdaltools_task_seconds_count", task_type="other") == 2
    assert _sample(seen, "gdaltools_task_peak_memory_megabytes_sum", task_type="other") > 20
    assert _sample(seen, "gdaltools_ready") == 1
    assert _sample(seen, "gdaltools_outbox_messages") == 0
    assert _sample(seen, "gdaltools_task_memory_megabytes") >= 0
    (point,) = seen.receiver.metrics["gdaltools_tasks"].sum.data_points
    assert point.as_int == 2
    (histogram,) = seen.receiver.metrics["gdaltools_task_seconds"].histogram.data_points
    assert histogram.count == 2
