"""Rasters of the installed wheels and of the zoo, judged; and deliberate faults, which the judge finds."""

from __future__ import annotations

import sysconfig
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

import gdaltools as gt
from gdaltools.errors import UnsupportedRaster
from tests.real_files import child, zoo
from tests.real_files.judge import judge_array, judge_cog, judge_info, judge_tiles
from tests.real_files.run import name_of, rasters_below, run, table
from tests.support.cogs.gdal import by_gdal
from tests.support.rasters import UTM, UTM_GRID, smooth, write_raster

_MOST_BYTES = 200_000
_OF_A_FOLDER = 2


def of_the_wheels() -> list[Path]:
    """Return small rasters that installed packages bring along, of different folders."""
    seen: Counter[Path] = Counter()
    found = []
    for path in rasters_below(Path(sysconfig.get_path("purelib")), most_bytes=_MOST_BYTES):
        seen[path.parent] += 1
        if seen[path.parent] <= _OF_A_FOLDER:
            found.append(path)
    return found


@pytest.mark.timeout(600)
def test_rasters_of_wheels_and_of_the_zoo_are_right_or_refused(tmp_path: Path) -> None:
    rasters = [*of_the_wheels(), *zoo.sample(9, seed=1)]
    judged = list(run(rasters, journal=tmp_path / "judged.jsonl"))
    assert len(judged) == len(rasters) > 20
    assert not [one for one in judged if one.faults], table(judged)
    outcomes = Counter(outcome for one in judged for outcome, _ in one.steps.values())
    assert outcomes["right"] > 120
    # Nothing is asked again, which the limit would make an error.
    kept = [
        raster for raster in rasters if not any(one.faults for one in judged if one.name == name_of(raster))
    ]
    again = list(run(kept, journal=tmp_path / "judged.jsonl", limit=-1))
    assert len(again) == len(kept)
    assert all(one in judged for one in again)


def test_a_sample_of_the_zoo_has_every_kind() -> None:
    names = {name for animal in zoo.sample(40, seed=1) for name in animal.name.split(".")}
    assert names >= {*zoo.DTYPES, *zoo.LAYOUTS, *zoo.GAPS, *zoo.PLACES}


def test_a_step_that_hangs_is_ended_and_the_next_one_done(tmp_path: Path) -> None:
    # A process adds the time of its start to its first step only.
    [judged] = run(
        [write_raster(tmp_path / "a.tif", smooth())],
        limit=0,
        steps=("inspect", "open", "validate"),
        children=1,
    )
    assert [outcome for outcome, _ in judged.steps.values()] == ["right", "slow", "right"]


def test_a_changed_file_is_judged_again(tmp_path: Path) -> None:
    path, journal = write_raster(tmp_path / "a.tif", smooth()), tmp_path / "judged.jsonl"
    for bands in (3, 3, 1):
        write_raster(path, smooth(bands))
        list(run([path], journal=journal, children=1, steps=("inspect",)))
    assert 2 <= len(journal.read_text().splitlines()) <= 3


@pytest.mark.parametrize(
    ("error", "printed", "expected"),
    [
        (None, "", "right"),
        (UnsupportedRaster("it is not"), "", "refused"),
        (ValueError("what"), "", "untyped"),
        (None, "UserWarning: be careful\n", "noise"),
        (UnsupportedRaster("it is not"), "ERROR 1: something\n", "noise"),
    ],
)
def test_how_a_step_ends_is_its_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None, printed: str, expected: str
) -> None:
    log = tmp_path / "log"
    log.write_text("of the step before\n")

    def step(source: Path, folder: Path) -> child.Judge:
        with log.open("a") as stream:
            stream.write(printed)
        if error is not None:
            raise error
        return list

    monkeypatch.setitem(child.STEPS, "inspect", (step, ()))
    ended, details = child.outcome(tmp_path / "a.tif", "inspect", tmp_path / "made", log)
    assert ended == expected
    assert (printed.strip() or str(error or "")) in details


def told(path: Path, **changes: Any) -> Path:
    """Write a raster that states something in each field, or something else."""
    valid = np.ones((150, 170), bool)
    valid[20:60, 30:90] = False
    options: dict[str, Any] = {
        "crs": UTM, "transform": UTM_GRID, "mask": valid, "descriptions": ["a", "b"], "units": ["m", "K"],
        "scales": [0.1, 2], "offsets": [1, 5], "tags": {"A": "b"}, "band_tags": {2: {"W": "5"}},
        "colorinterp": [ColorInterp.gray, ColorInterp.undefined],
    } | changes  # fmt: skip
    image = options.pop("image", smooth(2, 150, 170))
    edit: Callable[[Any], None] | None = options.pop("edit", None)
    write_raster(path, image, **options)
    if edit is not None:
        with rasterio.open(path, "r+") as dataset:
            edit(dataset)
    return path


def changed_pixel() -> Any:
    image = smooth(2, 150, 170)
    image[1, 70, 80] += 1
    return image


