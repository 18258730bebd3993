"""Random arguments of `create_cog`: most of them valid, some not."""

from __future__ import annotations

from random import Random
from typing import Any

from gdaltools.cog.encode.profiles import CODECS, OVERVIEW_RESAMPLINGS, TIERS
from gdaltools.raster.detect import RASTER_TYPES


def random_options(random: Random) -> dict[str, Any]:
    """Return keyword arguments, each included or left out at random."""
    codec = random.choice((*CODECS, *["DEFLATE", "ZSTD", "LZW"] * 3))
    levels = (1, 3, 6, 9, 12) if codec in ("DEFLATE", "ZSTD") or random.random() < 0.1 else ()
    given: dict[str, tuple[float, Any]] = {
        "profile": (0.5, random.choice(TIERS)),
        "raster_type": (0.7, random.choice(("auto", *RASTER_TYPES))),
        "codec": (0.6, codec),
        "level": (0.3 if levels else 0.02, random.choice((*levels, *levels, 0, 99))),
        "size_tolerance": (0.06, random.choice((0, 0.003, 0.02, 0.5, 1, -1, float("nan")))),
        "predictor": (0.2, random.choice((1, 1, 2, 2, 3, "auto", 4))),
        "quality": (0.2, random.choice((1, 50, 75, 100, 100, 0))),
        "max_z_error": (
            0.5 if codec.startswith("LERC") else 0.02,
            random.choice((0.0, 0.01, 2.0, 1e9, -1.0)),
        ),
        "blocksize": (0.95, random.choice((*[64, 80, 128] * 6, 256, 512, 100, 0))),
        "interleave": (0.3, random.choice(("pixel", "band"))),
        "overviews": (0.3, random.choice(("build", "keep", "none", "none"))),
        "overview_resampling": (0.6, random.choice((*OVERVIEW_RESAMPLINGS, *OVERVIEW_RESAMPLINGS, "best"))),
        "reproject_resampling": (0.1, random.choice(("nearest", "bilinear", "cubic"))),
        "sparse": (0.3, True),
        "target_crs": (0.06, random.choice(("EPSG:4326", "EPSG:3857", "EPSG:32637"))),
        "input_crs": (0.06, random.choice(("EPSG:4326", "EPSG:32637", "nonsense"))),
    }
    return {name: value for name, (share, value) in given.items() if random.random() < share}


def random_piece(random: Random, blocksize: int) -> tuple[int, int | None]:
    """Return rows and columns of the pieces; None for the whole width."""
    rows = blocksize * random.choice((1, 1, 2, 3, 4))
    return rows, random.choice((None, blocksize, 2 * blocksize))
