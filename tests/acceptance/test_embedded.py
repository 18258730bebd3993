"""A worker inside a process: started, given jobs, observed, awaited and stopped, with nothing left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gdaltools.errors import SourceNotFound
from tests.support.rasters import smooth, write_raster
from worker.errors import ConfigurationError, JobFailed, JobNotFound
from worker.service.embedded import Standalone

JOB = "process_large_raster_v2"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    before = os.environ.get("GDALTOOLS_BLOB_ROOT")
    with Standalone(tmp_path_factory.mktemp("blobs")) as worker:
        yield worker
    assert os.environ.get("GDALTOOLS_BLOB_ROOT") == before


@pytest.fixture
def blobs(running: Standalone) -> Path:
    folder = Path(os.environ["GDALTOOLS_BLOB_ROOT"]) / "bronze-rasters"
    folder.mkdir(exist_ok=True)
    return folder


def parameters(name: str, **more: Any) -> dict[str, Any]:
    return {"container_name": "bronze-rasters", "blob_name": name, "overlap": 64, **more}


def test_a_job_is_watched_and_its_result_awaited(
    running: Standalone, blobs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_raster(blobs / "scene.tif", smooth(3, 200, 300))
    job = running.client.submit(JOB, parameters("scene.tif"))
    assert job.submitted["created"] is True
    job.watch()
    shown = capsys.readouterr().out
    assert "create_cog" in shown
    assert "is completed" in shown

    async def awaited() -> dict[str, Any]:
        return await job

    result = asyncio.run(awaited())
    assert result == job.result()
    assert result["cogs"]["total_size_mb"] > 0
    page = running.client.job(job.job_id)._repr_html_()
    assert page.count("1/1") == 5
    assert not job.failed()


def test_a_job_that_failed_says_why(running: Standalone, blobs: Path) -> None:
    (blobs / "broken.tif").write_bytes(b"II*\0 no raster")
    job = running.client.submit(JOB, parameters("broken.tif"))
    with pytest.raises(JobFailed, match=r"broken\.tif has a header that cannot be read"):
        job.result()
    assert [task["taskType"] for task in job.failed()] == ["generate_tiling_scheme"]
    assert "broken.tif has a header" in job._repr_html_()


def test_what_is_not_there_is_refused(running: Standalone) -> None:
    with pytest.raises((SourceNotFound, JobNotFound), match=r"none\.tif"):
        running.client.submit(JOB, parameters("none.tif"))
    with pytest.raises(JobNotFound):
        running.client.job("0" * 64)
    with pytest.raises(ConfigurationError, match="already"):
        running.start()
