"""The names that docstring examples use: a folder with a raster, gdaltools, tiles, an array, a dataset."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gdaltools.tiles.scheme import TilingScheme


@pytest.fixture(scope="session")
def example_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raster of three bands on a 10 m grid, 800 x 600 pixels."""
    from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

    return write_raster(
        tmp_path_factory.mktemp("examples") / "scene.tif",
        smooth(3, 600, 800),
        crs=UTM,
        transform=UTM_GRID,
        descriptions=["Red", "Green", "NIR"],
    )


@pytest.fixture(scope="session")
def example_scheme(example_scene: Path) -> TilingScheme:
    """12 tiles on the scene's own grid."""
    import gdaltools as gt

    return gt.generate_tiling_scheme(example_scene, tile_size=256, overlap=32, target_crs="EPSG:32637")


@pytest.fixture(autouse=True)
def _examples(request: pytest.FixtureRequest) -> None:
    if isinstance(request.node, pytest.DoctestItem) and request.node.name.startswith(("gdaltools", "worker")):
        if request.node.name == "gdaltools.raster.vrt.create_vrt":
            pytest.importorskip("osgeo")
        request.getfixturevalue("_at_hand")


@pytest.fixture
def _at_hand(
    request: pytest.FixtureRequest,
    example_scene: Path,
    example_scheme: TilingScheme,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import gdaltools as gt

    os.link(example_scene, tmp_path / "scene.tif")
    monkeypatch.chdir(tmp_path)
    array = gt.open("scene.tif")
    at_hand: dict[str, Any] = {
        "gt": gt,
        "scheme": example_scheme,
        "da": array,
        "ds": array.gt.to_dataset(),
    }
    request.node.dtest.globs.update(at_hand)
