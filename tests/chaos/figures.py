"""``python -m tests.chaos.figures``: a worker's throughput, and how soon a dead one is replaced.

Tasks per second, the slowest answers of /livez while tasks use every core, seconds from kill -9 to take-over
and to the stage's signal, from SIGTERM to the end, and which tiles a resumed extraction rewrites.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos import crashes
from tests.chaos.verdict import query
from tests.chaos.world import LEASE_SECONDS, World, world
from tests.support.platform.jobs import NOOP
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

Figures = dict[str, Any]


async def throughput(made: World) -> Figures:
    """Measure tasks that do nothing, on one worker, two at a time."""
    tasks = 600
    await _quiet(made, await _submit(made, "do_nothing", tasks=20, name="warm-up"))
    job_id = await _submit(made, "do_nothing", tasks=tasks)
    await _quiet(made, job_id)
    (row,) = query(
        made,
        "select extract(epoch from max(updated_at) - min(execution_started_at))::float8 as seconds"
        " from app.tasks where parent_job_id = %s",
        job_id,
    )
    return {"tasks": tasks, "tasks_per_second": round(tasks / row["seconds"], 1)}


async def liveness(made: World) -> Figures:
    """Poll /livez every 20 ms, while two tasks use both cores."""
    job_id = await _submit(made, "compute", tasks=2, seconds=20)
    await _until(lambda: _count(made, job_id, "processing") == 2)
    milliseconds = await asyncio.to_thread(_poll, made.workers[0].port, 15.0)
    await _quiet(made, job_id)
    return {
        "answers": len(milliseconds),
        "median_ms": round(statistics.median(milliseconds), 1),
        "p99_ms": round(statistics.quantiles(milliseconds, n=100)[98], 1),
        "worst_ms": round(max(milliseconds), 1),
    }


async def takeover(made: World) -> Figures:
    """Measure from kill -9 of a worker to its task's next start, on the remaining worker."""
    seconds = []
    for number in range(3):
        job_id = await _submit(made, "sleep", tasks=1, seconds=4, name=f"takeover-{number}")
        await _until(lambda job_id=job_id: _count(made, job_id, "processing") == 1)
        (row,) = query(
            made,
            "select executed_by_app, execution_started_at as at from app.tasks where parent_job_id = %s",
            job_id,
        )
        await asyncio.sleep(2)
        victim = made.workers[int(row["executed_by_app"].rpartition("-")[2])]
        victim.kill()
        killed = time.monotonic()
        await _until(lambda job_id=job_id, row=row: _started_at(made, job_id) > row["at"])
        seconds.append(time.monotonic() - killed)
        await _quiet(made, job_id)
    return {"lease_seconds": LEASE_SECONDS, "seconds": [round(each, 1) for each in seconds]}


async def signal(made: World) -> Figures:
    """Measure from a death between a stage's last commit and its signal to its end on the platform."""
    seconds = []
    for number in range(3):
        crashes.order(made.orders, "task-completed", who="container")
        job_id = await _submit(made, "do_nothing", tasks=1, name=f"signal-{number}")
        await _until(lambda: not (made.orders / "task-completed").exists())
        died = time.monotonic()
        await _quiet(made, job_id)
        seconds.append(time.monotonic() - died)
    return {"seconds": [round(each, 1) for each in seconds]}


async def shutdown(made: World) -> Figures:
    """Measure from SIGTERM, during a longer task, to the process's end."""
    seconds = []
    for number in range(3):
        job_id = await _submit(made, "sleep", tasks=1, seconds=8, name=f"shutdown-{number}")
        await _until(lambda job_id=job_id: _count(made, job_id, "processing") == 1)
        (row,) = query(made, "select executed_by_app from app.tasks where parent_job_id = %s", job_id)
        worker = made.workers[int(row["executed_by_app"].rpartition("-")[2])]
        began = time.monotonic()
        worker.terminate()
        code = await asyncio.to_thread(worker.wait, 60)
        assert code == 0, f"exit code {code}"
        seconds.append(time.monotonic() - began)
        await _quiet(made, job_id)
    return {"seconds": [round(each, 1) for each in seconds]}


