"""The code inside a measured process: ``python -m benchmarks.child JOB RESULT.json``.

The job is a pickled call, usually a `functools.partial`; what it returns is written as JSON. An error ends
the process with a traceback and no result. This module imports no raster library: a child loads the library
that it measures and no other.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str]) -> None:
    """Run the job in the first file and write the result to the second."""
    job_file, result_file = (Path(each) for each in arguments)
    job = pickle.loads(job_file.read_bytes())
    result_file.write_text(json.dumps(job()))


def timed(call: Callable[[], object]) -> dict[str, Any]:
    """Return what one call took; what was imported or read before it does not count.

    Returns
    -------
    dict
        ``seconds`` by the clock, ``cpu_seconds`` with the children that were waited for, ``peak_bytes`` of
        this process, ``read_bytes`` and ``written_bytes`` by system calls.
    """
    cpu, (read, written), began = _cpu_seconds(), _io_bytes(), time.perf_counter()
    call()
    seconds, cpu_after, io_after = time.perf_counter() - began, _cpu_seconds(), _io_bytes()
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_after - cpu,
        "peak_bytes": _peak_bytes(),
        "read_bytes": io_after[0] - read,
        "written_bytes": io_after[1] - written,
    }


def usable_cores() -> int:
    """Return the number of cores that this process may use, which GDAL's ALL_CPUS counts as well."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _peak_bytes() -> int:
    """Return VmHWM, or 0 where it is unavailable; ru_maxrss also counts the parent's memory before exec."""
    return 1024 * int(_proc("status").get("VmHWM", "0").split()[0])


def _io_bytes() -> tuple[int, int]:
    """Return bytes read and written by system calls (proc(5), rchar and wchar); 0 where unavailable."""
    found = _proc("io")
    return int(found.get("rchar", 0)), int(found.get("wchar", 0))


def _proc(name: str) -> dict[str, str]:
    """Return the lines of one of this process's files in /proc as a dict; empty where there is none."""
    try:
        lines = Path(f"/proc/self/{name}").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key: value.strip() for key, _, value in pairs}


if __name__ == "__main__":
    main(sys.argv[1:])
