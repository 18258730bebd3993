"""Adaptive DEFLATE keeps its promise: the file exceeds that of GDAL's level 6 by at most the tolerance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gdaltools.cog.create import create_cog
from tests.support.rasters import smooth, write_raster
from tests.unit.conftest import Cut


def noise(rows: int, cols: int) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, (3, rows, cols), dtype="uint8")


def striped(rows: int, cols: int) -> NDArray[Any]:
    """Return alternating smooth and noisy columns."""
    return np.where(np.arange(cols) % 97 < 50, smooth(3, rows, cols, noise=0), noise(rows, cols))


def halved(rows: int, cols: int) -> NDArray[Any]:
    """Return noise above, smoothness below: what is learnt from one is wrong for the other."""
    return np.concatenate([noise(rows // 2, cols), smooth(3, rows - rows // 2, cols, noise=0)], axis=1)


CONTENTS = {
    "noise": noise,
    "smooth": lambda rows, cols: smooth(3, rows, cols, noise=0),
    "sensor": lambda rows, cols: smooth(3, rows, cols, noise=4),
    "striped": striped,
    "halved": halved,
    "constant": lambda rows, cols: np.full((3, rows, cols), 7, "uint8"),
    "classes": lambda rows, cols: np.random.default_rng(0).integers(0, 3, (1, rows, cols), dtype="uint8"),
    "uint16": lambda rows, cols: smooth(2, rows, cols, dtype="uint16", noise=20),
    "float32": lambda rows, cols: (smooth(1, rows, cols, dtype="int16", noise=1) / 7).astype("float32"),
}


def sizes(tmp_path: Path, image: NDArray[Any], tolerance: float, blocksize: int) -> tuple[int, int]:
    source = write_raster(tmp_path / "a.tif", image)
    adaptive, reference = (
        create_cog(
            source, tmp_path / f"{name}.tif", raster_type="multispectral", blocksize=blocksize,
            progress=False, **options,
        ).size_bytes
        for name, options in {"adaptive": {"size_tolerance": tolerance}, "six": {"level": 6}}.items()
    )  # fmt: skip
    return adaptive, reference


@pytest.mark.parametrize("tolerance", [0.003, 0.03])
@pytest.mark.parametrize("content", CONTENTS)
def test_the_size_tolerance_is_kept(tmp_path: Path, cut: Cut, content: str, tolerance: float) -> None:
    cut(256, None)
    adaptive, reference = sizes(tmp_path, CONTENTS[content](600, 700), tolerance, 128)
    assert adaptive <= reference * (1 + tolerance)


@pytest.mark.parametrize("shape", [(64, 64), (500, 500)])
@pytest.mark.parametrize("content", CONTENTS)
def test_the_size_tolerance_is_kept_by_files_of_few_blocks(
    tmp_path: Path, content: str, shape: tuple[int, int]
) -> None:
    adaptive, reference = sizes(tmp_path, CONTENTS[content](*shape), 0.015, 512)
    assert adaptive <= reference * 1.015


def test_no_tolerance_is_level_6(tmp_path: Path) -> None:
    adaptive, reference = sizes(tmp_path, striped(300, 400), 0, 64)
    assert adaptive == reference
    assert (tmp_path / "adaptive.tif").read_bytes() == (tmp_path / "six.tif").read_bytes()


def test_the_same_raster_gives_the_same_file(tmp_path: Path, cut: Cut) -> None:
    cut(64, None)
    source = write_raster(tmp_path / "a.tif", striped(500, 400))
    for name in ("one", "two"):
        create_cog(source, tmp_path / f"{name}.tif", blocksize=64, progress=False)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()
