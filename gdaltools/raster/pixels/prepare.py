"""Bring a raster's bytes to where they are read fastest, before the first window is read.

A plan decides how: `is_worth_staging` and `StoredBlocks.is_worth_decoding_first` give the reasons.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from gdaltools.raster.pixels.decoded import decoded
from gdaltools.raster.pixels.source import Source
from gdaltools.raster.pixels.streamed import StreamedSource, file_parts
from gdaltools.runtime.scratch import scratch_folder
from gdaltools.storage import Location
from gdaltools.storage.staging import staged_copy, streamed_copy


@runtime_checkable
class FileSource(Source, Protocol):
    """A source whose pixels come from one file."""

    @property
    def location(self) -> Location:
        """The file that is read."""

    @property
    def masked(self) -> bool:
        """Whether the file's mask is read as well."""

    def at(self, location: Location) -> Self:
        """Return the same source with its bytes at `location`."""


@dataclass(frozen=True)
class PreparedFile:
    """Where a raster is read, and a function that makes a source wait for blocks that are still missing."""

    location: Location
    waiting: Callable[[Source], Source] = lambda source: source


@contextmanager
def prepared(
    location: Location,
    *,
    staged: bool,
    streams: bool = False,
    decode_first: int | None = None,
    masked: bool = False,
) -> Iterator[PreparedFile]:
    """Yield the raster where it is read; local copies of it last as long as the block.

    Parameters
    ----------
    staged : bool
        Copy the file from Azure to the local disk.
    streams : bool
        With `staged`: begin to read a TIFF while the copy is being made.
    decode_first : int, optional
        Decode the raster, and its mask if `masked`, into a scratch file with blocks of this side, in pixels.

    Raises
    ------
    CorruptRaster, SourceChanged, SourceNotFound, StorageError
        The file cannot be downloaded or decoded, or the scratch disk is full.
    """
    parts = file_parts(location) if staged and streams and decode_first is None else None
    with ExitStack() as resources:
        if parts is not None:
            copy, wait = resources.enter_context(streamed_copy(location, first=parts.order()))
            wait(parts.rest)
            yield PreparedFile(copy, partial(StreamedSource, images=parts.images, wait=wait))
            return
        if staged:
            location = resources.enter_context(staged_copy(location))
        if decode_first is not None:
            folder = resources.enter_context(scratch_folder(Path(tempfile.gettempdir())))
            location = decoded(location, folder, decode_first, masked=masked)
        yield PreparedFile(location)
