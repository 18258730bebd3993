"""The `Store` of blobs in Azure."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote

from gdaltools.storage.azure import accounts, blobs, download, gdal
from gdaltools.storage.azure.block_blob import UncommittedBlob, put_file
from gdaltools.storage.location import Location
from gdaltools.storage.store import BlobTraits, Stat, Store


class AzureStore(Store):
    """A `Store` of blobs; a blob appears by a single request."""

    def stat(self, location: Location) -> Stat:
        """As `Store.stat`."""
        known = blobs.properties(*_place(location))
        return Stat(known.size, known.etag, known.modified)

    def open(self, location: Location, found: Stat) -> IO[bytes]:
        """As `Store.open`."""
        return blobs.open_stream(*_place(location), size=found.size, etag=found.etag)

    def list_names(self, prefix: Location, *, depth: int | None) -> list[str]:
        """As `Store.list_names`, at any depth."""
        return blobs.list_names(*_place(prefix))

    def fetch(self, location: Location, found: Stat, path: Path) -> None:
        """As `Store.fetch`: in ranges, several at a time."""
        download.fetch(*_place(location), path, etag=found.etag, size=found.size)

    def publish(self, path: Path, location: Location, traits: BlobTraits | None, *, overwrite: bool) -> None:
        """As `Store.publish`."""
        blob = UncommittedBlob(*_place(location))
        put_file(path, blob, traits or _traits(location), overwrite=overwrite)

    def append(self, location: Location, data: bytes) -> None:
        """As `Store.append`, to a blob that was created by appending."""
        blobs.append(*_place(location), data)

    def delete(self, location: Location) -> None:
        """As `Store.delete`."""
        blobs.delete(*_place(location))

    def url(self, location: Location) -> str:
        """As `Store.url`: ``https://…``."""
        container, name = _place(location)
        return f"{accounts.account_of(container).endpoint}/{container}/{quote(name)}"

    def filesystem(self, location: Location) -> Any:
        """As `Store.filesystem`: adlfs, whose names are ``container/blob``."""
        return accounts.filesystem(accounts.account_of(_place(location)[0]))

    def gdal_options(self, location: Location) -> dict[str, str]:
        """As `Store.gdal_options`."""
        return {
            **super().gdal_options(location),
            # Otherwise GDAL would use what it has read of an earlier version.
            "CPL_VSIL_CURL_NON_CACHED": location.gdal_path,
            "GDAL_INGESTED_BYTES_AT_OPEN": str(64 << 10),
            "CPL_VSIL_CURL_CHUNK_SIZE": str(256 << 10),
            "GDAL_HTTP_MAX_RETRY": "6",
            "GDAL_HTTP_RETRY_DELAY": "0.25",
            "GDAL_HTTP_CONNECTTIMEOUT": "10",
            "GDAL_HTTP_LOW_SPEED_TIME": "60",
            "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
            **gdal.gdal_options(accounts.account_of(_place(location)[0])),
        }


def _place(location: Location) -> tuple[str, str]:
    return cast(str, location.container), location.name


def _traits(location: Location) -> BlobTraits:
    if location.filename.lower().endswith((".tif", ".tiff")):
        return BlobTraits("image/tiff; application=geotiff")
    if location.filename.lower().endswith(".geojson"):
        return BlobTraits("application/geo+json")
    return BlobTraits(mimetypes.guess_type(location.filename)[0] or "application/octet-stream")
