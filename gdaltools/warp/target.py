"""Pixels of the target grid, read from the source as plain windows or warped.

`TargetPixels` is shared by all tiles of a scheme; `TileSource` is one tile as the source of a COG.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import numpy as np
from rasterio.windows import Window

from gdaltools.geo.window import PixelWindow, Span
from gdaltools.raster.dataset import open_dataset
from gdaltools.raster.pixels.nodata import holding_data
from gdaltools.raster.pixels.raw import RawSource
from gdaltools.raster.pixels.source import Pixels, Source, Valid, stacked
from gdaltools.raster.pixels.windows import SourceWindows, raw_pixels
from gdaltools.storage import Location
from gdaltools.warp.strips import WarpPlan, plain_strips, warped_strips


class GridPixels(Protocol):
    """The pixels of a target grid, wherever they come from."""

    @property
    def name(self) -> str:
        """The name in error messages."""

    @property
    def warp(self) -> WarpPlan | None:
        """How the pixels are warped; None if they are the source's own."""

    @property
    def step(self) -> int:
        """Strips are cut at multiples of this many rows of the grid."""

    def tile(self, window: PixelWindow) -> Source:
        """Return a window as the source of a COG."""

    def part(self, window: PixelWindow) -> GridPixels:
        """Return the same pixels for a task that reads nothing beyond the window."""

    def opened(self) -> AbstractContextManager[Any]:
        """Yield the source, open in this thread while the block lasts."""

    def strips(self, source: Any, window: Window) -> Iterator[tuple[Pixels, Valid | None]]:
        """Yield a window of the opened source as `TargetPixels.strips` does."""


@dataclass(frozen=True)
class TargetPixels:
    """How a window of the target grid is read.

    Attributes
    ----------
    warp : WarpPlan or None
        None if the target grid is the source's own.
    masked : bool
        Whether a mask is read with the pixels: the source's, or that of the warp.
    hidden : float or None
        The nodata value to report as a mask, because the tiles' codec changes values.
    step : int
        Strips are cut at multiples of this many rows of the grid, so that the source is read once if
        possible.
    raw : RawSource or None
        The source read without GDAL, if it is uncompressed and has no mask.
    """

    location: Location
    warp: WarpPlan | None
    masked: bool
    hidden: float | None
    step: int
    raw: RawSource | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The name in error messages."""
        return str(self.location)

    def tile(self, window: PixelWindow) -> TileSource:
        """Return a window as the source of a COG."""
        return TileSource(self, window)

    def part(self, window: PixelWindow) -> Self:
        """Return the same pixels: a file is read where the task runs."""
        return self

    @property
    def by_kernel(self) -> bool:
        """Whether our own kernel warps the pixels; it accepts source pixels from any reader."""
        return self.warp is not None and self.warp.step > 0

    @property
    def own_mask(self) -> bool:
        """Whether the source has a mask that is read."""
        return self.masked if self.warp is None else self.warp.mask == "mask"

    def at(self, location: Location) -> Self:
        """Return the same pixels, with the source's bytes at `location`.

        Raises
        ------
        SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
            As in `open_dataset`.
        """
        if location == self.location:
            return self
        with open_dataset(location) as dataset:
            return replace(self, location=location, raw=raw_pixels(dataset, location))

    @contextmanager
    def opened(self) -> Iterator[SourceWindows]:
        """Yield the source, open in this thread while the block lasts.

        Raises
        ------
        SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
            As in `open_dataset`.
        """
        with open_dataset(self.location, verify=False) as dataset:
            yield SourceWindows(dataset, self.location, self.raw)

    def strips(self, source: SourceWindows, window: Window) -> Iterator[tuple[Pixels, Valid | None]]:
        """Yield a window from top to bottom: pixels, shape (bands, rows, cols), and which of them are data.

        The second value has the shape (rows, cols), or is None if nothing marks missing data.

        Raises
        ------
        CorruptRaster, StorageError
            The source cannot be decoded or read.
        """
        if self.warp is None:
            found = plain_strips(source, window, self.step, mask=self.masked)
        else:
            found = warped_strips(source, self.warp, window)
        for pixels, mask in found:
            if mask is not None:  # 0 and 255, owned by the strip: converted to bool in place
                yield pixels, np.minimum(mask, 1, out=mask).view(bool)
            elif self.hidden is not None:
                there = holding_data(pixels, self.hidden)
                yield pixels, np.ones(pixels.shape[1:], bool) if there is None else np.any(there, axis=0)
            else:
                yield pixels, None


@dataclass(frozen=True)
class TileSource:
    """One tile of the grid, as a `gdaltools.raster.pixels.source.Source`."""

    pixels: TargetPixels
    window: PixelWindow

    @property
    def name(self) -> str:
        """The name in error messages."""
        return str(self.pixels.location)

    @property
    def location(self) -> Location:
        """The raster that is read."""
        return self.pixels.location

    @property
    def masked(self) -> bool:
        """Whether the raster's own mask is read."""
        return self.pixels.own_mask

    def at(self, location: Location) -> Self:
        """Return the same tile, with the source's bytes at `location`.

        Raises
        ------
        SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
            As in `open_dataset`.
        """
        return replace(self, pixels=self.pixels.at(location))

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """Return a window, shape (planes, rows, cols, samples), and its mask, shape (rows, cols), or None.

        Raises
        ------
        CorruptRaster, StorageError
            As in `TargetPixels.strips`.
        """
        with self.pixels.opened() as source:
            return OpenTile(self.pixels, self.window, source).read(rows, cols, dtype, planes=planes)


@dataclass(frozen=True)
class OpenTile:
    """A tile of a raster that is open in this thread: blocks decoded for one tile serve the next."""

    pixels: GridPixels
    window: PixelWindow
    source: Any

    @property
    def name(self) -> str:
        """The name in error messages."""
        return self.pixels.name

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        """As `TileSource.read`."""
        origin = self.window
        window = Window(origin.col_off + cols.start, origin.row_off + rows.start, len(cols), len(rows))
        parts, masks = zip(*self.pixels.strips(self.source, window), strict=True)
        valid = None if masks[0] is None else np.concatenate(masks)
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        return stacked(pixels, dtype, planes=planes), valid
