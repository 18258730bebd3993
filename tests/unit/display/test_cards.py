"""Objects show themselves: readable lines, cards that no metadata can break out of, pictures at a glance."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from IPython.lib.pretty import pretty
from rasterio.io import MemoryFile

import gdaltools as gt
from gdaltools.cog.batch.result import CogsResult, FailedCog
from gdaltools.cog.reads import ReadTrace, Request, trace_reads
from gdaltools.display import html
from gdaltools.raster.picture import picture, thumbnail
from tests.support.rasters import UTM, UTM_GRID, categories, smooth, write_raster
from worker.protocol.routing import route

HOSTILE = "<script>alert(1)</script>'\"><img src=x onerror=alert(2)>&lt;\x9b2J\u202e"
ALLOWED = {"div", "style", "header", "b", "small", "span", "i", "details", "summary", "pre", "img"}
ALLOWED |= {"table", "thead", "tbody", "tr", "th", "td", "svg", "rect", "title", "text"}


class Tags(HTMLParser):
    """All tags and attributes of a page, and whether each opened tag was closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes += attrs
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_harmless(shown: Any) -> Tags:
    page = shown._repr_html_()
    tags = Tags(page)
    assert tags.names <= ALLOWED
    assert not tags.open
    assert not [name for name, _ in tags.attributes if name.startswith("on") or name in ("href", "srcdoc")]
    for name, value in tags.attributes:
        assert name != "src" or str(value).startswith("data:image/png;base64,")
    for text in (page, repr(shown)):
        assert not {char for char in text if not char.isprintable()} - {"\n"}
    return tags


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    return write_raster(
        tmp_path / "a'b<i>&.tif",
        smooth(3, 300, 400),
        crs=UTM,
        transform=UTM_GRID,
        descriptions=[HOSTILE, None, "x" * 5000],
        units=[HOSTILE, None, None],
        tags={"NOTE<b>": HOSTILE * 50},
    )


def test_whatever_a_raster_says_of_itself_stays_text(hostile: Path, tmp_path: Path) -> None:
    scheme = gt.generate_tiling_scheme(hostile, 256, 32, "EPSG:4326", band_names={"1": HOSTILE})
    cog = gt.create_cog(hostile, tmp_path / "c'<og.tif")
    tiles = gt.extract_tiles(hostile, scheme, tmp_path / "t<iles", as_cog=True)
    cogs = [tile.location for tile in tiles.tiles]
    failed = FailedCog(source=HOSTILE, location=HOSTILE, error_type="E", error=HOSTILE, retryable=True)
    shown = [
        gt.inspect(hostile),
        scheme,
        gt.plan_cog(hostile),
        cog,
        gt.validate_cog(cog.location),
        gt.validate_cog(hostile),
        gt.plan_extraction(hostile, scheme),
        tiles,
        gt.create_mosaicjson(cogs, tmp_path / "m.json", name=HOSTILE),
        gt.create_stac_collection(cogs, tmp_path / "stac"),
        gt.estimate(hostile),
        route("create_cog", {"file_size_mb": 5000}),
        gt.open(hostile).gt.inspect(),
        trace_reads(cog.location),
        ReadTrace(HOSTILE, (2, 3), 10, (Request(0, 5),)),
        CogsResult(folder=HOSTILE, made=(), copied=(), skipped=(), failed=(failed,), seconds=1),
    ]
    for each in shown:
        assert_harmless(each)
        assert repr(each).startswith(f"<{type(each).__name__}")
    assert "<script>alert(1)</script>" in assert_harmless(shown[0]).text


def test_a_card_follows_light_and_dark_and_needs_no_script(hostile: Path) -> None:
    page = gt.inspect(hostile)._repr_html_()
    for part in ("light-dark(", ".vscode-dark", "--jp-layout-color1", "--vscode-editor-background"):
        assert part in page
    assert "http" not in page
    assert len(page) < 60_000


def test_a_long_table_says_how_much_of_it_is_left_out() -> None:
    page = html.table(("a", "b"), [(number, "x") for number in range(100)])
    assert page.count("<tr>") == html.MOST_ROWS + 2
    assert "… and 76 more" in page


def test_a_thumbnail_is_a_small_picture_with_clear_places_where_there_is_no_data(tmp_path: Path) -> None:
    mask = np.ones((600, 900), bool)
    mask[:, :450] = False
    path = write_raster(tmp_path / "a.tif", smooth(4, 600, 900, dtype="uint16"), mask=mask)
    found = thumbnail(path)
    assert found is not None
    with MemoryFile(found) as memory, memory.open() as dataset:
        pixels = dataset.read()
    assert pixels.shape == (4, 128, 192)
    assert (pixels[3, :, :90] == 0).all()
    assert (pixels[3, :, 100:] == 255).all()
    assert np.ptp(pixels[0, :, 100:]) > 100


def test_a_picture_of_classes_has_the_colours_of_their_table(tmp_path: Path) -> None:
    colours = {number: (10 * number, 200, 7, 255) for number in range(1, 7)}
    data = categories(64, 64)
    path = write_raster(tmp_path / "a.tif", data, colormap=colours)
    found = picture(path, 64)
    assert found is not None
    np.testing.assert_array_equal(found[..., 0], 10 * data[0])
    assert (found[..., 1:] == (200, 7, 255)).all()


def test_there_is_no_thumbnail_of_what_takes_long_to_read_or_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    profile = {"driver": "GTiff", "width": 9000, "height": 9000, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, tiled=True, sparse_ok=True):
        pass
    assert thumbnail(path) is None
    assert thumbnail(tmp_path / "none.tif") is None
    assert "img" not in assert_harmless(gt.inspect(path)).names


def test_a_result_outlives_its_file(hostile: Path, tmp_path: Path) -> None:
    cog = gt.create_cog(hostile, tmp_path / "cog.tif")
    assert cog.source_bytes == hostile.stat().st_size
    assert "img" in assert_harmless(cog).names
    Path(cog.location).unlink()
    assert "img" not in assert_harmless(cog).names


def test_a_cog_is_read_by_fewer_requests_than_its_source(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(3, 1500, 2000, noise=20))
    gt.create_cog(source, tmp_path / "b.tif")
    before, after = trace_reads(source, size=256), trace_reads(tmp_path / "b.tif", size=256)
    assert after.read_bytes < before.read_bytes / 4
    assert after.seconds() < before.seconds()
    detail = trace_reads(tmp_path / "b.tif", window=(900, 900, 256, 256), size=256)
    assert detail.shape == (256, 256)
    assert detail.read_bytes < after.size_bytes


@pytest.mark.parametrize("wrong", [{"size": 0}, {"window": (0, 0, 5000, 5)}, {"window": (-1, 0, 5, 5)}])
def test_reads_of_what_is_not_there_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 100, 100))
    with pytest.raises(gt.GdalToolsError):
        trace_reads(source, **wrong)


def test_levels_are_those_of_the_file(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 675, 1351))
    cog = gt.create_cog(source, tmp_path / "b.tif", blocksize=128)
    images = gt.validate_cog(cog.location).images
    assert cog.levels == tuple((image.width, image.height) for image in images)


def test_a_plan_is_short_where_dask_names_it_and_whole_where_a_person_looks(tmp_path: Path) -> None:
    source = write_raster(tmp_path / "a.tif", smooth(1, 64, 64))
    scheme = gt.generate_tiling_scheme(source, 64, 16)
    for plan in (gt.plan_cog(source), gt.plan_extraction(source, scheme)):
        assert repr(plan) == f"<{type(plan).__name__} a.tif>"
        assert pretty(plan) == f"<{type(plan).__name__}>\n{plan}"
