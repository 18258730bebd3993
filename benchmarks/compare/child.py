"""The code inside a measured process: ``python -m benchmarks.compare.child JOB.json RESULT.json``.

Read one job, run it, and write what it cost. An error ends the process with a traceback and no result.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare.jobs import (
    CheckJob,
    CheckTilesJob,
    LimitJob,
    MeasuredJob,
    TilesJob,
    job_from_dict,
)


def main(arguments: Sequence[str]) -> None:
    """Run the job in the first file and write the result to the second."""
    job_file, result_file = (Path(each) for each in arguments)
    job = job_from_dict(json.loads(job_file.read_text()))
    result: dict[str, Any]
    if isinstance(job, MeasuredJob):
        result = write(job)
    elif isinstance(job, CheckTilesJob):
        from benchmarks.compare.checks.tiles import check_tiles

        result = check_tiles(job)
    elif isinstance(job, CheckJob):
        from benchmarks.compare.checks.cogs import check

        result = check(Path(job.source), Path(job.target))
    else:
        assert isinstance(job, LimitJob)
        from benchmarks.compare.limit import measure_codec

        result = measure_codec(job)
    result_file.write_text(json.dumps(result))


def write(job: MeasuredJob) -> dict[str, Any]:
    """Return seconds, CPU seconds and peak memory of one call; imports do not count in the seconds."""
    timed = _call(job)
    cpu_before, began = cpu_seconds(), time.perf_counter()
    timed()
    seconds, used = time.perf_counter() - began, cpu_seconds() - cpu_before
    return {
        "seconds": seconds,
        "cpu_seconds": used,
        "flush_seconds": sum(_flush(path) for path in _files(job.target)),
        "peak_bytes": peak_bytes(),
        "size_bytes": sum(path.stat().st_size for path in _files(job.target)),
    }


def _call(job: MeasuredJob) -> Callable[[], object]:
    if isinstance(job, TilesJob):
        from benchmarks.compare.peers.tiles import TILE_WRITERS

        return TILE_WRITERS[job.writer](job)
    from benchmarks.compare.peers.cogs import WRITERS

    return WRITERS[job.writer](job)


def _files(target: str) -> list[Path]:
    path = Path(target)
    return sorted(path.rglob("*.tif")) if path.is_dir() else [path]


def cpu_seconds() -> float:
    """Return user and system time of this process and of the children that it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _flush(path: Path) -> float:
    """Flush the file to disk and return the seconds that took, so that the next run does not wait for it."""
    began = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return time.perf_counter() - began


def peak_bytes() -> int | None:
    """Return this process's VmHWM; ru_maxrss would also count its parent's memory before the exec."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(sys.argv[1:])
