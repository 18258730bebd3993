"""COGs that are cut into pieces of any shape, however small they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from gdaltools.cog import planning
from gdaltools.cog.encode.codec import Encoding
from gdaltools.cog.encode.profiles import choose_profile
from gdaltools.cog.options import CogOptions
from gdaltools.cog.overviews.halving import level_sizes
from gdaltools.cog.pieces.sink import MemorySink
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.write.assemble import assemble, record_tasks
from gdaltools.geo.window import Span
from gdaltools.raster.facts import Facts
from gdaltools.raster.pixels.source import stacked


def cut_pieces(monkeypatch: pytest.MonkeyPatch, rows: int, cols: int | None) -> None:
    """Cut COGs into pieces of `rows` and `cols` (None: the whole width) for the rest of a test."""

    def piece_shape(width: int, *others: int) -> tuple[int, int]:
        _, _, blocksize, *_ = others
        return rows, cols or -(-width // blocksize) * blocksize

    monkeypatch.setattr(planning, "piece_shape", piece_shape)


@dataclass(frozen=True)
class MaskedArray:
    """A source of pixels, shape `(bands, rows, cols)`, and of their mask, `(rows, cols)`."""

    array: NDArray[Any]
    valid: NDArray[np.bool_] | None
    name: str = "array"

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[Any], *, planes: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        window = slice(rows.start, rows.stop), slice(cols.start, cols.stop)
        return stacked(self.array[:, *window], dtype, planes=planes), (
            None if self.valid is None else self.valid[window]
        )


def plan_of(
    array: NDArray[Any],
    valid: NDArray[np.bool_] | None,
    *,
    piece: tuple[int, int],
    blocksize: int = 64,
    resampling: str = "average",
    interleave: str = "pixel",
    nodata: float | None = None,
) -> CogPlan:
    """Return the plan of an uncompressed COG of `array`, shape `(bands, rows, cols)`."""
    count, height, width = array.shape
    options = CogOptions(
        codec="NONE", blocksize=blocksize, interleave=interleave, overview_resampling=resampling
    )
    profile = choose_profile(options, "multispectral", (str(array.dtype),) * count)
    facts = Facts(
        width=width, height=height, count=count, dtype=str(array.dtype), sample_bits=None, nodata=nodata,
        masked=valid is not None, transform=Affine.identity(), crs_wkt=None,
        colorinterp=(ColorInterp.gray, *[ColorInterp.undefined] * (count - 1)), colormap=None,
        descriptions=(None,) * count, units=(None,) * count, scales=(1.0,) * count, offsets=(0.0,) * count,
        domains={}, band_tags=(),
    )  # fmt: skip
    return CogPlan(
        source=MaskedArray(array, valid), facts=facts, profile=profile,
        encoding=Encoding(profile, facts.dtype), levels=level_sizes(width, height, blocksize), piece=piece,
        source_crs_wkt=None, warps=False, decode_first=False, rereads=1.0, kept=False, sparse=False,
    )  # fmt: skip


def content_of(plan: CogPlan) -> bytes:
    """Write the COG in this thread, and return its bytes."""
    sink = MemorySink()
    records = dask.compute(*record_tasks(plan, plan.work(sink)), scheduler="synchronous")
    assemble(plan, records, sink)
    return sink.content
