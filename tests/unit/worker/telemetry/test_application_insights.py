"""Application Insights receives spans and counts under the worker's name, through its own exporter."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from worker.errors import ConfigurationError
from worker.telemetry import traces
from worker.telemetry.metrics import METRICS


@contextlib.contextmanager
def _ingestion() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield a connection string, and what was sent to its endpoint."""
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            items = json.loads(body)
            received.extend(items)
            answer = {"itemsReceived": len(items), "itemsAccepted": len(items), "errors": []}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        key = "00000000-0000-0000-0000-000000000001"
        endpoint = f"http://127.0.0.1:{server.server_port}/"
        try:
            yield f"InstrumentationKey={key};IngestionEndpoint={endpoint}", received
        finally:
            server.shutdown()
            thread.join()


async def test_spans_and_counts_arrive_under_the_workers_name_and_nothing_is_complained_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for about_the_exporter in ("STATSBEAT_DISABLED_ALL", "SDKSTATS_DISABLED"):
        monkeypatch.setenv(f"APPLICATIONINSIGHTS_{about_the_exporter}", "true")
    with _ingestion() as (connection_string, received), caplog.at_level(logging.WARNING):
        monkeypatch.setenv("APPLICATIONINSIGHTS_CONNECTION_STRING", connection_string)
        async with traces.exporting("the-worker"):
            with traces.span("claim"):
                METRICS.dead_letters.add(reason="TestReason")
    assert [record.getMessage() for record in caplog.records] == []
    role_of = {
        part["name"]: item["tags"]["ai.cloud.role"]
        for item in received
        for part in item["data"]["baseData"].get("metrics", [item["data"]["baseData"]])
    }
    ours = {name: role_of.get(name) for name in ("claim", "gdaltools_dead_letters")}
    assert set(ours.values()) == {"the-worker"}, role_of


async def test_a_connection_string_that_is_none_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APPLICATIONINSIGHTS_CONNECTION_STRING", "InstrumentationKey=secret")
    with pytest.raises(ConfigurationError, match="APPLICATIONINSIGHTS_CONNECTION_STRING") as caught:
        async with traces.exporting("the-worker"):
            pass
    assert "secret" not in str(caught.value)
