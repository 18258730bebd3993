"""The code inside a measured process: ``python -m benchmarks.calibrate.child JOB.json RESULT.json``.

The process restricts itself to the job's number of cores before any library counts them, runs one operation,
and writes what it took. An error ends the process with a traceback and no result.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.child import cpu_seconds, peak_bytes

TARGET_CRS = "EPSG:4326"
TILE_SIZE, OVERLAP = 4096, 256


@dataclass(frozen=True)
class CellJob:
    """Run `operation` on `source`, timed; `target` is a COG or a folder of tiles."""

    operation: str
    variant: str
    warps: bool
    source: str
    target: str
    cores: int

    def to_dict(self) -> dict[str, Any]:
        """Return the job as a dict that JSON can hold."""
        return asdict(self)


def main(arguments: Sequence[str]) -> None:
    """Run the job in the first file and write the result to the second."""
    job_file, result_file = (Path(each) for each in arguments)
    job = CellJob(**json.loads(job_file.read_text()))
    keep_to(job.cores)
    timed = _call(job)
    cpu_before, io_before, began = cpu_seconds(), _io_bytes(), time.perf_counter()
    timed()
    seconds, cpu, io_after = time.perf_counter() - began, cpu_seconds() - cpu_before, _io_bytes()
    result = {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_bytes": peak_bytes(),
        "read_bytes": io_after[0] - io_before[0],
        "written_bytes": io_after[1] - io_before[1],
    }
    result_file.write_text(json.dumps(result))


def keep_to(cores: int) -> None:
    """Restrict this process, and those that it starts, to `cores` of its cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def _call(job: CellJob) -> Callable[[], object]:
    import gdaltools as gt

    if job.operation == "create_cog":
        gt.create_cog  # noqa: B018 - imported before the clock runs
        target_crs = TARGET_CRS if job.warps else None
        return lambda: gt.create_cog(
            job.source, job.target, job.variant, target_crs=target_crs, reuse=False, progress=False
        )
    crs = TARGET_CRS if job.variant == "warp" else gt.inspect(job.source).crs
    scheme = gt.generate_tiling_scheme(job.source, TILE_SIZE, OVERLAP, crs)
    gt.extract_tiles  # noqa: B018
    return lambda: gt.extract_tiles(job.source, scheme, job.target, progress=False)


def _io_bytes() -> tuple[int, int]:
    """Return bytes read and written by system calls (proc(5), rchar and wchar); 0 where unavailable."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    return found["rchar"], found["wchar"]


if __name__ == "__main__":
    main(sys.argv[1:])
