"""COGs in a SpatioTemporal Asset Catalog: one item for each, and the collection that holds them.

STAC 1.1 with the extensions projection 2.0, raster 1.1 and file 2.1. The catalog is self-contained: its links
are relative, so that it can be moved as a whole. The collection is written last: once it exists, so does
everything that it links to.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

import dask
from pydantic import BaseModel, ConfigDict

from gdaltools import storage
from gdaltools.catalog.stac_item import clean_id, create_stac_item, validate_stac
from gdaltools.display import html
from gdaltools.display.progress import ProgressOption
from gdaltools.display.reporting import reporting
from gdaltools.display.shown import Shown
from gdaltools.errors import GdalToolsError, InvalidParameter, UnsupportedRaster, one_of
from gdaltools.geo.crs import Bounds
from gdaltools.runtime import graph
from gdaltools.storage import Location, StrPath

__all__ = ["StacResult", "create_stac_collection", "create_stac_item"]


_COLLECTION = "collection.json"
_JSON = "application/json"
_GEOJSON = "application/geo+json"


class StacResult(Shown, BaseModel):
    """The collection and items that were written.

    Attributes
    ----------
    location : str
        The collection's JSON.
    items : tuple of str
        The items' JSON, in the order of the COGs.
    failures : dict of str to str
        Why a COG has no item, by location; only with ``on_error="skip"``.
    spatial_extent : tuple of 4 float
        left, bottom, right, top in EPSG:4326; left > right across the antimeridian.
    temporal_extent : tuple of 2 datetime
        The first and last of the items' times.
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

    def _rows(self) -> dict[str, str]:
        first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in self.temporal_extent)
        return {
            "location": self.location,
            "items": f"{self.items_created}" + (f", {self.items_failed} failed" if self.items_failed else ""),
            "space": ", ".join(f"{value:.6g}" for value in self.spatial_extent),
            "time": first if first == last else f"{first} to {last}",
        }

    def _about(self) -> str:
        return self.collection_id

    def _parts(self) -> Iterable[html.Html]:
        if self.failures:
            yield html.table(("failed", "why"), self.failures.items())


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
    """Write an item for each of `cogs` below the folder `dst`, and ``collection.json`` last.

    The collection appears only when all of its items exist. An item's id is `item_id_prefix` followed by the
    COG's name without its suffix, so that a second run creates the same ids.

    Parameters
    ----------
    mosaicjson : path, URL or Location, optional
        A mosaic of the same COGs, which becomes an asset of the collection.
    license_id : str
        SPDX identifier of the pixels' licence, or "other".
    acquired : datetime, optional
        As in `create_stac_item`, for every item.
    on_error : "raise" or "skip"
        Whether a COG that cannot be read ends the work, or is counted and reported in the result.
    overwrite : bool
        Replace an existing collection.

    Raises
    ------
    InvalidParameter
        There are no COGs, one is named twice, an id is empty, or `on_error` is unknown.
    TargetExists
        The collection exists and `overwrite` is False.
    SourceNotFound, UnsupportedRaster, CorruptRaster, StorageError
        A COG cannot be read (with "skip" only UnsupportedRaster, if none can), or the target cannot be
        written.

    Examples
    --------
    >>> create_stac_collection(["scene.tif"], "stac", progress=False).item_ids
    ('scene',)
    """
    if isinstance(cogs, (str, os.PathLike, Location)):
        raise InvalidParameter(f"cogs is the single name {str(cogs)!r}: give a list of names")
    if not cogs:
        raise InvalidParameter("a collection of no COGs holds nothing: give at least one")
    one_of("on_error", on_error, ("raise", "skip"))
    folder = storage.locate(dst)
    target = folder.child(_COLLECTION)
    storage.check_target(target, overwrite=overwrite)
    sources = [storage.locate(cog) for cog in cogs]
    ids = _unique_ids(sources, item_id_prefix)
    tasks = [
        dask.delayed(_item_document, pure=False)(source, item_id, collection_id, folder, acquired, on_error)
        for source, item_id in zip(sources, ids, strict=True)
    ]
    with reporting(progress, label="stac", total=len(tasks), unit="items") as advance:
        made = graph.run(tasks, ended=lambda *_: advance(1))
    failures = {str(s): found for s, found in zip(sources, made, strict=True) if isinstance(found, str)}
    documents = [found for found in made if not isinstance(found, str)]
    if not documents:
        raise UnsupportedRaster(f"no COG could be read, the first: {next(iter(failures.values()))}")
    for document in documents:
        # An earlier run that was killed may have left items; without a collection they are meaningless.
        storage.write_bytes(folder.child(_item_name(document["id"])), _json(document), overwrite=True)
    spatial, temporal = _extents(documents)
    collection = _collection(
        documents,
        spatial,
        temporal,
        collection_id=clean_id(collection_id),
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


def _item_document(
    source: Location,
    item_id: str,
    collection_id: str,
    folder: Location,
    acquired: datetime | None,
    on_error: str,
) -> dict[str, Any] | str:
    """Return an item's JSON with its links, or why there is none."""
    try:
        item = create_stac_item(
            source,
            item_id=item_id,
            collection_id=clean_id(collection_id),
            acquired=acquired,
            asset_href=_href(source, folder.child(_item_name(item_id))),
        )
    except GdalToolsError as error:
        if on_error == "raise":
            raise
        return f"{type(error).__name__}: {error}"
    document = item.to_dict(include_self_link=False, transform_hrefs=False)
    document["links"] = [
        {"rel": rel, "href": f"../{_COLLECTION}", "type": _JSON} for rel in ("root", "parent", "collection")
    ]
    validate_stac(document)
    return document


def _item_name(item_id: str) -> str:
    return f"items/{item_id}.json"


def _unique_ids(sources: Sequence[Location], prefix: str) -> list[str]:
    """Return an id for each source; sources of the same name are told apart by a hash of their location."""
    plain = [clean_id(f"{prefix}{source.stem}") for source in sources]
    ids = []
    for source, name in zip(sources, plain, strict=True):
        if plain.count(name) > 1:
            name = f"{name}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
        ids.append(name)
    if len(set(ids)) < len(ids):
        raise InvalidParameter("a COG is named twice: name each once")
    return ids


def _href(target: Location, document: Location) -> str:
    """Return the href of `target` in `document`: relative between files or in one container, else full."""
    if target.path is not None and document.path is not None:
        return posixpath.relpath(target.path.as_posix(), document.path.parent.as_posix())
    if (target.container, target.memory) != (document.container, document.memory):
        return str(target)
    return posixpath.relpath(target.name, posixpath.dirname(document.name) or ".")


def _extents(documents: Sequence[dict[str, Any]]) -> tuple[Bounds, tuple[datetime, datetime]]:
    boxes = [document["bbox"] for document in documents]
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    left, right = _around(list(zip(lefts, rights, strict=True)))
    spatial = (left, min(bottoms), right, max(tops))
    times = [datetime.fromisoformat(document["properties"]["datetime"]) for document in documents]
    return spatial, (min(times), max(times))


def _around(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the west and east of all spans of longitudes; west > east across the antimeridian.

    >>> _around([(10, 20), (15, 40)]), _around([(170, -175), (-178, -170)])
    ((10, 40), (170, -170))
    >>> _around([(170, -160), (-170, 175)])
    (-180.0, 180.0)
    """
    if all(west <= east for west, east in spans):
        return min(west for west, _ in spans), max(east for _, east in spans)
    # Longitudes are counted on eastwards from the first span; the result is all but the widest gap.
    counted = sorted((west, east if east >= west else east + 360) for west, east in spans)
    first, reached = counted[0]
    gaps = []
    for west, east in counted[1:]:
        gaps.append((west - reached, reached, west))
        reached = max(reached, east)
    gaps.append((first + 360 - reached, reached, first + 360))
    width, begin, end = max(gaps)
    if width <= 0:
        return -180.0, 180.0
    return (end - 360 if end > 180 else end), (begin - 360 if begin > 180 else begin)


def _collection(
    documents: Sequence[dict[str, Any]],
    spatial: Bounds,
    temporal: tuple[datetime, datetime],
    *,
    collection_id: str,
    title: str | None,
    description: str | None,
    license_id: str,
    mosaic: str | None,
) -> dict[str, Any]:
    import pystac

    collection = pystac.Collection(
        id=collection_id,
        title=title,
        description=description or f"{len(documents)} Cloud Optimized GeoTIFFs",
        extent=pystac.Extent(
            pystac.SpatialExtent([list(spatial)]), pystac.TemporalExtent([[temporal[0], temporal[1]]])
        ),
        license=license_id,
    )
    if mosaic is not None:
        collection.add_asset(
            "mosaic", pystac.Asset(href=mosaic, title="MosaicJSON", media_type=_JSON, roles=["mosaic"])
        )
    document = collection.to_dict(include_self_link=False, transform_hrefs=False)
    document["links"] = [{"rel": "root", "href": f"./{_COLLECTION}", "type": _JSON}] + [
        {"rel": "item", "href": f"./{_item_name(item['id'])}", "type": _GEOJSON} for item in documents
    ]
    validate_stac(document)
    return document


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, allow_nan=False).encode()
