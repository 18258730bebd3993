"""The manifest: which tiles of an extraction are finished, in one JSON document beside them, for resuming.

A tile is entered only after it is published, and the document is always replaced as a whole: whenever the
process ends, the manifest is correct or absent. A manifest that cannot be parsed, or that is of another
source or other parameters, is ignored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Set
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from gdaltools import storage
from gdaltools.errors import GdalToolsError, SourceNotFound
from gdaltools.runtime import crash_points
from gdaltools.storage import Location

# A write is followed by a pause of this many times its duration: writes take less than a tenth of the time.
_PAUSE = 10

log = logging.getLogger(__name__)


class FinishedTile(BaseModel):
    """A published tile: its file's name, size and ETag, and its shape (bands, rows, cols)."""

    model_config = ConfigDict(frozen=True)

    tile_id: str
    name: str
    size_bytes: int
    etag: str
    shape: tuple[int, int, int]

    def is_whole(self, target: Location) -> bool:
        """Return whether the file at `target` is still this tile, by name, size and ETag.

        Raises
        ------
        StorageError
            Storage did not answer.
        """
        if target.filename != self.name:
            return False
        try:
            return storage.stat(target) == storage.Stat(self.size_bytes, self.etag)
        except SourceNotFound:
            return False


class TileManifest(BaseModel):
    """The source and parameters of an extraction, and its finished tiles.

    Attributes
    ----------
    source, source_size_bytes, source_etag
        The raster as it was when the run began.
    parameters_hash : str
        Hash of everything else that decides the tiles' names and bytes.
    skipped : tuple of str
        Ids of tiles that hold no data and were left out on request.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal["gdaltools-tile-manifest/1"] = "gdaltools-tile-manifest/1"
    source: str
    source_size_bytes: int
    source_etag: str
    parameters_hash: str
    tiles: tuple[FinishedTile, ...] = ()
    skipped: tuple[str, ...] = ()


def known_tiles(target: Location, run: TileManifest) -> TileManifest:
    """Return the manifest at `target` if its source and parameters are those of `run`, else `run` unchanged.

    Raises
    ------
    StorageError
        Storage did not answer.
    """
    try:
        content = storage.read_bytes(target)
    except SourceNotFound:
        return run
    try:
        found = TileManifest.model_validate_json(content)
    except ValidationError:
        log.warning("%s is ignored: it is no manifest that this version reads", target)
        return run
    said = found.model_copy(update={"tiles": (), "skipped": ()})
    if said != run:
        changed = [name for name in TileManifest.model_fields if getattr(said, name) != getattr(run, name)]
        log.info("%s is ignored: it is of another %s", target, " and ".join(changed))
        return run
    return found


class ManifestWriter:
    """Keeps the manifest at `target` up to date while tiles finish; when the block ends, it lists them all.

    Parameters
    ----------
    run : TileManifest
        The source and parameters of the tiles, without tiles.
    finished : mapping
        Tiles that are finished already, by id.
    skipped : set of str
        Ids of tiles that are known to hold no data.
    clock : callable
        Monotonic clock, in seconds.
    """

    def __init__(
        self,
        target: Location,
        run: TileManifest,
        finished: Mapping[str, FinishedTile],
        skipped: Set[str] = frozenset(),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._run = run
        self._finished = dict(finished)
        self._skipped = dict.fromkeys(sorted(skipped))
        self._clock = clock
        self._not_before = clock()
        self._behind = False

    def enter(self, tile: FinishedTile) -> None:
        """Add a published tile; only one thread at a time may call this.

        Raises
        ------
        StorageError
            The manifest cannot be written.
        """
        self._finished[tile.tile_id] = tile
        self._write_soon()

    def leave_out(self, tile_id: str) -> None:
        """Add a tile that holds no data; only one thread at a time may call this.

        Raises
        ------
        StorageError
            As in `enter`.
        """
        self._skipped[tile_id] = None
        self._write_soon()

    def catch_up(self) -> None:
        """Write what was added during a pause, if the pause is over; only one thread at a time may call this.

        Raises
        ------
        StorageError
            As in `enter`.
        """
        if self._behind and self._clock() >= self._not_before:
            self._write()

    def _write_soon(self) -> None:
        self._behind = True
        self.catch_up()

    def _write(self) -> None:
        began = self._clock()
        found = {"tiles": tuple(self._finished.values()), "skipped": tuple(self._skipped)}
        document = self._run.model_copy(update=found)
        storage.write_bytes(self._target, document.model_dump_json().encode(), overwrite=True)
        self._behind = False
        crash_points.reach("manifest-written")
        ended = self._clock()
        self._not_before = ended + _PAUSE * (ended - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._behind:
            return
        try:
            self._write()
        except GdalToolsError as problem:
            if error is None:
                raise
            log.warning("%s: the last tiles before the error are not in the manifest", problem)
