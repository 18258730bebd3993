"""``python -m worker doctor``: report which parts of this setup work from here, and how to fix the others.

Each check asks the real service, within a time limit, and leaves nothing changed: a blob is written and
deleted again, queues are only peeked at. A check that needs a failed one does not report its fault again.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from worker.errors import ConfigurationError
from worker.ops import doctor_services
from worker.ops.doctor_services import Finding
from worker.service.backing import POSTGRES_SCOPE
from worker.settings import Settings
from worker.task.pressure import disk_problem

CHECK_SECONDS = 40.0
"""The time limit of one check."""

_AUDIENCES = {
    "storage": "https://storage.azure.com/.default",
    "queues": "https://servicebus.azure.net/.default",
    "database": POSTGRES_SCOPE,
}
_DRIVERS = ("GTiff", "COG", "JPEG", "PNG", "JP2OpenJPEG", "WEBP", "VRT")


Check = Callable[[], Awaitable[list[Finding]]]


async def examine(settings: Settings, *, now: Callable[[], float] = time.time) -> list[Finding]:
    """Check everything that a worker needs and return the findings, in order of dependency.

    Parameters
    ----------
    settings
        The settings of the worker that is to run here.
    now
        This machine's clock, in seconds since 1970.
    """
    identity = await _within("identity", lambda: _identity(settings))
    # Without a token, the checks that need it would fail too and add nothing.
    closed = {finding.part for finding in identity if finding.state == "problem"}
    checks: list[tuple[str, str, Check]] = [
        ("gdal", "", _gdal),
        ("scratch", "", lambda: _scratch(settings)),
        ("storage", _identity_for("storage"), lambda: doctor_services.storage_works(settings)),
        ("queues", _identity_for("queues"), lambda: doctor_services.queues_are_open(settings)),
        ("queue settings", _identity_for("queues"), lambda: doctor_services.queues_are_set(settings)),
        ("database", _identity_for("database"), lambda: doctor_services.database_works(settings, now)),
    ]
    found = await asyncio.gather(
        *(_within(part, check) for part, needed, check in checks if needed not in closed)
    )
    return [*identity, *(finding for findings in found for finding in findings)]


def of_configuration(error: ConfigurationError) -> Finding:
    """Return the finding for settings that are invalid."""
    return Finding(
        "settings", "problem", str(error), "set the variable; README.md, 'Environment', has all of them"
    )


async def _within(part: str, check: Check) -> list[Finding]:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        remedy = "see whether a firewall, a private endpoint or DNS keeps this machine from it"
        return [Finding(part, "problem", f"no answer within {CHECK_SECONDS:g} s", remedy)]


async def _identity(settings: Settings) -> list[Finding]:
    parts = []
    if settings.service_bus_namespace and not settings.service_bus_connection_string:
        parts.append("queues")
    if settings.use_managed_identity and not settings.embeds_database:
        parts.append("database")
    if _storage_by_identity():
        parts.append("storage")
    if not parts:
        return [Finding("identity", "ok", "none is needed: keys and passwords are set")]
    from azure.core.exceptions import AzureError
    from azure.identity.aio import DefaultAzureCredential

    chosen = os.environ.get("AZURE_CLIENT_ID")
    remedy = (
        f"AZURE_CLIENT_ID is {chosen}: is this identity assigned to the app?"
        if chosen
        else "assign an identity to the app; for a user-assigned one set AZURE_CLIENT_ID"
    )
    found = []
    async with DefaultAzureCredential() as credential:
        for part in parts:
            try:
                await credential.get_token(_AUDIENCES[part])
            except AzureError as error:
                said = f"no token: {_first_line(error)}"
                found.append(Finding(_identity_for(part), "problem", said, remedy))
            else:
                found.append(Finding(_identity_for(part), "ok", "a token was given"))
    return found


def _identity_for(part: str) -> str:
    return f"identity for {part}"


def _storage_by_identity() -> bool:
    names = ("GDALTOOLS_BLOB_ROOT", "AZURE_STORAGE_CONNECTION_STRING")
    keys = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN")
    return not any(os.environ.get(name) for name in (*names, *keys))


async def _scratch(settings: Settings) -> list[Finding]:
    folder = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    remedy = "set TMPDIR to a folder that can be written to; in a container mount one at /scratch"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"doctor")
        problem = disk_problem(settings.worker_min_free_disk_mb)
    except OSError as error:
        return [Finding("scratch", "problem", f"{folder}: {error.strerror}", remedy)]
    if problem:
        return [Finding("scratch", "problem", problem, "give it more room")]
    return [Finding("scratch", "ok", f"{folder} can be written to, and has room")]


async def _gdal() -> list[Finding]:
    return await asyncio.to_thread(_try_gdal)


def _try_gdal() -> list[Finding]:
    import rasterio
    from rasterio.errors import RasterioError
    from rasterio.warp import transform

    with rasterio.Env() as env:
        missing = sorted(set(_DRIVERS) - set(env.drivers()))
        try:
            ((x,), _) = transform("EPSG:4326", "EPSG:3857", [180.0], [0.0])
        except (RasterioError, ValueError) as error:
            remedy = "unset PROJ_DATA and PROJ_LIB, which point to another PROJ's folder"
            return [Finding("gdal", "problem", f"PROJ transforms nothing: {error}", remedy)]
    text = f"GDAL {rasterio.__gdal_version__} by rasterio {rasterio.__version__}"
    if missing:
        remedy = "use rasterio's wheel, or a libgdal that was built with these"
        return [Finding("gdal", "problem", f"{text} lacks {', '.join(missing)}", remedy)]
    if abs(x - 20037508.34) > 1:
        return [Finding("gdal", "problem", f"{text} transforms wrongly", "reinstall rasterio and pyproj")]
    return [Finding("gdal", "ok", text)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
