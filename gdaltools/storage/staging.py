"""Whether a blob is brought to the local disk before it is read, or read from Azure window by window.

Bringing all of a blob takes less time than reading each of its bytes once by windows: requests are larger
and several at a time. Where a third or so of it is read, both take as long, in tiles and strips, compressed
or not (``python -m benchmarks.storage_reads``). So a blob of which more is read is brought near, if there is
space, and one of which less is read is left where it is. Another machine of a cluster would not see the copy.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gdaltools import storage
from gdaltools.runtime import graph
from gdaltools.runtime.scratch import scratch_folder
from gdaltools.storage import Location, Wait

#: The part of a raster from which on all of it is brought near.
ENOUGH = 0.35

# The part of the free space that a copy may take; the output may go to the same disk.
_SPACE_SHARE = 0.5


def is_worth_staging(location: Location, share: float) -> bool:
    """Whether to bring a raster near of which this share is going to be read."""
    if not location.in_azure or share < ENOUGH or graph.cluster_threads():
        return False
    return storage.stat(location).size < _SPACE_SHARE * shutil.disk_usage(tempfile.gettempdir()).free


@contextmanager
def streamed_copy(location: Location, *, first: Iterable[int]) -> Iterator[tuple[Location, Wait]]:
    """A raster of which all is read, on its way to the local disk, and how to wait for parts of it.

    Raises
    ------
    SourceChanged, StorageError
        As `gdaltools.storage.streamed` does.
    """
    with (
        scratch_folder(Path(tempfile.gettempdir())) as folder,
        storage.streamed(location, folder / location.filename, first=first) as (near, wait),
    ):
        yield near, wait


@contextmanager
def staged_copy(location: Location, *, share: float) -> Iterator[Location]:
    """The location, its bytes on the local disk for the length of the block where that is worth it.

    Raises
    ------
    SourceChanged, StorageError
        As `gdaltools.storage.fetch` does.
    """
    if not is_worth_staging(location, share):
        yield location
        return
    with scratch_folder(Path(tempfile.gettempdir())) as folder:
        yield storage.fetch(location, folder / location.filename)
