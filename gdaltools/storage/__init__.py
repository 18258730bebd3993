"""Where bytes live: a local path, a blob ``abfs://container/name``, or memory ``memory://name/key``.

This is the one way to read and write, so no other module asks whether a raster is a file or a blob.
What is written appears under its name complete or not at all; readers never see a part of it.

``GDALTOOLS_BLOB_ROOT`` makes ``abfs://container/name`` mean the file ``container/name`` below that folder.
Without it blobs are Azure's, reached by its SDK, adlfs and GDAL's ``/vsiaz/`` with the same credentials.
``memory://`` is fsspec's own memory file system: it lasts as long as the process, and other libraries see it.

>>> _ = write_bytes("memory://notebook/a.txt", b"seen by this process alone", overwrite=True)
>>> read_range("memory://notebook/a.txt", 0, 4)
b'seen'
"""

from gdaltools.storage.azure.block_blob import MOST_BLOCKS, UncommittedBlob, Uploads
from gdaltools.storage.location import Location, StrPath, blob, check_blob_name, check_container_name, locate
from gdaltools.storage.reading import (
    Wait,
    check_unchanged,
    exists,
    fetch,
    filesystem,
    gdal_name,
    gdal_options,
    list_names,
    opening,
    pinned,
    read_bytes,
    read_range,
    stat,
    streamed,
    url,
)
from gdaltools.storage.store import BlobTraits, Stat
from gdaltools.storage.writing import (
    BlobAssembly,
    append_bytes,
    check_target,
    copy,
    delete,
    takes_blocks,
    uncommitted,
    write_bytes,
    writing,
)

#: The media type of a Cloud Optimized GeoTIFF (OGC 21-026 §11).
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"

__all__ = [
    "COG_TYPE",
    "MOST_BLOCKS",
    "BlobAssembly",
    "BlobTraits",
    "Location",
    "Stat",
    "StrPath",
    "UncommittedBlob",
    "Uploads",
    "Wait",
    "append_bytes",
    "blob",
    "check_blob_name",
    "check_container_name",
    "check_target",
    "check_unchanged",
    "copy",
    "delete",
    "exists",
    "fetch",
    "filesystem",
    "gdal_name",
    "gdal_options",
    "list_names",
    "locate",
    "opening",
    "pinned",
    "read_bytes",
    "read_range",
    "stat",
    "streamed",
    "takes_blocks",
    "uncommitted",
    "url",
    "write_bytes",
    "writing",
]
