"""A blob that is read while it is brought near."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gdaltools.storage.azure import download
from gdaltools.storage.location import Location
from gdaltools.storage.reading import check_space, check_unchanged

#: Returns when these parts of the file, (first byte, byte behind the last), are there.
Wait = Callable[[Iterable[tuple[int, int]]], None]


@contextmanager
def streamed(source: Location, path: Path, *, first: Iterable[int]) -> Iterator[tuple[Location, Wait]]:
    """As `fetch` of a blob in Azure, but the block begins at once, with a file whose parts come one by one.

    What has not been waited for reads as zeros. When the block ends the file is whole, at `path`, and was
    compared with the blob; the location that is given is good inside the block alone.

    Parameters
    ----------
    first : iterable of int
        Places in the file, in the order in which they are wanted.

    Raises
    ------
    SourceChanged, StorageError
        As `fetch` does, at the latest when the block ends.
    """
    found = check_unchanged(source)
    check_space(source, found.size, path.parent)
    container = str(source.container)
    with download.streamed(
        container, source.name, path, etag=found.etag, size=found.size, first=first
    ) as file:
        yield replace(source, path=file.path, etag=None), file.wait
