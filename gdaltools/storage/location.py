"""Names of places in storage: what they mean, and which ones are refused.

>>> locate("abfs://bronze-rasters/2025/scene.tif").stem
'scene'
>>> blob("bronze-rasters", "../escape.tif")
Traceback (most recent call last):
    ...
gdaltools.errors.InvalidLocation: blob name '../escape.tif' climbs out of its container: name a blob inside it
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from gdaltools.errors import InvalidLocation

StrPath = str | os.PathLike[str]
Kind = Literal["local", "azure", "memory"]

# The last is how GDAL names a blob; MosaicJSON documents use it.
_SCHEMES = ("abfs://", "az://", "/vsiaz/")
_MEMORY = "memory://"
# Azure's rule for container names: 3-63 characters, lower case, no double or outer hyphen.
_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9](?:-?[a-z0-9])*\Z")
_MAX_BLOB_NAME = 1024
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/?/")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.+@-]{0,255}\Z")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class Location:
    """A place in storage.

    Attributes
    ----------
    container : str or None
        The container of a blob, or its counterpart in memory; None for a local path.
    name : str
        The blob's name in its container, or the absolute local path.
    path : Path or None
        The local file that holds the bytes; None if they are in Azure or in memory.
    etag : str or None
        The version to which the location is pinned, if any.
    memory : bool
        Whether the location is named ``memory://…``.
    variable : str or None
        The name of one raster in a file that holds several (netCDF).
    """

    container: str | None
    name: str
    path: Path | None
    etag: str | None = field(default=None, compare=False, repr=False)
    memory: bool = field(default=False, repr=False)
    variable: str | None = None

    def __str__(self) -> str:
        if self.container is None:
            return self.name
        return f"{'memory' if self.memory else 'abfs'}://{self.container}/{self.name}"

    @property
    def kind(self) -> Kind:
        """Where the bytes are."""
        if self.path is not None:
            return "local"
        return "memory" if self.memory else "azure"

    @property
    def in_azure(self) -> bool:
        """Whether the bytes come over the network."""
        return self.kind == "azure"

    @property
    def stem(self) -> str:
        """The last part of the name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def filename(self) -> str:
        """The last part of the name."""
        return PurePosixPath(self.name).name

    def child(self, name: str) -> Location:
        """Return the place called `name` below this one, which is taken as a folder or prefix."""
        if self.container is not None:
            whole = f"{self.name.rstrip('/')}/{name}" if self.name else name
            return _in_memory(self.container, whole) if self.memory else blob(self.container, whole)
        _check_name(name, "file name")
        return locate(Path(self.name) / name)

    @property
    def gdal_path(self) -> str:
        """The name by which GDAL opens a file or a blob, with `gdaltools.storage.gdal_options`.

        Raises
        ------
        InvalidLocation
            The location is in memory, where it has a name only inside `gdaltools.storage.gdal_name`.
        """
        if self.path is not None:
            return str(self.path)
        if self.memory:
            raise InvalidLocation(f"{self} is in memory: open it with gdaltools, or copy it to a file")
        return f"/vsiaz/{self.container}/{self.name}"


def locate(target: StrPath | Location, *, variable: str | None = None) -> Location:
    """Return the location that a path, an ``abfs://container/name`` or a ``memory://name/key`` URL means.

    Parameters
    ----------
    variable : str, optional
        The name of one raster in a netCDF file that holds several: letters, digits and ``_ - . + @``. A
        function that takes the location reads that raster.

    Raises
    ------
    InvalidLocation
        The URL has another scheme, or its container, blob name or variable is not allowed.
    """
    if variable is not None:
        if not _VARIABLE.match(variable):
            raise InvalidLocation(f"variable {variable!r}: use letters, digits and _ - . + @")
        return replace(locate(target), variable=variable)
    if isinstance(target, Location):
        return target
    text = os.fspath(target)
    if not text:
        raise InvalidLocation("an empty path names nothing: give a file or abfs://container/blob")
    for scheme in _SCHEMES:
        if text.startswith(scheme):
            container, _, name = text.removeprefix(scheme).partition("/")
            return blob(container, name)
    if text.startswith(_MEMORY):
        container, _, name = text.removeprefix(_MEMORY).partition("/")
        return _in_memory(container, name)
    if "\0" in text:
        raise InvalidLocation(f"path {text!r} holds a NUL character")
    path = Path(text).expanduser().absolute()
    # GDAL recognizes its own file systems by how a name begins, whatever is on the disk.
    if _URL.match(text) or str(path).lower().startswith("/vsi"):
        raise InvalidLocation(
            f"{text!r} is neither a local path nor abfs://container/blob: stage it to one of these first"
        )
    return Location(None, str(path), path)


def blob(container: str, name: str) -> Location:
    """Return the location of blob `name` in `container`, after checking both names.

    An empty name means the container itself.

    Raises
    ------
    InvalidLocation
        The container's name breaks Azure's rule, or the blob's name is absolute, climbs out ('..'), leaves
        its container by a link, is too long, or holds empty parts, backslashes or control characters.
    """
    check_container_name(container)
    if name:
        check_blob_name(name)
    root = os.environ.get("GDALTOOLS_BLOB_ROOT")
    if not root:
        return Location(container, name, None)
    folder = Path(root).expanduser().resolve() / container
    path = folder / name if name else folder
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidLocation(f"blob name {name!r} leaves its container by a link: name a blob inside it")
    return Location(container, name, path)


def _in_memory(container: str, name: str) -> Location:
    """Return the location of `name` in memory, where the rules for blobs hold as well."""
    check_container_name(container)
    if name:
        check_blob_name(name)
    return Location(container, name, None, memory=True)


def check_container_name(name: str) -> None:
    """Refuse a container name that Azure does not allow; raises `InvalidLocation`."""
    if not _CONTAINER.match(name):
        raise InvalidLocation(
            f"container name {name!r} is not allowed: "
            "use 3 to 63 lower-case letters, digits and single hyphens"
        )


def check_blob_name(name: str) -> None:
    """Refuse a blob name that is absolute, climbs out or is malformed; raises `InvalidLocation`."""
    _check_name(name, "blob name")


def _check_name(name: str, kind: str) -> None:
    parts = name.split("/")
    if name.startswith(("/", "\\")) or re.match(r"[a-zA-Z]:", name):
        raise InvalidLocation(f"{kind} {name!r} is absolute: name a blob inside its container")
    if ".." in parts:
        raise InvalidLocation(f"{kind} {name!r} climbs out of its container: name a blob inside it")
    if len(name) > _MAX_BLOB_NAME:
        raise InvalidLocation(f"{kind} of {len(name)} characters: Azure allows {_MAX_BLOB_NAME}")
    if "\\" in name or any(part.strip() in ("", ".") for part in parts) or _UNPRINTABLE.search(name):
        raise InvalidLocation(f"{kind} {name!r} holds an empty part, a backslash or a control character")
