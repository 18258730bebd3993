"""Join COGs in one VRT, for QGIS and GDAL's commands, with GDAL's own Python bindings (``osgeo``).

gdaltools uses the bindings only for this, as rasterio cannot build a VRT; if they are missing, all else
works. gdaltools itself reads no VRT (SECURITY.md): it joins rasters with a MosaicJSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio

from gdaltools import storage
from gdaltools.errors import BindingsMissing, InvalidParameter, UnsupportedRaster
from gdaltools.storage.location import Location, StrPath


def create_vrt(
    sources: Sequence[StrPath | Location], dst: StrPath | Location, *, overwrite: bool = False
) -> Location:
    """Write a VRT that shows rasters of one CRS as one; the VRT appears only when it is complete.

    Parameters
    ----------
    sources
        Rasters with equal bands; where they overlap, the last one is visible.
    dst
        Where the VRT is written. It names sources below its folder relative to it, so the folder can be
        moved.
    overwrite
        Whether an existing VRT is replaced.

    Raises
    ------
    BindingsMissing
        ``osgeo`` is not installed, or it would bring a second GDAL into the process.
    InvalidParameter
        There are no sources.
    UnsupportedRaster
        The sources do not fit together, or one cannot be opened.
    TargetExists, StorageError
        As for `gdaltools.storage.writing`.

    Examples
    --------
    >>> create_vrt(["scene.tif"], "all.vrt").filename
    'all.vrt'
    """
    gdal = _bindings()
    located = [storage.locate(source) for source in sources]
    if not located:
        raise InvalidParameter("create_vrt needs at least one source")
    goal = storage.locate(dst)
    with storage.writing(goal, overwrite=overwrite) as path, _as_rasterio_does(gdal, located[0]):
        try:
            # Without `strict` a source that does not fit would be left out with a warning.
            built = gdal.BuildVRT(str(path), [each.gdal_path for each in located], strict=True)
            built.FlushCache()
            del built
        except RuntimeError as error:
            raise UnsupportedRaster(f"these {len(located)} rasters do not make one VRT: {error}") from error
        if goal.path is not None:
            _make_relative(path, goal.path.parent)
    return goal


def _bindings() -> Any:
    try:
        from osgeo import gdal
    except ImportError as error:
        raise BindingsMissing(
            f"this needs GDAL's Python bindings ({error}): use the conda environment of environment.yml or "
            "the image gdaltools-full; the extra gdal is for systems whose own libgdal rasterio is built on"
        ) from error
    if gdal.__version__ != rasterio.__gdal_version__:
        raise BindingsMissing(
            f"osgeo has GDAL {gdal.__version__}, rasterio {rasterio.__gdal_version__}, and two in a process "
            "share no settings: use the conda environment of environment.yml or the image gdaltools-full"
        )
    return gdal


@contextmanager
def _as_rasterio_does(gdal: Any, location: Location) -> Iterator[None]:
    """Make GDAL raise errors inside this block, and reach blobs with the credentials that rasterio uses."""
    raised = gdal.GetUseExceptions()
    options = storage.gdal_options(location)
    gdal.UseExceptions()
    for name, value in options.items():
        gdal.SetThreadLocalConfigOption(name, value)
    try:
        yield
    finally:
        for name in options:
            gdal.SetThreadLocalConfigOption(name, None)
        if not raised:
            gdal.DontUseExceptions()


def _make_relative(path: Path, folder: Path) -> None:
    document = ElementTree.parse(path)
    for element in document.iter("SourceFilename"):
        source = Path(element.text or "")
        if source.is_absolute() and source.is_relative_to(folder):
            element.text = source.relative_to(folder).as_posix()
            element.set("relativeToVRT", "1")
    document.write(path, encoding="unicode")
