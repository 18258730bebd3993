"""Blobs in the making, whose blocks wait where the blob will be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from gdaltools.runtime import crash_points, interruption
from gdaltools.storage.azure.block_blob import UncommittedBlob
from gdaltools.storage.location import Location, StrPath, locate
from gdaltools.storage.store import BlobTraits
from gdaltools.storage.writing import check_target


@dataclass
class BlobAssembly:
    """A blob in the making, and of which of its blocks it is to be made."""

    blob: UncommittedBlob
    blocks: list[str] = field(default_factory=list)
    size: int = 0

    def order(self, parts: Sequence[tuple[str, int, int]]) -> None:
        """Make the blob of the bytes (what, offset, length) that were staged, one after the other.

        Raises
        ------
        StorageError
            Some of them are not there any more.
        """
        self.blocks = self.blob.order(parts)
        self.size = sum(length for _, _, length in parts)


def takes_blocks(target: Location) -> bool:
    """Whether blocks can wait where the target will be, as they can in Azure."""
    return target.in_azure


@contextmanager
def uncommitted(
    target: StrPath | Location, traits: BlobTraits, *, overwrite: bool = False
) -> Iterator[BlobAssembly]:
    """A blob put together of blocks, by any processes; it appears when the ``with`` ends without an error.

    Otherwise as `writing`; what is left of a run that died is invisible, and Azure drops it after a week.

    Raises
    ------
    TargetExists
        The target exists and `overwrite` is False.
    StorageError
        The target cannot be written.
    """
    location = locate(target)
    check_target(location, overwrite=overwrite)
    made = BlobAssembly(UncommittedBlob(str(location.container), location.name))
    yield made
    interruption.check()
    crash_points.reach("blob-before-publish")
    made.blob.commit(made.blocks, made.size, traits, overwrite=overwrite)
    crash_points.reach("blob-published")
