"""A blob that is streamed: read while it is being downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gdaltools.storage.azure import download
from gdaltools.storage.location import Location
from gdaltools.storage.reading import check_space, check_unchanged

#: Returns when these parts of the file, (first byte, byte after the last), are available.
Wait = Callable[[Iterable[tuple[int, int]]], None]


@contextmanager
def streamed(source: Location, path: Path, *, first: Iterable[int]) -> Iterator[tuple[Location, Wait]]:
    """As `fetch` of a blob in Azure, but the block begins at once, with a file that is still downloading.

    Parts that have not been waited for read as zeros. When the block ends, the file is complete, at `path`,
    and has been compared with the blob. The yielded location is valid only inside the block.

    Parameters
    ----------
    first : iterable of int
        Offsets in the file, in the order in which they are needed.

    Raises
    ------
    SourceChanged, StorageError
        As for `fetch`, at the latest when the block ends.
    """
    found = check_unchanged(source)
    check_space(source, found.size, path.parent)
    container = str(source.container)
    with download.streamed(
        container, source.name, path, etag=found.etag, size=found.size, first=first
    ) as file:
        yield replace(source, path=file.path, etag=None), file.wait
