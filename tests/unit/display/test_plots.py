"""Plots and maps are drawn, of the right things, and a missing library is named."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from rasterio.io import MemoryFile

import gdaltools as gt
from gdaltools.cog.reads import trace_reads
from gdaltools.errors import InvalidParameter, MissingExtra
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

mpl.use("Agg")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots")
    return write_raster(folder / "scene.tif", smooth(3, 600, 800), crs=UTM, transform=UTM_GRID, nodata=0)


@pytest.fixture(scope="module")
def cog(scene: Path) -> gt.CogResult:
    return gt.create_cog(scene, scene.with_name("cog.tif"), blocksize=128)


@pytest.mark.parametrize("target", ["EPSG:4326", UTM])
def test_a_scheme_is_drawn_over_its_raster(scene: Path, target: str) -> None:
    scheme = gt.generate_tiling_scheme(scene, 256, 32, target)
    ax = scheme.plot()
    assert {text.get_text() for text in ax.texts} == {f"{r}_{c}" for r in range(3) for c in range(4)}
    assert ax.get_xlim() == pytest.approx((scheme.grid.bounds[0], scheme.grid.bounds[2]))
    (image,) = ax.images
    pixels = np.asarray(image.get_array())
    assert np.ptp(pixels[..., :3]) > 100
    assert not scheme.plot(names=False).texts


def test_a_scheme_without_its_raster_is_drawn_alone(scene: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tif"
    copy.write_bytes(scene.read_bytes())
    scheme = gt.generate_tiling_scheme(copy, 256, 32)
    copy.unlink()
    assert not scheme.plot().images
    with pytest.raises(InvalidParameter, match="told apart"):
        gt.generate_tiling_scheme(scene, 16, 8, UTM).plot()


def test_tiles_that_cannot_be_told_apart_are_not_computed(
    scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = gt.generate_tiling_scheme(scene, 16, 8, UTM)

    def window(self: gt.TilingScheme, row: int, col: int) -> None:
        pytest.fail(f"the window of tile_{row}_{col} was computed")

    monkeypatch.setattr(gt.TilingScheme, "window", window)
    assert "<svg" not in scheme._repr_html_()
    with pytest.raises(InvalidParameter, match="told apart"):
        scheme.plot()


def test_levels_histogram_and_reads_are_drawn(scene: Path, cog: gt.CogResult) -> None:
    assert [text.get_text().split("  ")[0] for text in cog.plot().texts] == [
        "800 x 600", "400 x 300", "200 x 150", "100 x 75",
    ]  # fmt: skip
    assert len(gt.plan_cog(scene, blocksize=128).plot().texts) == 4
    ax = gt.inspect(cog.location).plot()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Red", "Green", "Blue"]
    ax = trace_reads(scene, size=100).plot(trace_reads(cog.location, size=100))
    assert [text.get_text().split(":")[0] for text in ax.texts] == ["scene.tif", "cog.tif"]


def shown(url: str) -> np.ndarray:
    with MemoryFile(base64.b64decode(url.partition(",")[2])) as memory, memory.open() as dataset:
        return np.asarray(dataset.read())


def test_a_map_shows_the_raster_and_paints_anew_where_it_is_moved(cog: gt.CogResult) -> None:
    found = cog.explore()
    base, detail = found.layers
    (south, west), (north, east) = base.bounds
    assert (west, south, east, north) == pytest.approx(cog.bounds_4326)
    assert "http" not in base.url[:40]
    before = shown(detail.url)
    assert (before[3] == 255).mean() > 0.9
    middle = (south + north) / 2, (west + east) / 2
    found.set_trait("bounds", ((south, west), middle))
    assert tuple(map(tuple, detail.bounds)) == ((south, west), middle)
    assert not np.array_equal(shown(detail.url)[:, :300, :300], before[:, :300, :300])
    found.set_trait("bounds", ((80, 170), (81, 171)))
    assert tuple(map(tuple, detail.bounds)) == ((south, west), middle)


def test_a_map_of_tiles_has_their_outlines(scene: Path, tmp_path: Path) -> None:
    scheme = gt.generate_tiling_scheme(scene, 256, 32)
    shapes = scheme.explore().layers[-1].data["features"]
    assert [shape["properties"]["tile_id"] for shape in shapes] == list(scheme.tile_ids())
    tiles = gt.extract_tiles(scene, scheme, tmp_path, as_cog=True)
    mosaic = gt.create_mosaicjson([tile.location for tile in tiles.tiles], tmp_path / "mosaic.json")
    assert len(mosaic.explore().layers) == 2


def test_without_the_library_it_says_what_to_install(
    scene: Path, cog: gt.CogResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("matplotlib", "matplotlib.pyplot", "ipyleaflet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=r"pip install 'gdaltools\[notebook\]'"):
        cog.plot()
    with pytest.raises(MissingExtra, match=r"pip install 'gdaltools\[map\]'"):
        cog.explore()
