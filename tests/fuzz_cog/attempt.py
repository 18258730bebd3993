"""One trial: a source, perhaps damaged, and random options; its outcome, and whether that is right."""

from __future__ import annotations

import math
import shutil
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import rasterio
from rasterio.io import DatasetReader
from rasterio.windows import Window

from gdaltools.cog import planning
from gdaltools.cog.create import CogResult, create_cog, plan_cog
from gdaltools.cog.validate import validate_cog
from gdaltools.errors import GdalToolsError
from gdaltools.raster.dataset import open_dataset
from tests.fuzz_cog.damage import damaged
from tests.fuzz_cog.options import random_options, random_piece

_UNDAMAGED_SHARE = 0.25
# A header may claim a size that takes hours: a raster above these limits is only opened.
_MOST_SAMPLES, _MOST_BANDS = 12_000_000, 1000


@dataclass(frozen=True)
class Case:
    """The input of a trial; all of it follows from the run's seed and the trial's number."""

    number: int
    source: str
    whole: bool
    piece: tuple[int, int | None]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Attributes
    ----------
    ended : str
        "made", "opened" (it claims to be too large to convert here), or the name of the error.
    problem : str or None
        What is wrong, if anything.
    """

    case: Case
    ended: str
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the outcome in the form of the report."""
        return asdict(self)


def case_of(seed: int, number: int, sources: Path) -> tuple[Case, bytes]:
    """Return a trial's case, and the content of its source."""
    random = Random(f"{seed}/{number}")
    path = random.choice(sorted(sources.iterdir()))
    content = path.read_bytes()
    whole = random.random() < _UNDAMAGED_SHARE
    if not whole:
        content = damaged(content, random)
    options = random_options(random)
    blocksize = options.get("blocksize", 512)
    piece = random_piece(random, blocksize if blocksize % 16 == 0 and blocksize else 512)
    return Case(number, path.name, whole, piece, options), content


def attempt(seed: int, number: int, sources: Path, folder: Path) -> Outcome:
    """Run a trial in `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "out").mkdir(parents=True)
    case, content = case_of(seed, number, sources)
    source = folder / case.source
    source.write_bytes(content)
    target = folder / "out" / "cog.tif"
    _cut(case)
    try:
        ended = _make(source, target, case.options)
    except GdalToolsError as error:
        if list((folder / "out").iterdir()):
            return Outcome(case, type(error).__name__, "something is left behind an error")
        return Outcome(case, type(error).__name__)
    except BaseException as error:  # noqa: BLE001 - this is what the trial looks for
        where = "".join(traceback.format_exception(error)[-3:])
        return Outcome(case, type(error).__name__, f"an error that is none of ours: {where}")
    if ended == "opened":
        return Outcome(case, ended)
    if [entry.name for entry in (folder / "out").iterdir()] != ["cog.tif"]:
        return Outcome(case, ended, "something is left beside the target")
    return Outcome(case, ended, _wrong(source, target, case))


def _cut(case: Case) -> None:
    def piece_shape(width: int, height: int, pixel_bytes: int, blocksize: int, *_: int) -> tuple[int, int]:
        rows, cols = case.piece
        across = math.ceil(width / blocksize) * blocksize
        # The plan may have chosen smaller blocks than requested.
        return max(rows // blocksize, 1) * blocksize, max(
            cols // blocksize, 1
        ) * blocksize if cols else across

    planning.piece_shape = piece_shape


def _make(source: Path, target: Path, options: dict[str, Any]) -> str:
    with open_dataset(source) as dataset:
        samples = dataset.width * dataset.height * dataset.count
        if samples > _MOST_SAMPLES or dataset.count > _MOST_BANDS:
            return "opened"
    str(plan_cog(source, **options))
    result = create_cog(source, target, progress=False, **options)
    assert isinstance(result, CogResult)
    return "made"


def _wrong(source: Path, target: Path, case: Case) -> str | None:
    report = validate_cog(target, strict=case.options.get("overviews") != "none")
    if not report.valid:
        return f"not valid: {report}"
    with open_dataset(source) as before, rasterio.open(target) as after:
        lossless = after.profile.get("compress", "none") not in ("jpeg", "webp")
        if case.options.get("target_crs") or case.options.get("max_z_error") or not lossless:
            after.read()
            return None
        if (before.shape, before.count) != (after.shape, after.count):
            return f"shape {after.count, *after.shape} instead of {before.count, *before.shape}"
        if repr(before.nodata) != repr(after.nodata):
            return f"nodata {after.nodata!r} instead of {before.nodata!r}"
        if not case.whole and not _steady(before):
            return None
        expected, found = before.read(), after.read()
        if not np.array_equal(expected, found, equal_nan=expected.dtype.kind in "fc"):
            return f"{int((expected != found).sum())} of {found.size} samples differ"
        if not np.array_equal(before.dataset_mask(), after.dataset_mask()):
            return "the mask differs"
    return None


def _steady(dataset: DatasetReader) -> bool:
    """Return whether a damaged raster reads alike by rows and at once; CCITT decoders skip errors."""
    pixels, mask = dataset.read(), dataset.dataset_mask()
    for row in range(0, dataset.height, 16):
        window = Window(0, row, dataset.width, min(16, dataset.height - row))
        rows = slice(row, row + 16)
        if not np.array_equal(pixels[:, rows].view("uint8"), dataset.read(window=window).view("uint8")):
            return False
        if not np.array_equal(mask[rows], dataset.dataset_mask(window=window)):
            return False
    return True