def with_points(dataset: Any) -> None:
    dataset.gcps = [GroundControlPoint(0, 0, 1, 2), GroundControlPoint(9, 0, 1, 3)], CRS.from_epsg(4326)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, ""),
    "a changed pixel": ({"image": changed_pixel()}, "pixels"),
    "another dtype": ({"image": smooth(2, 150, 170).astype("int16")}, "dtypes"),
    "a lost band": ({"image": smooth(1, 150, 170), **dict.fromkeys(
        ("descriptions", "units", "scales", "offsets", "band_tags", "colorinterp"))}, "descriptions"),
    "a lost mask": ({"mask": None}, "mask"),
    "a nodata value": ({"mask": None, "nodata": 255}, "nodata"),
    "a shifted transform": ({"transform": UTM_GRID * Affine.translation(0.5, 0)}, "transform"),
    "another CRS": ({"crs": "EPSG:32638"}, "crs"),
    "no CRS": ({"crs": None}, "crs"),
    "another name": ({"descriptions": ["a", "c"]}, "descriptions"),
    "another unit": ({"units": ["m", "°C"]}, "units"),
    "another scale": ({"scales": [0.1, 3]}, "scales"),
    "another offset": ({"offsets": [1, 6]}, "offsets"),
    "another tag": ({"tags": {"A": "c"}}, "tags"),
    "a lost tag of a band": ({"band_tags": {}}, "band_tags"),
    "an alpha band": ({"colorinterp": None, "alpha": True, "mask": None}, "colorinterp"),
    "points": ({"transform": None, "crs": None, "edit": with_points}, "gcps"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "field"), WRONG.values(), ids=WRONG)
def test_a_wrong_cog_is_found_by_its_field(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    source, profile = told(tmp_path / "a.tif"), gt.cog_profile(told(tmp_path / "b.tif"))
    profile = profile.model_copy(update={"blocksize": 64})
    wrong = by_gdal(told(tmp_path / "c.tif", **changes), tmp_path / "d.tif", profile)
    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        found = judge_cog(source, wrong, profile, tmp_path / "gdals.tif")
    assert any(text.startswith(f"{field}: ") for text in found) if field else found == []


def test_wrong_overviews_are_found(tmp_path: Path) -> None:
    source = told(tmp_path / "a.tif")
    profile = gt.cog_profile(source).model_copy(update={"blocksize": 64})
    wrong = by_gdal(source, tmp_path / "b.tif", profile, overview_resampling="NEAREST")
    assert any("overview 1" in text for text in judge_cog(source, wrong, profile, tmp_path / "c.tif"))
    none = by_gdal(source, tmp_path / "b.tif", profile, overviews="NONE")
    assert "overviews: 0 instead of 2" in judge_cog(source, none, profile, tmp_path / "c.tif")


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
@pytest.mark.parametrize("nearest", [True, False])
def test_wrong_tiles_are_found(tmp_path: Path, crs: str, nearest: bool) -> None:
    source = told(tmp_path / "a.tif")
    scheme = gt.generate_tiling_scheme(source, 96, 16, crs)
    resampling = "nearest" if nearest else None
    result = gt.extract_tiles(source, scheme, tmp_path, stem="t", resampling=resampling, progress=False)
    tiles = [Path(tile.location) for tile in result.tiles]
    assert judge_tiles(source, tiles, nearest=nearest) == []
    assert [text.partition(":")[0] for text in judge_tiles(source, tiles[1:], nearest=nearest)] == [
        "coverage"
    ]

    def fields(edit: Callable[[Any], None]) -> set[str]:
        (tmp_path / "wrong.tif").write_bytes(tiles[0].read_bytes())
        with rasterio.open(tmp_path / "wrong.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            edit(dataset)
        found = judge_tiles(source, [tmp_path / "wrong.tif", *tiles[1:]], nearest=nearest)
        return {text.partition(":")[0] for text in found}

    def shift(dataset: Any) -> None:
        dataset.transform = dataset.transform * Affine.translation(8, 0)

    def unmask(dataset: Any) -> None:
        dataset.write_mask(np.full(dataset.shape, 255, "uint8"))

    def hide(dataset: Any) -> None:
        dataset.write_mask(np.zeros(dataset.shape, "uint8"))

    assert fields(shift) >= {"mask", "pixels"}
    assert fields(lambda dataset: dataset.write(255 - dataset.read())) == {"pixels"}
    assert fields(unmask) == fields(hide) == {"mask"}
    assert fields(lambda dataset: setattr(dataset, "units", ["x", "y"])) == {"units"}


def test_wrong_infos_and_arrays_are_found(tmp_path: Path) -> None:
    source = told(tmp_path / "a.tif")
    info, array, masked = gt.inspect(source), gt.open(source).load(), gt.open(source, masked=True).load()
    assert judge_info(source, info) == judge_array(source, array, masked) == []
    [found] = judge_info(source, info.model_copy(update={"nodata": (None, 0)}))
    assert found.startswith("nodata")
    [found] = judge_array(source, array + np.uint8(1), masked)
    assert found.startswith("pixels")
    [found] = judge_array(source, array, masked.fillna(0))
    assert found.startswith("masked")
