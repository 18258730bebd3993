"""Write COGs of many rasters: several at a time, resumable, and no bad file stops the others.

Small rasters, which take one thread a few seconds, run concurrently, each on its own thread. Larger ones
follow, one at a time, each on all threads. The memory bounds of the running plans together stay within the
allowed memory. A journal beside the COGs (`gdaltools.cog.batch.journal`) records which COG was written from
which source.

>>> result = create_cogs("*.tif", "cogs/", progress=False)
>>> len(result.made), bool(result)
(1, True)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack, cast, get_args

from gdaltools import storage
from gdaltools.cog.batch.budget import free_bytes
from gdaltools.cog.batch.journal import CogJournal, Origin, parameters_hash
from gdaltools.cog.batch.pairs import Pair, Sources, folder_of, pairs
from gdaltools.cog.batch.result import BatchedCog, CogsResult
from gdaltools.cog.batch.run import BatchRun, CogOutcome, Waiting, failed
from gdaltools.cog.encode.profiles import choose_profile
from gdaltools.cog.options import CogKeywords, CogOptions, Overviews, spelled_out
from gdaltools.display.progress import ProgressOption
from gdaltools.display.reporting import reporting
from gdaltools.errors import GdalToolsError, InvalidParameter, SourceNotFound, TargetExists, one_of
from gdaltools.geo.crs import parse_crs
from gdaltools.geo.tms import tile_matrix_set
from gdaltools.raster.detect import RasterType
from gdaltools.storage import Location, Stat, StrPath

__all__ = ["CogsResult", "create_cogs"]

# Files that are checked concurrently: each check is a round trip to storage.
_LOOKS_AT_ONCE = 32
# The default share of the memory that is free when the run begins.
_MEMORY_SHARE = 0.5


@spelled_out(CogKeywords)
def create_cogs(
    sources: Sources,
    dst: StrPath | Location,
    profile: str = "analysis",
    *,
    reuse: bool = True,
    force: bool = False,
    overwrite: bool = False,
    files_at_once: int | None = None,
    memory_mb: float | None = None,
    progress: ProgressOption = "auto",
    **options: Unpack[CogKeywords],
) -> CogsResult:
    """Write each of `sources` as a COG below `dst`; each COG appears complete or not at all.

    A later run with the same parameters skips every COG that is complete and whose source is unchanged (same
    size and ETag). After an interruption, even by ``kill -9``, at most the files that were in progress are
    written again. A file that fails is listed in the result; the others are still written.

    Parameters
    ----------
    sources : path, URL, Location, or a sequence of them
        Strings may be patterns: ``'PREFIX/**/*.tif'``, ``'abfs://container/prefix/*.jp2'``. ``*`` and ``?``
        match characters within one part of a name, ``**/`` matches any folders.
    dst : path, URL or Location
        A folder, or a container or prefix. The path of a match below its pattern's fixed part is kept.
    profile : str
        What the COG is for: see `CogOptions`.
    **options : CogKeywords
        How it is encoded: the other fields of `CogOptions`.
    reuse : bool
        As for `create_cog`.
    force : bool
        Write complete COGs again, and replace existing files.
    overwrite : bool
        Replace existing files that this function did not write.
    files_at_once : int, optional
        The number of small files in progress at a time; by default one per core, or per thread of the
        cluster.
    memory_mb : float, optional
        The memory for all work together, in 10⁶ bytes; by default half of the free memory.
    progress : bool, "auto" or callable
        As in `gdaltools.display.progress`; the unit is a byte of the sources that are not skipped. An error
        that a callback raises ends the run.

    Raises
    ------
    InvalidParameter
        A parameter fits no raster at all, or two sources would get the same name; raised before any work.
    SourceNotFound
        A pattern matches nothing.
    StorageError
        A folder cannot be listed, or the journal cannot be read.

    Examples
    --------
    >>> result = create_cogs(["scene.tif"], "cogs/", "fast", progress=False)
    >>> [cog.location.rpartition("/")[2] for cog in result.made]
    ['scene.tif']
    >>> len(create_cogs(["scene.tif"], "cogs/", "fast", progress=False).skipped)
    1
    """
    began = time.perf_counter()
    requested = CogOptions(profile, **options)
    _check(requested)
    for name, value in (("files_at_once", files_at_once), ("memory_mb", memory_mb)):
        if value is not None and (isinstance(value, bool) or not value >= 1):
            raise InvalidParameter(f"{name} {value!r} is not a number of at least 1")
    folder = folder_of(dst)
    chosen = pairs(sources, folder)
    journal = CogJournal(folder)
    digest = parameters_hash(requested, reuse=reuse)
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        looked = list(
            pool.map(lambda pair: _look(pair, journal, digest, force=force, overwrite=overwrite), chosen)
        )
    waiting = [each for each in looked if isinstance(each, Waiting)]
    allowed = free_bytes() * _MEMORY_SHARE if memory_mb is None else memory_mb * 1e6
    run = BatchRun(requested, journal, reuse=reuse, files=len(waiting), allowed_bytes=int(allowed))
    total = sum(each.origin.size_bytes for each in waiting)
    with reporting(progress, label=run.label, total=total, unit="bytes") as advance:
        outcomes = run.outcomes(waiting, advance, files_at_once=files_at_once)
    outcomes += [each for each in looked if isinstance(each, CogOutcome)]
    return _result(folder, chosen, outcomes, seconds=time.perf_counter() - began)


def _check(options: CogOptions) -> None:
    """Raise for options that fit no raster, before thousands of files fail one by one."""
    for name in ("target_crs", "input_crs"):
        if getattr(options, name) is not None:
            parse_crs(getattr(options, name), name)
    one_of("overviews", options.overviews, get_args(Overviews))
    if options.tms is not None:
        tile_matrix_set(options.tms)
    _check_profile(options, ("float32",), otherwise=("uint8", "uint8", "uint8"))


def _check_profile(options: CogOptions, dtypes: tuple[str, ...], *, otherwise: tuple[str, ...] = ()) -> None:
    """Raise if the options fit neither `dtypes` nor `otherwise`; every codec holds one of the two."""
    raster_type = "multispectral" if options.raster_type == "auto" else options.raster_type
    try:
        choose_profile(options, cast(RasterType, raster_type), dtypes)
    except InvalidParameter:
        if not otherwise:
            raise
        _check_profile(options, otherwise)


def _look(
    pair: Pair, journal: CogJournal, digest: str, *, force: bool, overwrite: bool
) -> Waiting | CogOutcome:
    """Return an outcome if the COG already exists or cannot be written, otherwise the COG as waiting."""
    try:
        found = storage.stat(pair.source)
        origin = Origin(str(pair.source), found.size, found.etag, digest)
        there = _stat(pair.target)
    except GdalToolsError as error:
        return failed(pair, error)
    made = journal.last_built(pair.name)
    whole = made is not None and made.is_whole(there)
    if made is not None and there is not None and whole and made.origin == origin and not force:
        cog = BatchedCog(
            source=str(pair.source),
            location=str(pair.target),
            source_bytes=found.size,
            size_bytes=there.size,
        )
        return CogOutcome(pair.name, "skipped", cog)
    ours = whole or journal.is_running(pair.name)
    if there is not None and not (ours or force or overwrite):
        return failed(
            pair,
            TargetExists(
                f"{pair.target} exists and is not what an earlier run made: pass overwrite=True to replace it"
            ),
        )
    return Waiting(pair, origin, replaces=there is not None)


def _stat(target: Location) -> Stat | None:
    storage.check_target(target, overwrite=True)
    try:
        return storage.stat(target)
    except SourceNotFound:
        return None


def _result(
    folder: Location, chosen: Sequence[Pair], outcomes: Sequence[CogOutcome], *, seconds: float
) -> CogsResult:
    """Return the result, with all COGs in the order of the sources."""
    places = {pair.name: place for place, pair in enumerate(chosen)}
    found: dict[str, list[Any]] = {"made": [], "copied": [], "skipped": [], "failed": []}
    for outcome in sorted(outcomes, key=lambda each: places[each.name]):
        found[outcome.how].append(outcome.reported)
    return CogsResult(
        folder=str(folder),
        made=tuple(found["made"]),
        copied=tuple(found["copied"]),
        skipped=tuple(found["skipped"]),
        failed=tuple(found["failed"]),
        seconds=seconds,
    )
