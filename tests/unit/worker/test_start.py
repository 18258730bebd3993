"""What a worker imports: its own process only waits, and leaves pixels to its tasks' processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

# What `python -m worker` imports before its event loop starts.
START = """
import json, sys
from worker import cli, settings
from worker.service import assembly, shift
from worker.task import runner
from worker.telemetry import traces
settings.load_settings()
print(json.dumps(sorted(sys.modules)))
"""
OF_TASKS = {
    "dask",
    "imagecodecs",
    "numpy",
    "opentelemetry",
    "osgeo",
    "pandas",
    "pyproj",
    "pystac",
    "rasterio",
    "rich",
    "shapely",
    "xarray",
}


def test_a_worker_beside_a_platform_does_without_what_its_tasks_need() -> None:
    environment = {
        **os.environ,
        "APP_MODE": "worker_docker",
        "SERVICE_BUS_NAMESPACE": "example",
        "POSTGIS_HOST": "db",
    }
    done = subprocess.run(
        [sys.executable, "-c", START], env=environment, check=True, capture_output=True, text=True
    )
    imported = set(json.loads(done.stdout))
    assert "worker.task.processor" in imported
    assert not OF_TASKS & imported
