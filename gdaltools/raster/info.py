"""Describe a raster from its header and a few blocks, without holding the raster in memory.

`inspect` reads through `open_dataset`, the only way to open a source.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.transform import Affine

from gdaltools import storage
from gdaltools.display import html
from gdaltools.errors import UnsupportedRaster
from gdaltools.geo.crs import Bounds, CrsLike, crs_name, parse_crs
from gdaltools.geo.footprint import bounds_4326, own_grid
from gdaltools.geo.grid import Grid
from gdaltools.geo.reach import listed
from gdaltools.raster.bands import named
from gdaltools.raster.dataset import nodata_of, numpy_dtypes, open_dataset, side_cars
from gdaltools.raster.detect import Detection, detect
from gdaltools.raster.facts import MaskKind, color_table, mask_kind
from gdaltools.raster.maps import StoredRaster
from gdaltools.storage import Location, StrPath

__all__ = ["RasterInfo", "Shape", "describe", "inspect", "open_dataset", "own_grid", "source_crs"]

Shape = tuple[int, int]


class RasterInfo(StoredRaster, BaseModel):
    """Everything that a raster's header states, and the type that the raster appears to be.

    Attributes
    ----------
    crs : str or None
        ``AUTHORITY:CODE``, else WKT; None if the file has no CRS.
    transform : tuple of 6 float
        Pixel to world as ``(a, b, c, d, e, f)``: x = a·col + b·row + c, y = d·col + e·row + f.
    bounds : tuple of 4 float
        left, bottom, right, top in `crs`.
    bounds_4326 : tuple of 4 float or None
        The same in EPSG:4326; left > right if the raster crosses the antimeridian.
    resolution : tuple of 2 float
        Pixel width and height in units of `crs`.
    mask : str
        How pixels without data are marked: "nodata", "alpha", "mask" (per dataset) or "none".
    overviews : tuple of int
        The factors of the overviews.
    side_cars : tuple of str
        Files beside a local raster that are not read: a mask, overviews, metadata or a world file.
    """

    model_config = ConfigDict(frozen=True)

    location: str
    driver: str
    width: int
    height: int
    count: int
    dtypes: tuple[str, ...]
    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    georeferenced: bool
    bounds: Bounds
    bounds_4326: Bounds | None
    resolution: tuple[float, float]
    nodata: tuple[int | float | None, ...]
    mask: MaskKind
    color_interpretation: tuple[str, ...]
    color_table: dict[int, tuple[int, int, int, int]] | None
    descriptions: tuple[str | None, ...]
    units: tuple[str | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    tags: dict[str, str]
    block_shapes: tuple[Shape, ...]
    tiled: bool
    interleave: str | None
    compression: str | None
    photometric: str | None
    overviews: tuple[int, ...]
    has_gcps: bool
    has_rpcs: bool
    size_bytes: int
    uncompressed_bytes: int
    detected: Detection
    side_cars: tuple[str, ...] = ()

    @property
    def has_crs(self) -> bool:
        """Whether the file has a CRS."""
        return self.crs is not None

    @property
    def detected_type(self) -> str:
        """The detected type: rgb, rgba, dem, categorical, multispectral or nir."""
        return self.detected.raster_type

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, rows, cols)."""
        return self.count, self.height, self.width

    @property
    def affine(self) -> Affine:
        """The transform as rasterio's `Affine`."""
        return Affine(*self.transform)

    @property
    def band_names(self) -> dict[str, str]:
        """A name for each band: its description, else its colour, else ``Band n``; keys "1", "2", …"""
        rgb = ("Red", "Green", "Blue")
        guessed: dict[str, tuple[str, ...]] = {"rgb": rgb, "rgba": rgb, "nir": (*rgb, "NIR")}
        colours = list(self.color_interpretation)
        if self.detected_type == "nir":  # GDAL's writers mark a fourth band as alpha by themselves
            colours[3] = "undefined"
        found = named(self.descriptions, colours, guessed.get(self.detected_type, ()))
        return {str(index): name for index, name in enumerate(found, start=1)}

    def _rows(self) -> dict[str, str]:
        nodata = next((value for value in self.nodata if value is not None), None)
        raw = self.uncompressed_bytes / 1e6
        stored = f"{self.size_bytes / 1e6:,.1f} MB on disk, " if self.size_bytes else ""
        rows, cols = self.block_shapes[0]
        return {
            "location": self.location,
            "format": f"{self.driver}, {self.compression or 'uncompressed'}, {self.interleave or 'band'}"
            f" interleaved, {'tiles' if self.tiled else 'strips'} of {cols} x {rows}",
            "size": f"{self.width} x {self.height} pixels, {self.count} band{'s' * (self.count > 1)} of "
            f"{', '.join(sorted(set(self.dtypes)))}; {stored}{raw:,.1f} MB uncompressed",
            "crs": "none" if self.crs is None else self.crs.split(",")[0],
            "resolution": f"{self.resolution[0]:.10g} x {self.resolution[1]:.10g}",
            "bounds": ", ".join(f"{value:.10g}" for value in self.bounds),
            "no data": self.mask if nodata is None else f"{nodata:g}",
            "overviews": ", ".join(map(str, self.overviews)) or "none",
            "type": f"{self.detected_type} ({self.detected.confidence:.0%}: {self.detected.reason})",
        } | side_car_rows(self.side_cars)

    def plot(self, ax: Any = None) -> Any:
        """Draw a histogram of each band from a sample of its pixels; return the matplotlib Axes.

        Raises
        ------
        MissingExtra
            matplotlib is not installed.
        SourceNotFound, CorruptRaster, StorageError
            The raster can no longer be read.

        Examples
        --------
        >>> gt.inspect("scene.tif").plot().get_title()
        'scene.tif, by an overview of 640 x 480 pixels'
        """
        from gdaltools.raster.plots import plot_histogram

        return plot_histogram(self.location, [*self.band_names.values()], self.dtypes, ax)

    def _parts(self) -> Iterable[html.Html]:
        bands = zip(
            self.band_names.values(),
            self.dtypes,
            self.nodata,
            self.units,
            self.scales,
            self.offsets,
            strict=True,
        )
        headings = ("band", "name", "dtype", "no data", "unit", "scale", "offset")
        yield html.details(
            f"{self.count} band{'s' * (self.count > 1)}",
            html.table(headings, ((index, *band) for index, band in enumerate(bands, start=1))),
        )
        if self.tags:
            yield html.details(f"{len(self.tags)} tags", html.table(("tag", "value"), self.tags.items()))


