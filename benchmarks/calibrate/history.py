"""Read completed tasks of production, whose rows record what they took, as runs of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.calibrate.store import Run
from benchmarks.errors import MissingPackage, StoreError
from gdaltools.cost.workload import Workload
from gdaltools.errors import InvalidParameter

_NEWEST = 5000


def runs_of_database(sitting: str) -> tuple[list[Run], int]:
    """Return the newest tasks as runs, and the number of tasks whose rows say too little.

    The database is the one that the worker's environment variables name (POSTGIS_HOST and the related ones).

    Raises
    ------
    MissingPackage
        The worker's packages are not installed.
    StoreError
        The database is not named, does not answer, or refuses the connection.
    """
    try:
        from worker.errors import ConfigurationError, DatabaseError
        from worker.service import backing
        from worker.settings import ServiceSettings, load_service_settings
    except ImportError as error:
        raise MissingPackage("--from-database", "gdaltools[worker]") from error

    async def rows(settings: ServiceSettings) -> Sequence[Mapping[str, Any]]:
        async with (
            backing.one_connection(settings) as database,
        ):
            return await database.tasks.measured(limit=_NEWEST)

    try:
        settings = load_service_settings()
        if not settings.postgis_host:
            raise StoreError("--from-database: set POSTGIS_HOST and its like, as for the worker")
        found = asyncio.run(rows(settings))
    except (DatabaseError, ConfigurationError) as error:
        raise StoreError(f"--from-database: {error}") from error
    runs = [run for row in found if (run := run_of_task(sitting, row)) is not None]
    return runs, len(found) - len(runs)


def run_of_task(sitting: str, row: Mapping[str, Any]) -> Run | None:
    """Return a task's row as a run, or None if it says too little or covers several workloads."""
    measured = row["measured"]
    actual, estimate = measured.get("actual") or {}, measured.get("estimate") or {}
    workloads = estimate.get("workloads") or []
    seconds = actual.get("seconds")
    if len(workloads) != 1 or not isinstance(seconds, int | float) or seconds <= 0:
        return None
    try:
        workload = Workload.from_dict(workloads[0])
    except (InvalidParameter, TypeError):
        return None
    return Run(
        sitting=sitting,
        at=row["updated_at"].isoformat(timespec="seconds"),
        workload=workload.to_dict(),
        processor=actual.get("processor"),
        seconds=seconds,
        cpu_seconds=actual.get("cpu_seconds"),
        peak_mb=actual.get("peak_memory_mb"),
        bound_mb=estimate.get("peak_memory_mb"),
    )
