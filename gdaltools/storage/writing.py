"""Write to storage of any kind; an object appears complete or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gdaltools.errors import InvalidParameter, TargetExists
from gdaltools.runtime import crash_points, interruption
from gdaltools.runtime.scratch import scratch_folder
from gdaltools.storage.azure.block_blob import UncommittedBlob, copy_blob
from gdaltools.storage.location import Location, StrPath, locate
from gdaltools.storage.reading import exists, fetch, pinned, stat, store_of
from gdaltools.storage.store import BlobTraits, Stat


def write_bytes(target: StrPath | Location, data: bytes, *, overwrite: bool = False) -> Location:
    """Store `data` under the target's name, complete or not at all."""
    with writing(target, overwrite=overwrite) as path:
        path.write_bytes(data)
    return locate(target)


@contextmanager
def writing(
    target: StrPath | Location, *, overwrite: bool = False, traits: BlobTraits | None = None
) -> Iterator[Path]:
    """Yield a local path to write to; its content becomes the target when the block ends without an error.

    The target appears complete or not at all, and not after an interruption. With ``overwrite=False`` an
    existing target is refused before the block, and one that appears meanwhile is refused after it; neither
    is replaced. Leftovers of killed processes are removed on the way. `traits` is for blobs in Azure; by
    default the content type follows from the name.

    Raises
    ------
    TargetExists
        The target exists and `overwrite` is False.
    StorageError
        The target cannot be written.
    KeyboardInterrupt
        The run was interrupted; the target is unchanged.
    """
    location = locate(target)
    check_target(location, overwrite=overwrite)
    store = store_of(location)
    with scratch_folder(store.scratch_place(location)) as folder:
        path = folder / location.filename
        yield path
        interruption.check()
        store.publish(path, location, traits, overwrite=overwrite)


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
    TargetExists, StorageError
        As for `writing`.
    """
    location = locate(target)
    check_target(location, overwrite=overwrite)
    made = BlobAssembly(UncommittedBlob(str(location.container), location.name))
    yield made
    interruption.check()
    crash_points.reach("blob-before-publish")
    made.blob.commit(made.blocks, made.size, traits, overwrite=overwrite)
    crash_points.reach("blob-published")


def append_bytes(target: StrPath | Location, data: bytes) -> Location:
    """Append `data`, at most 4 MB, to an object, in one step; the object is created if missing.

    Concurrent appends of other processes do not split it. Appended data survives the death of this process,
    though perhaps not that of the machine. A blob that was not created by appending cannot be appended to.

    Raises
    ------
    StorageError
        The target cannot be written.
    """
    location = locate(target)
    store_of(location).append(location, data)
    return location


def delete(target: StrPath | Location) -> None:
    """Delete a stored object; it is no error if there is none."""
    location = locate(target)
    store_of(location).delete(location)


def copy(source: StrPath | Location, target: StrPath | Location, *, overwrite: bool = False) -> Stat:
    """Copy a stored object, complete or not at all; Azure itself copies within an account if it can.

    Raises
    ------
    SourceNotFound, TargetExists, StorageError
        As for `stat` and `writing`.
    """
    origin, goal = pinned(source), locate(target)
    check_target(goal, overwrite=overwrite)
    if origin.in_azure and goal.in_azure:
        blob = UncommittedBlob(str(goal.container), goal.name)
        made = copy_blob((str(origin.container), origin.name), blob, overwrite=overwrite)
        return Stat(made.size, made.etag, made.modified)
    with writing(goal, overwrite=overwrite) as path:
        fetch(origin, path)
    return stat(goal)


def check_target(target: StrPath | Location, *, overwrite: bool) -> None:
    """Refuse a target that exists, before any work is spent on it.

    Raises
    ------
    TargetExists
        The target exists and `overwrite` is False.
    InvalidParameter
        The target is a folder.
    """
    location = locate(target)
    if location.path is not None and location.path.is_dir():
        raise InvalidParameter(f"{location} is a folder: name a file")
    if not overwrite and exists(location):
        raise TargetExists(f"{location} exists: pass overwrite=True to replace it")