async def resume(made: World) -> Figures:
    """Count the complete tiles that a resumed extraction keeps, after a kill half-way."""
    source = made.blobs / "bronze-rasters" / "half.tif"
    write_raster(source, smooth(3, 6000, 8000), crs=UTM, transform=UTM_GRID)
    job_id = await made.platform.submit(
        {"container_name": "bronze-rasters", "blob_name": source.name, "tile_size": 512, "overlap": 64}
    )
    folder = made.blobs / "silver-mosaicjson" / job_id[:8] / "tiles"
    await _until(lambda: _percent(made, job_id) >= 50)
    (row,) = query(
        made, "select executed_by_app from app.tasks where parent_job_id = %s and stage = 2", job_id
    )
    made.workers[int(row["executed_by_app"].rpartition("-")[2])].kill()
    await _until(lambda: not list(folder.glob(".gdaltools-*")))
    whole = {path: path.stat().st_ino for path in folder.glob("*.tif")}
    await _until(lambda: _count(made, job_id, "completed", stage=2) == 1)
    kept = sum(path.stat().st_ino == inode for path, inode in whole.items())
    return {
        "tiles": len(list(folder.glob("*.tif"))),
        "whole_at_the_kill": len(whole),
        "not_written_again": kept,
    }


async def _submit(made: World, task_type: str, *, tasks: int, **parameters: Any) -> str:
    given = {"stages": 1, "tasks": tasks, "task_type": task_type, "task_parameters": parameters}
    return await made.platform.submit(given, job_type=NOOP)


async def _quiet(made: World, job_id: str) -> None:
    rows = await made.platform.quiet([job_id], deadline=300)
    assert rows[job_id]["status"] == "completed", rows[job_id]["error_details"]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110, nobody could set an event
            await asyncio.sleep(0.02)


def _count(made: World, job_id: str, status: str, *, stage: int = 1) -> int:
    statement = (
        "select count(*) as n from app.tasks where parent_job_id = %s and status::text = %s and stage = %s"
    )
    return int(query(made, statement, job_id, status, stage)[0]["n"])


def _started_at(made: World, job_id: str) -> Any:
    return query(made, "select execution_started_at as at from app.tasks where parent_job_id = %s", job_id)[
        0
    ]["at"]


def _percent(made: World, job_id: str) -> float:
    rows = query(made, "select metadata from app.tasks where parent_job_id = %s and stage = 2", job_id)
    return max((row["metadata"].get("progress", {}).get("percent", 0.0) for row in rows), default=0.0)


def _poll(port: int, seconds: float) -> list[float]:
    found = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10) as answer:
            answer.read()
        found.append(1000 * (time.perf_counter() - began))
        time.sleep(0.02)
    return found


_ALONE: dict[str, Callable[[World], Awaitable[Figures]]] = {"throughput": throughput, "liveness": liveness}
_TOGETHER: dict[str, Callable[[World], Awaitable[Figures]]] = {
    "takeover": takeover,
    "signal": signal,
    "shutdown": shutdown,
    "resume": resume,
}


async def _measure(names: Sequence[str]) -> dict[str, Figures]:
    found = {}
    for workers, group in ((1, _ALONE), (2, _TOGETHER)):
        chosen = {name: measure for name, measure in group.items() if name in names}
        if not chosen:
            continue
        async with world(workers=workers, seed=0) as made:
            for name, measure in chosen.items():
                found[name] = await measure(made)
                print(f"{name:<12}{found[name]}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.figures", description=__doc__)
    everything = [*_ALONE, *_TOGETHER]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(everything)} (all)")
    parser.add_argument("--json", type=Path, help="also as JSON")
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(everything)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    found = asyncio.run(_measure(given.names or everything))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