def inspect(src: StrPath | Location) -> RasterInfo:
    """Describe the raster at `src`; reads the header and at most nine small windows.

    Raises
    ------
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        As for `open_dataset`; CorruptRaster also if a sampled block cannot be decoded.

    Examples
    --------
    >>> info = inspect("scene.tif")
    >>> info.crs, info.shape, info.resolution
    ('EPSG:32637', (3, 600, 800), (10.0, 10.0))
    """
    location = storage.locate(src)
    with open_dataset(location) as dataset:
        return describe(dataset, location)


def describe(dataset: DatasetReader, location: Location) -> RasterInfo:
    """Return what `inspect` returns, for a raster that is already open."""
    dtypes = numpy_dtypes(dataset)
    # Without validation: a file may state coordinates that are not finite, and is described all the same.
    grid = Grid.model_construct(
        crs="", transform=tuple(dataset.transform)[:6], width=dataset.width, height=dataset.height
    )
    pixels = dataset.width * dataset.height
    return RasterInfo(
        location=str(location),
        driver=dataset.driver,
        width=dataset.width,
        height=dataset.height,
        count=dataset.count,
        dtypes=dtypes,
        crs=crs_name(dataset.crs) if dataset.crs else None,
        transform=grid.transform,
        georeferenced=not dataset.transform.is_identity,
        bounds=grid.bounds,
        bounds_4326=bounds_4326(dataset.crs, dataset.transform, dataset.width, dataset.height),
        resolution=grid.resolution,
        nodata=tuple(nodata_of(dataset, band) for band in dataset.indexes),
        mask=mask_kind(dataset),
        color_interpretation=tuple(_interp_name(value) for value in dataset.colorinterp),
        color_table=color_table(dataset),
        descriptions=dataset.descriptions,
        units=dataset.units,
        scales=dataset.scales,
        offsets=dataset.offsets,
        tags=dataset.tags(),
        block_shapes=tuple((int(rows), int(cols)) for rows, cols in dataset.block_shapes),
        tiled=bool(dataset.profile.get("tiled", False)),
        interleave=dataset.profile.get("interleave"),
        compression=dataset.profile.get("compress"),
        photometric=dataset.profile.get("photometric"),
        overviews=tuple(dataset.overviews(1)),
        has_gcps=bool(dataset.gcps[0]),
        has_rpcs=dataset.rpcs is not None,
        size_bytes=storage.stat(location).size,
        uncompressed_bytes=sum(pixels * np.dtype(name).itemsize for name in dtypes),
        detected=detect(dataset, location),
        side_cars=side_cars(location),
    )


def side_car_rows(names: tuple[str, ...]) -> dict[str, str]:
    """Return the row that names the side-car files which were not read; none without such files."""
    return {"not read": f"{', '.join(names)} (side-car files beside the raster)"} if names else {}


def left_out_rows(area: Bounds | None) -> dict[str, str]:
    """Return the row that says what a warp leaves out; none if it is limited to no area of use."""
    return {} if area is None else {"left out": f"what is outside the area of use of the CRS, {listed(area)}"}


def source_crs(dataset: DatasetReader, location: Location, input_crs: CrsLike | None) -> CRS:
    """Return the source's CRS: `input_crs` if passed, else the file's own.

    Raises
    ------
    UnsupportedRaster
        There is neither, or the file has no affine transform.
    InvalidParameter
        `input_crs` is not a CRS.
    """
    crs = dataset.crs if input_crs is None else parse_crs(input_crs, "input_crs")
    if dataset.transform.is_identity or dataset.transform.determinant == 0:
        if dataset.gcps[0]:
            raise UnsupportedRaster(
                f"{location} has only {len(dataset.gcps[0])} ground control points, and no transform from "
                "pixels to coordinates: rectify it first, for example with gdalwarp"
            )
        if dataset.rpcs is not None:
            raise UnsupportedRaster(
                f"{location} has only rational polynomials (RPCs), and no transform from pixels to "
                "coordinates: rectify it first, for example with gdalwarp -rpc"
            )
        if crs:
            raise UnsupportedRaster(f"{location} has no transform from pixels to coordinates")
    if not crs:
        raise UnsupportedRaster(f"{location} has no CRS: pass input_crs, for example 'EPSG:32637'")
    return crs


def _interp_name(value: ColorInterp | int) -> str:
    return str(getattr(value, "name", value))
