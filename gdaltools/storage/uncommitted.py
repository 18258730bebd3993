"""Uncommitted blobs: their blocks are staged in Azure and not yet committed."""

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
    """An uncommitted blob, and those of its staged blocks that will form it."""

    blob: UncommittedBlob
    blocks: list[str] = field(default_factory=list)
    size: int = 0

    def order(self, parts: Sequence[tuple[str, int, int]]) -> None:
        """Form the blob of the staged bytes (what, offset, length), one after the other.

        Raises
        ------
        StorageError
            Some of them are no longer staged.
        """
        self.blocks = self.blob.order(parts)
        self.size = sum(length for _, _, length in parts)


def takes_blocks(target: Location) -> bool:
    """Return whether blocks can be staged for the target, as they can in Azure."""
    return target.in_azure


@contextmanager
def uncommitted(
    target: StrPath | Location, traits: BlobTraits, *, overwrite: bool = False
) -> Iterator[BlobAssembly]:
    """Assemble a blob from blocks that any process stages; it appears when the block ends without an error.

    Otherwise as `writing`. Staged blocks of a run that died are invisible, and Azure drops them after a week.

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
