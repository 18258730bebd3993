"""COGs in a SpatioTemporal Asset Catalog: an item for each, and the collection that holds them.

STAC 1.1 with the extensions projection 2.0, raster 1.1 and file 2.1. The catalog is self-contained: its links
are relative, so that it can be moved as a whole. The collection is written last: once it is there, all that it
links to is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import dask
from pydantic import BaseModel, ConfigDict

from gdaltools import graph, storage
from gdaltools.errors import GdalToolsError, InvalidParameter, UnsupportedRaster
from gdaltools.progress import ProgressOption, reporting
from gdaltools.storage import Location, StrPath

if TYPE_CHECKING:
    import pystac
    from rasterio.io import DatasetReader

Bounds = tuple[float, float, float, float]

_MAX_ID = 128
# Multihash of sha2-256 (multiformats.io): code 0x12, length 0x20; the file extension asks for its hex.
_SHA256_MULTIHASH = "1220"
_HASH_CHUNK = 1 << 20
# Side of the overview from which a band's statistics are taken.
_STATISTICS_SIDE = 1024
_GEOTIFF_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
# STAC raster extension 1.1, "data_type"; GDAL's names that differ from it.
_DATA_TYPES = {
    "complex_int16": "cint16",
    "complex64": "cfloat32",
    "complex128": "cfloat64",
}


class StacResult(BaseModel):
    """What was written.

    Attributes
    ----------
    location : str
        The collection's JSON.
    items : tuple of str
        The items' JSON, in the order of the COGs.
    failures : dict of str to str
        Why a COG has no item; only with ``on_error="skip"``.
    spatial_extent : tuple of 4 float
        left, bottom, right, top in EPSG:4326; left > right across the antimeridian.
    temporal_extent : tuple of 2 datetime
        First and last of the items' times.
    """

    model_config = ConfigDict(frozen=True)

    location: str
    collection_id: str
    item_ids: tuple[str, ...]
    items: tuple[str, ...]
    items_created: int
    items_failed: int
    failures: dict[str, str]
    spatial_extent: Bounds
    temporal_extent: tuple[datetime, datetime]
    mosaicjson: str | None

    def __str__(self) -> str:
        failed = f", {self.items_failed} COGs failed" if self.items_failed else ""
        return f"{self.location}: collection {self.collection_id!r} of {self.items_created} items{failed}"


def create_stac_item(
    cog: StrPath | Location,
    *,
    item_id: str | None = None,
    collection_id: str | None = None,
    acquired: datetime | None = None,
    properties: Mapping[str, Any] | None = None,
    asset_href: str | None = None,
) -> pystac.Item:
    """The STAC item of one COG.

    Parameters
    ----------
    item_id : str, optional
        By default the COG's name without its suffix.
    collection_id : str, optional
        The collection that it belongs to.
    acquired : datetime, optional
        When the pixels were taken; by default TIFFTAG_DATETIME of the file, else now.
    properties : mapping, optional
        More properties of the item.
    asset_href : str, optional
        How the item names the COG; by default as it was given.

    Returns
    -------
    pystac.Item
        Valid by STAC's own schema, with statistics from an overview and the file's SHA-256.

    Raises
    ------
    UnsupportedRaster
        The COG has no CRS.
    SourceNotFound, CorruptRaster, StorageError
        It cannot be read.
    """
    import pystac
    from pystac.extensions.file import FileExtension
    from pystac.extensions.projection import ProjectionExtension
    from pystac.extensions.raster import RasterExtension

    from gdaltools.dataset import open_dataset

    location = storage.locate(cog)
    with open_dataset(location) as dataset:
        geometry, bbox = _footprint(dataset, location)
        item = pystac.Item(
            id=_clean_id(item_id or location.stem),
            geometry=geometry,
            bbox=list(bbox),
            datetime=acquired or _tiff_time(dataset) or datetime.now(UTC),
            properties=dict(properties or {}),
            collection=collection_id,
        )
        item.add_asset("data", _asset(dataset, asset_href or str(cog)))
        projection = ProjectionExtension.ext(item, add_if_missing=True)
        projection.apply(
            code=_authority_code(dataset),
            wkt2=None if _authority_code(dataset) else _wkt2(dataset),
            bbox=list(dataset.bounds),
            shape=[dataset.height, dataset.width],
            transform=list(dataset.transform)[:6],
        )
        RasterExtension.ext(item.assets["data"], add_if_missing=True).bands = _bands(dataset, location)
    file = FileExtension.ext(item.assets["data"], add_if_missing=True)
    file.size, file.checksum = storage.stat(location).size, _checksum(location)
    validate_stac(item.to_dict(include_self_link=False, transform_hrefs=False))
    return item


def create_stac_collection(
    cogs: Sequence[StrPath | Location],
    dst: StrPath | Location,
    *,
    collection_id: str = "system-rasters",
    item_id_prefix: str = "",
    mosaicjson: StrPath | Location | None = None,
    title: str | None = None,
    description: str | None = None,
    license_id: str = "other",
    acquired: datetime | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    overwrite: bool = False,
    progress: ProgressOption = "auto",
) -> StacResult:
    """Write an item for each of `cogs` below the folder `dst`, and last ``collection.json``.

    An item's id is `item_id_prefix` and the COG's name without its suffix, so a second run makes the same ids.

    Parameters
    ----------
    mosaicjson : path, URL or Location, optional
        A mosaic of the same COGs, which becomes an asset of the collection.
    license_id : str
        SPDX identifier of the pixels' licence, or "other".
    acquired : datetime, optional
        As `create_stac_item` takes it, for every item.
    on_error : "raise" or "skip"
        Whether a COG that cannot be read ends the work, or is counted and told in the result.
    overwrite : bool
        Replace a collection that exists.

    Raises
    ------
    InvalidParameter
        There are no COGs, or an id is empty.
    TargetExists
        The collection exists and `overwrite` is False.
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        A COG cannot be read (also with "skip", if none can), or the target cannot be written.
    """
    if isinstance(cogs, (str, os.PathLike, Location)):
        raise InvalidParameter(f"cogs is the single name {str(cogs)!r}: give a list of names")
    if not cogs:
        raise InvalidParameter("a collection of no COGs holds nothing: give at least one")
    if on_error not in ("raise", "skip"):
        raise InvalidParameter(f"on_error {on_error!r} is unknown: use raise or skip")
    folder = storage.locate(dst)
    target = folder.child("collection.json")
    storage.check_target(target, overwrite=overwrite)
    sources = [storage.locate(cog) for cog in cogs]
    ids = _unique_ids(sources, item_id_prefix)
    tasks = [
        dask.delayed(_item_document, pure=False)(source, item_id, collection_id, folder, acquired, on_error)
        for source, item_id in zip(sources, ids, strict=True)
    ]
    with reporting(progress, label="stac", total=len(tasks), unit="items") as advance:
        made = graph.run(tasks, weights=[1] * len(tasks), advance=advance)
    failures = {str(s): found for s, found in zip(sources, made, strict=True) if isinstance(found, str)}
    documents = [found for found in made if not isinstance(found, str)]
    if not documents:
        raise UnsupportedRaster(f"no COG could be read, the first: {next(iter(failures.values()))}")
    for document in documents:
        # An earlier run that was killed may have left items; without their collection they count for nothing.
        storage.write_bytes(folder.child(_item_name(document["id"])), _json(document), overwrite=True)
    spatial, temporal = _extents(documents)
    collection = _collection(
        documents,
        spatial,
        temporal,
        collection_id=_clean_id(collection_id),
        title=title,
        description=description,
        license_id=license_id,
        mosaic=None if mosaicjson is None else _href(storage.locate(mosaicjson), target),
    )
    storage.write_bytes(target, _json(collection), overwrite=overwrite)
    return StacResult(
        location=str(target),
        collection_id=collection["id"],
        item_ids=tuple(document["id"] for document in documents),
        items=tuple(str(folder.child(_item_name(document["id"]))) for document in documents),
        items_created=len(documents),
        items_failed=len(failures),
        failures=failures,
        spatial_extent=spatial,
        temporal_extent=temporal,
        mosaicjson=None if mosaicjson is None else str(storage.locate(mosaicjson)),
    )
