"""The hardware, system and versions that a measurement was made on; without them its figures say nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from benchmarks.errors import MissingPackage
from gdaltools.cost.calibration import processor_name

_PACKAGES = (
    "gdaltools",
    "rasterio",
    "rio-cogeo",
    "rioxarray",
    "odc-geo",
    "dask",
    "numpy",
    "xarray",
    "imagecodecs",
    "isal",
    "zlib-ng",
    "numba",
    "tifffile",
    "scikit-learn",
)


class Machine(BaseModel):
    """The machine and the software of a measurement.

    Attributes
    ----------
    load : float or None
        Load average of the preceding minute; above a few tenths, other processes were running too.
    commit : str or None
        The checkout's commit, followed by "+" if files differ from it.
    """

    model_config = ConfigDict(frozen=True)

    processor: str
    cores: int
    memory_mb: int
    system: str
    python: str
    gdal: str
    versions: dict[str, str]
    commit: str | None
    load: float | None

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.cores} cores of {self.processor}, {self.memory_mb / 1000:.0f} GB, {self.system}; "
            f"Python {self.python}, GDAL {self.gdal}, {versions}; commit {self.commit or 'unknown'}."
        )


def this_machine() -> Machine:
    """Return the machine that this process runs on, as of now."""
    import psutil
    import rasterio
    from dask.system import CPU_COUNT

    return Machine(
        processor=processor_name(),
        cores=CPU_COUNT,
        memory_mb=psutil.virtual_memory().total // 1_000_000,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        gdal=rasterio.__gdal_version__,
        versions={name: found for name in _PACKAGES if (found := version_of(name)) is not None},
        commit=_commit(),
        load=os.getloadavg()[0],
    )


def require(purpose: str, package: str) -> None:
    """Fail before anything is measured if a package is missing.

    Raises
    ------
    MissingPackage
        The package is not installed.
    """
    if version_of(package) is None:
        raise MissingPackage(purpose, package)


def version_of(package: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
