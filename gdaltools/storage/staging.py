"""Decide whether a blob is staged, that is copied to the local disk before it is read, or read in place.

Staging a whole blob takes less time than reading each of its bytes once by windows: its requests are larger
and run several at a time. If about a third of the blob is read, both take equally long, for tiles and strips,
compressed or not (``python -m benchmarks.storage_reads``). So a blob is staged if more of it is read and
there is space, and is read in place if less of it is read. Another machine of a cluster would not see the
copy.
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

#: A raster is staged if at least this share of it is read.
ENOUGH = 0.35

# The share of the free space that a copy may take; the output may go to the same disk.
_SPACE_SHARE = 0.5


def is_worth_staging(location: Location, share: float) -> bool:
    """Return whether to stage a raster of which `share` is going to be read."""
    if not location.in_azure or share < ENOUGH or graph.cluster_threads():
        return False
    return storage.stat(location).size < _SPACE_SHARE * shutil.disk_usage(tempfile.gettempdir()).free


@contextmanager
def streamed_copy(location: Location, *, first: Iterable[int]) -> Iterator[tuple[Location, Wait]]:
    """Yield a local copy of a raster while it is downloaded, and a function that waits for parts of it.

    For a raster of which all is read.

    Raises
    ------
    SourceChanged, StorageError
        As for `gdaltools.storage.streamed`.
    """
    with (
        scratch_folder(Path(tempfile.gettempdir())) as folder,
        storage.streamed(location, folder / location.filename, first=first) as (near, wait),
    ):
        yield near, wait


@contextmanager
def staged_copy(location: Location) -> Iterator[Location]:
    """Yield a local copy of a raster, which lasts until the block ends.

    Raises
    ------
    SourceChanged, StorageError
        As for `gdaltools.storage.fetch`.
    """
    with scratch_folder(Path(tempfile.gettempdir())) as folder:
        yield storage.fetch(location, folder / location.filename)
