"""The memory that writing a COG takes, beyond what its plan allows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import dask
import numpy as np
import pytest

from gdaltools import create_cog
from tests.support.rasters import write_raster


@pytest.mark.parametrize("side", [3072, 3073])
def test_a_piece_is_forgotten_when_it_is_encoded_and_halved(tmp_path: Path, side: int) -> None:
    """On odd sides a piece leaves strips of its border to its neighbours, and no more than these."""
    pixels = np.zeros((1, side, side), np.float32)
    source = write_raster(tmp_path / "a.tif", pixels)
    tracemalloc.start()
    try:
        with dask.config.set(scheduler="synchronous"):
            create_cog(source, tmp_path / "b.tif", profile="fast", progress=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 0.6 * pixels.nbytes
