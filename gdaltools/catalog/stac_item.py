"""One COG as a STAC item: its footprint, time, bands, size and checksum.

STAC 1.1 with the extensions projection 2.0, raster 1.1 and file 2.1 (github.com/stac-extensions). Items are
validated against STAC's own core schemas, which pystac bundles, without a network.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from gdaltools import storage
from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import crs_name
from gdaltools.geo.footprint import corner_bounds, geographic_bounds, geometry_of
from gdaltools.raster.dataset import nodata_of, numpy_dtypes, open_dataset, reading
from gdaltools.storage import Location, StrPath

if TYPE_CHECKING:
    import pystac
    from rasterio.io import DatasetReader

_MAX_ID = 128
# Multihash of sha2-256 (multiformats.io): code 0x12, length 0x20; the file extension requires its hex form.
_SHA256_MULTIHASH = "1220"
_HASH_CHUNK = 1 << 20
# The longer side of the overview that a band's statistics are computed from.
_STATISTICS_SIDE = 1024
# STAC raster extension 1.1, "data_type", where GDAL's name differs.
_DATA_TYPES = {"complex_int16": "cint16", "complex64": "cfloat32", "complex128": "cfloat64"}


def create_stac_item(
    cog: StrPath | Location,
    *,
    item_id: str | None = None,
    collection_id: str | None = None,
    collection_href: str = "../collection.json",
    acquired: datetime | None = None,
    properties: Mapping[str, Any] | None = None,
    asset_href: str | None = None,
) -> pystac.Item:
    """Return the STAC item of one COG, valid by STAC's own schema; nothing is written.

    Parameters
    ----------
    item_id : str, optional
        By default the COG's name without its suffix.
    collection_id, collection_href : str
        The item's collection, if any, and the link from the item to the collection's document.
    acquired : datetime, optional
        When the pixels were acquired; by default the file's TIFFTAG_DATETIME, else now.
    properties : mapping, optional
        More properties of the item.
    asset_href : str, optional
        The item's link to the COG; by default `cog` as passed.

    Returns
    -------
    pystac.Item
        The item, with statistics from an overview and the file's SHA-256.

    Raises
    ------
    InvalidParameter
        The id has no letter or digit, or a property makes the item invalid.
    UnsupportedRaster
        The COG has no CRS or no transform, or cannot be placed on Earth.
    SourceNotFound, CorruptRaster, StorageError
        The COG cannot be read.

    Examples
    --------
    >>> item = create_stac_item("scene.tif", item_id="scene-1", asset_href="./scene.tif")
    >>> item.id, item.assets["data"].href
    ('scene-1', './scene.tif')
    """
    import pystac
    from pystac.extensions.file import FileExtension
    from pystac.extensions.projection import ProjectionExtension
    from pystac.extensions.raster import RasterExtension

    location = storage.locate(cog)
    with open_dataset(location) as dataset:
        bbox = geographic_bounds(dataset, location)
        item = pystac.Item(
            id=clean_id(item_id or location.stem),
            geometry=geometry_of(bbox),
            bbox=list(bbox),
            datetime=acquired or _tiff_time(dataset) or datetime.now(UTC),
            properties=dict(properties or {}),
            collection=collection_id,
        )
        if collection_id is not None:
            item.add_link(pystac.Link(pystac.RelType.COLLECTION, collection_href, pystac.MediaType.JSON))
        item.add_asset("data", _asset(dataset, asset_href or str(cog)))
        projection = ProjectionExtension.ext(item, add_if_missing=True)
        projection.apply(
            code=_authority_code(dataset),
            wkt2=None if _authority_code(dataset) else dataset.crs.to_wkt(),
            bbox=list(corner_bounds(dataset)),
            shape=[dataset.height, dataset.width],
            transform=list(dataset.transform)[:6],
        )
        RasterExtension.ext(item.assets["data"], add_if_missing=True).bands = _bands(dataset, location)
    file = FileExtension.ext(item.assets["data"], add_if_missing=True)
    file.size, file.checksum = storage.stat(location).size, _checksum(location)
    validate_stac(item.to_dict(include_self_link=False, transform_hrefs=False))
    return item


def clean_id(text: str) -> str:
    """Return the id with only the characters that STAC recommends and that a file name may have.

    >>> clean_id("scene 1/ä.b")
    'scene-1-b'

    Raises
    ------
    InvalidParameter
        No character is left.
    """
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:_MAX_ID]
    if not cleaned:
        raise InvalidParameter(f"id {text!r} holds no letter or digit: give another")
    return cleaned


def validate_stac(document: dict[str, Any]) -> None:
    """Validate an item or collection against STAC's core schema.

    Raises
    ------
    InvalidParameter
        `document` breaks the schema: a property that the caller passed is not allowed.
    """
    import pystac
    from pystac.errors import STACValidationError
    from pystac.validation import JsonSchemaSTACValidator

    kind = pystac.STACObjectType.ITEM if document["type"] == "Feature" else pystac.STACObjectType.COLLECTION
    try:
        JsonSchemaSTACValidator().validate_core(document, kind, pystac.get_stac_version())
    except STACValidationError as error:
        raise InvalidParameter(f"{document.get('id')!r} would not be valid STAC: {error}") from error


def _asset(dataset: DatasetReader, href: str) -> pystac.Asset:
    import pystac

    names = [text or f"Band {number}" for number, text in enumerate(dataset.descriptions, start=1)]
    return pystac.Asset(
        href=href,
        media_type=storage.COG_TYPE,
        roles=["data"],
        extra_fields={
            "bands": [{"name": f"b{n}", "description": name} for n, name in enumerate(names, start=1)]
        },
    )


def _authority_code(dataset: DatasetReader) -> str | None:
    name = crs_name(dataset.crs)
    return name if re.fullmatch(r"[A-Za-z_]+:[A-Za-z0-9_.]+", name) else None


def _bands(dataset: DatasetReader, location: Location) -> list[Any]:
    from pystac.extensions.raster import NoDataStrings, RasterBand, Sampling, Statistics
    from rasterio.windows import Window

    point = dataset.tags().get("AREA_OR_POINT", "Area") == "Point"
    scale = max(dataset.width, dataset.height) / _STATISTICS_SIDE
    shape = tuple(max(1, math.ceil(side / max(scale, 1))) for side in (dataset.height, dataset.width))
    bands = []
    for index, kind in zip(dataset.indexes, numpy_dtypes(dataset), strict=True):
        with reading(location, Window(0, 0, dataset.width, dataset.height)):
            values = dataset.read(index, out_shape=shape, masked=True)
        nodata = nodata_of(dataset, index)
        text = {"nan": NoDataStrings.NAN, "inf": NoDataStrings.INF, "-inf": NoDataStrings.NINF}
        band = RasterBand.create(
            data_type=_DATA_TYPES.get(dataset.dtypes[index - 1], dataset.dtypes[index - 1]),
            nodata=None if nodata is None else text.get(str(float(nodata)), nodata),
            sampling=Sampling.POINT if point else Sampling.AREA,
            unit=dataset.units[index - 1] or None,
            scale=_finite(dataset.scales[index - 1]),
            offset=_finite(dataset.offsets[index - 1]),
        )
        if np.dtype(kind).kind != "c" and (found := _statistics(values)):
            band.statistics = Statistics.create(**found)
        bands.append(band)
    return bands


def _statistics(values: Any) -> dict[str, float]:
    valid = values.compressed().astype("float64")
    valid = valid[np.isfinite(valid)]
    share = {"valid_percent": 100.0 * valid.size / values.size}
    if not valid.size:
        return share
    return share | {
        "minimum": float(valid.min()),
        "maximum": float(valid.max()),
        "mean": float(valid.mean()),
        "stddev": float(valid.std()),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _tiff_time(dataset: DatasetReader) -> datetime | None:
    """Return the file's DateTime (TIFF 6.0: ``YYYY:MM:DD HH:MM:SS``), taken as UTC; None if there is none."""
    try:
        return datetime.strptime(dataset.tags().get("TIFFTAG_DATETIME", ""), "%Y:%m:%d %H:%M:%S").replace(
            tzinfo=UTC
        )
    except ValueError:
        return None


def _checksum(location: Location) -> str:
    digest = hashlib.sha256()
    with storage.opening(location) as stream:
        while chunk := stream.read(_HASH_CHUNK):
            digest.update(chunk)
    return _SHA256_MULTIHASH + digest.hexdigest()
