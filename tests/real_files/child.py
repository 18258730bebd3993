"""A process that does one step with one raster, as each line of standard input names them.

The answer is the outcome: ``right``; ``refused``, by one of our errors; or a fault: ``different`` from what
GDAL reads, ``untyped`` (another exception) or ``noise`` (whatever was printed, warnings included).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import rasterio

import gdaltools as gt
from gdaltools.errors import GdalToolsError
from tests.real_files import judge

_MEMORY_BYTES = 8 << 30
_SMALL_BYTES = 4 << 20
_MOST_TEXT = 400

Judge = Callable[[], judge.Differences]


def inspect(source: Path, folder: Path) -> Judge:
    info = gt.inspect(source)
    return lambda: judge.judge_info(source, info)


def open_(source: Path, folder: Path) -> Judge:
    array, masked = gt.open(source).compute(), gt.open(source, masked=True).compute()
    return lambda: judge.judge_array(source, array, masked)


def validate(source: Path, folder: Path) -> Judge:
    report = gt.validate_cog(source)
    return lambda: judge.judge_report(source, report)


def cog(source: Path, folder: Path, profile: str) -> Judge:
    blocksize = 64 if source.stat().st_size < _SMALL_BYTES else 512  # small rasters have overviews too
    made = gt.create_cog(source, folder / "cog.tif", profile, blocksize=blocksize)
    report = gt.validate_cog(folder / "cog.tif")

    def judged() -> judge.Differences:
        found = judge.judge_cog(source, folder / "cog.tif", made.tier_profile, folder / "gdals.tif")
        return found + [f"validity: {text}" for text in (*report.errors, *report.warnings)]

    return judged


def tiles(source: Path, folder: Path, crs: str) -> Judge:
    info = gt.inspect(source)
    side = max(64, -(-max(info.width, info.height) // 32) * 16)
    nearest = crs == "EPSG:3857"
    chosen = {"own": info.crs, info.crs: "EPSG:6933"}.get(crs, crs)
    scheme = gt.generate_tiling_scheme(source, side, 16, chosen)
    resampling = "nearest" if nearest else None
    result = gt.extract_tiles(source, scheme, folder / "tiles", resampling=resampling, as_cog=nearest)
    return lambda: judge.judge_tiles(source, [Path(tile.location) for tile in result.tiles], nearest=nearest)


STEPS: dict[str, tuple[Callable[..., Judge], tuple[str, ...]]] = {
    "inspect": (inspect, ()),
    "open": (open_, ()),
    "validate": (validate, ()),
    **{f"cog {profile}": (cog, (profile,)) for profile in ("analysis", "fast", "archive", "visualization")},
    **{f"tiles {crs}": (tiles, (crs,)) for crs in ("own", "EPSG:4326", "EPSG:3857")},
}


def outcome(source: Path, step: str, folder: Path, log: Path) -> tuple[str, str]:
    """Do a step in `folder`, which is emptied first; return the outcome and its details."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    function, arguments = STEPS[step]
    before = log.stat().st_size
    try:
        judged = function(source, folder, *arguments)
    except GdalToolsError as error:
        ended, details = "refused", f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001 - any other error is the finding
        ended, details = "untyped", "".join(traceback.format_exception(error))[-_MOST_TEXT:]
    else:
        ended, details = "right", ""
    if printed := log.read_bytes()[before:].decode(errors="replace"):
        return "noise", printed
    if ended == "right":
        # GDAL's COG driver would decode a large PNG again for each block without a cache for all of it.
        with warnings.catch_warnings(), rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=1 << 30):
            warnings.simplefilter("ignore")
            differences = judged()
        if differences:
            return "different", "; ".join(differences)
    return ended, details


def main() -> None:
    """Do steps until standard input ends."""
    folder, log = Path(sys.argv[1]), Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    dask.config.set(num_workers=2)
    # Each time a warning is raised it is printed, unless Python or gdaltools ignores it.
    warnings.simplefilter("always", append=True)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question: dict[str, Any] = json.loads(line)
        ended, details = outcome(Path(question["path"]), question["step"], folder, log)
        print(json.dumps({"outcome": ended, "details": details[:_MOST_TEXT]}), file=answers, flush=True)


if __name__ == "__main__":
    main()
