"""Kinds of rasters as they arrive: what is stored, and what it inflates to."""

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
        Its file's size as a share of its pixels'.
    usual : bool
        Whether a threshold on file sizes is to hold for it; what inflates by more is left to the duration.
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
        """Whether its file's size says about as much as its pixels' does."""
        return self.share >= _USUAL_SHARE

    def layout(self, megabytes: float, *, remote: bool) -> Layout:
        """A square one of so many uncompressed megabytes."""
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
