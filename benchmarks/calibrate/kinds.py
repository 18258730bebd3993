"""Typical kinds of input rasters: how they are stored, and how large they are once decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gdaltools.cost.workload import Layout


@dataclass(frozen=True)
class Kind:
    """A kind of raster.

    Attributes
    ----------
    share : float
        Size of its file as a share of the size of its pixels.
    usual : bool
        Whether a threshold on file sizes must hold for it; a kind that expands further is left to the
        duration threshold.
    """

    name: str
    bands: int
    itemsize: int
    floating: bool
    codec: str | None
    tiled: bool
    share: float

    @property
    def usual(self) -> bool:
        """Whether the size of its file is a fair measure of the size of its pixels."""
        return self.share >= _USUAL_SHARE

    def layout(self, megabytes: float, *, remote: bool) -> Layout:
        """Return the layout of a square raster of `megabytes` uncompressed."""
        pixels = megabytes * 1e6 / (self.bands * self.itemsize)
        side = max(1, math.isqrt(int(pixels)))
        return Layout(
            side,
            side,
            self.bands,
            self.itemsize,
            floating=self.floating,
            codec=self.codec,
            stored_mb=megabytes * self.share,
            tiled=self.tiled,
            remote=remote,
        )


_USUAL_SHARE = 0.5

KINDS = (
    Kind("RGB, plain, strips", 3, 1, False, None, False, 1.0),
    Kind("RGB photo, DEFLATE, tiles", 3, 1, False, "deflate", True, 0.7),
    Kind("RGB map, LZW, strips (300 MB of 9 GB)", 3, 1, False, "lzw", False, 1 / 30),
    Kind("4 bands uint16, plain, strips", 4, 2, False, None, False, 1.0),
    Kind("4 bands uint16, ZSTD, tiles", 4, 2, False, "zstd", True, 0.6),
    Kind("8 bands uint16, DEFLATE, tiles", 8, 2, False, "deflate", True, 0.6),
    Kind("terrain float32, plain, tiles", 1, 4, True, None, True, 1.0),
    Kind("terrain float32, DEFLATE, strips", 1, 4, True, "deflate", False, 0.5),
    Kind("classes uint8, DEFLATE, tiles", 1, 1, False, "deflate", True, 0.05),
)
