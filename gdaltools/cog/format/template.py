"""The TIFF tags of a COG, as GDAL writes them.

GDAL writes a GeoTIFF of one small block with the same codec and the same facts in memory, and its tags are
copied byte by byte: geokeys, nodata, metadata, photometric interpretation, JPEG tables and all others are
GDAL's own. `gdaltools.cog.format.layout` adds only the tags that depend on the image's size.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import rasterio
from pyproj import CRS as ProjCRS
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetWriter, MemoryFile
from rasterio.transform import Affine

from gdaltools.cog.encode.codec import Encoding
from gdaltools.errors import UnsupportedRaster
from gdaltools.geo.crs import SAME_METRES, distance_between
from gdaltools.raster import tiff
from gdaltools.raster.facts import Facts

_SIDE = 16
_BYTE, _DOUBLE = 1, 12
_GEO_KEYS, _GEO_DOUBLES, _EPOCH_KEY = 34735, 34736, 5120
_NORTH_UP = Affine(1, 0, 0, 0, -1, 0)
_XMP, _TIE_POINTS, _METADATA, _NODATA = 700, 33922, 42112, 42113
# rasterio writes an XML document as "domain=document", where GDAL expects only the document.
_NAMED_XML = re.compile(rb'(domain="(xml:[^"]+)"[^>]*>)\2=')
# Names of the domain COLOR_PROFILE that are GTiff's creation options too, unlike a PNG's name of its profile.
_COLOUR_OPTIONS = ("SOURCE_PRIMARIES_", "SOURCE_WHITEPOINT", "TIFFTAG_TRANSFER")
# Tags that depend on the image's size or on the offsets of its blocks.
_PLACED = frozenset(
    {
        tiff.NEW_SUBFILE_TYPE,
        tiff.IMAGE_WIDTH,
        tiff.IMAGE_LENGTH,
        tiff.STRIP_OFFSETS,
        tiff.ROWS_PER_STRIP,
        tiff.STRIP_COUNTS,
        tiff.TILE_WIDTH,
        tiff.TILE_LENGTH,
        tiff.TILE_OFFSETS,
        tiff.TILE_COUNTS,
    }
)
# Tags that GDAL writes only for the full resolution: texts, resolution, GeoTIFF (33550 ff.), RPCs, metadata.
_MAIN_ONLY = frozenset(
    {
        269,
        270,
        271,
        272,
        282,
        283,
        296,
        305,
        306,
        315,
        316,
        700,
        33432,
        33550,
        33922,
        34264,
        34735,
        34736,
        34737,
    }
    | {42112, 50844, 34675}
)


@dataclass(frozen=True)
class Tag:
    """One entry of an IFD; `data` holds its `count` values, little-endian."""

    code: int
    kind: int
    count: int
    data: bytes


@dataclass(frozen=True)
class Template:
    """The tags of a COG's images that do not depend on the images' size."""

    main: tuple[Tag, ...]
    overview: tuple[Tag, ...]
    mask: tuple[Tag, ...]


def template(facts: Facts, encoding: Encoding) -> Template:
    """Return the tags that GDAL writes for a raster with these `facts` and this `encoding`.

    Raises
    ------
    UnsupportedRaster
        GDAL cannot write such a raster.
    """
    try:
        content = _written(facts, encoding)
    except RasterioError as error:
        raise UnsupportedRaster(
            f"GDAL cannot write {facts.count} x {facts.dtype} as {encoding.profile.compression}: {error}"
        ) from error
    main, *others = _directories(content)
    main = tuple(_mended(tag, facts) for tag in main)
    if facts.epoch is not None:
        main = _with_epoch(main, facts.epoch)
    if facts.xmp is not None:
        packet = facts.xmp.encode()
        main = (*main, Tag(_XMP, _BYTE, len(packet), packet))
    return Template(
        main=main,
        overview=tuple(tag for tag in main if tag.code not in _MAIN_ONLY),
        mask=others[0] if others else (),
    )


def _with_epoch(tags: tuple[Tag, ...], epoch: float) -> tuple[Tag, ...]:
    """Return the tags with CoordinateEpochGeoKey, as GDAL writes it (GDAL RFC 81)."""
    by_code = {tag.code: tag for tag in tags}
    keys = by_code.get(_GEO_KEYS)
    if keys is None:
        return tags
    numbers = by_code.get(_GEO_DOUBLES, Tag(_GEO_DOUBLES, _DOUBLE, 0, b""))
    head = keys.data[:6] + struct.pack("<H", struct.unpack_from("<H", keys.data, 6)[0] + 1)
    entry = struct.pack("<4H", _EPOCH_KEY, _GEO_DOUBLES, 1, numbers.count)
    by_code[_GEO_KEYS] = replace(keys, count=keys.count + 4, data=head + keys.data[8:] + entry)
    data = numbers.data + struct.pack("<d", epoch)
    by_code[_GEO_DOUBLES] = replace(numbers, count=numbers.count + 1, data=data)
    return tuple(by_code[code] for code in sorted(by_code))


@lru_cache(maxsize=64)
def _read_back(crs_wkt: str) -> tuple[str, float] | None:
    """Return the name of the CRS that GDAL reads where it wrote this one, and the metres between them.

    None if it reads no CRS.
    """
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), MemoryFile() as memory:
        shape = {"width": 1, "height": 1, "count": 1, "dtype": "uint8"}
        with memory.open(driver="GTiff", crs=CRS.from_wkt(crs_wkt), transform=_NORTH_UP, **shape):
            pass
        with memory.open() as dataset:
            if dataset.crs is None:
                return None
            found = ProjCRS.from_wkt(dataset.crs.to_wkt())
    return str(found.name), distance_between(ProjCRS.from_wkt(crs_wkt), found)


def check_crs(crs_wkt: str | None) -> None:
    """Refuse a CRS that a GeoTIFF does not keep: its keys cannot express it, or GDAL reads another one.

    Raises
    ------
    UnsupportedRaster
        The CRS would be lost, for example that of a rotated pole, or coordinates would get another place on
        Earth, for example where it refers to a grid of shifts.
    """
    if not crs_wkt:
        return
    found = _read_back(crs_wkt)
    if found is not None and found[1] < SAME_METRES:
        return
    crs = ProjCRS.from_wkt(crs_wkt)
    method = crs.coordinate_operation.method_name if crs.coordinate_operation else crs.type_name
    become = (
        "the file would have none"
        if found is None
        else f"GDAL would read {found[0]!r}, "
        + ("another CRS" if math.isinf(found[1]) else f"up to {found[1]:.3g} m away")
    )
    raise UnsupportedRaster(
        f"a GeoTIFF cannot state the CRS {crs.name!r} ({method}), and {become}: "
        "pass a target_crs that it can, for example 'EPSG:4326'"
    )


def check_color_table(facts: Facts) -> None:
    """Refuse a colour table that GDAL writes as a ramp of greys, because the TIFF has more than two bands.

    Raises
    ------
    UnsupportedRaster
        The colours would be lost, for example those of a GIF of several pictures.
    """
    table = facts.colormap or {}
    if facts.count > 2 and any(colour[:3] != (value,) * 3 for value, colour in table.items()):
        raise UnsupportedRaster(
            f"a GeoTIFF holds a colour table for at most 2 bands, and the raster has one for {facts.count}: "
            "take its bands one by one (gdal_translate -b), or their colours (-expand rgb)"
        )


def _mended(tag: Tag, facts: Facts) -> Tag:
    """Return the tag as GDAL writes it into a copy, without the changes that rasterio and a new file make."""
    data = tag.data
    points, _ = facts.gcps
    if tag.code == _TIE_POINTS and tag.count == 6 * len(points):
        # GDAL 3.10 moves the points of a new file by a pixel where AREA_OR_POINT is Point: GeoTIFF counts
        # from the centre of the first pixel there, and GDAL from its corner.
        half = 0.5 if facts.domains.get("", {}).get("AREA_OR_POINT") == "Point" else 0.0
        numbers = [(point.col - half, point.row - half, 0.0, point.x, point.y, point.z) for point in points]
        return replace(tag, data=b"".join(struct.pack("<6d", *point) for point in numbers))
    if tag.code == _METADATA:
        data = _NAMED_XML.sub(rb"\1", data)
    if tag.code == _NODATA and facts.dtype in ("int64", "uint64") and facts.nodata is not None:
        data = b"%d\0" % int(facts.nodata)
    return replace(tag, count=len(data), data=data) if data != tag.data else tag


def _written(facts: Facts, encoding: Encoding) -> bytes:
    options = encoding.creation_options() | {"photometric": _photometric(facts, encoding)}
    options |= {
        name.lower(): text
        for name, text in facts.color_profile.items()
        if name == "SOURCE_ICC_PROFILE" or name.startswith(_COLOUR_OPTIONS)
    }
    if ColorInterp.alpha in facts.colorinterp:
        options["alpha"] = "YES"
    if facts.transform != Affine.identity():
        options["transform"] = facts.transform
    settings = {"GDAL_TIFF_INTERNAL_MASK": "YES", "GDAL_PAM_ENABLED": "NO", "GTIFF_WRITE_COG_WARNING": "NO"}
    with rasterio.Env(**settings), MemoryFile() as memory:
        with memory.open(
            driver="GTiff",
            width=_SIDE,
            height=_SIDE,
            count=facts.count,
            dtype=facts.dtype,
            crs=facts.crs,
            # rasterio passes a float, so that `_mended` writes 64-bit integers.
            nodata=0 if facts.nodata is not None and facts.dtype in ("int64", "uint64") else facts.nodata,
            tiled=True,
            blockxsize=_SIDE,
            blockysize=_SIDE,
            interleave=encoding.profile.interleave,
            **options,
        ) as dataset:
            _describe(dataset, facts, encoding)
            dataset.write(np.zeros((facts.count, _SIDE, _SIDE), facts.numpy_dtype))
            if facts.masked:
                dataset.write_mask(np.zeros((_SIDE, _SIDE), "uint8"))
        return bytes(memory.getbuffer())


def _photometric(facts: Facts, encoding: Encoding) -> str:
    if facts.colormap is not None:
        return "palette"
    if encoding.ycbcr:
        return "ycbcr"
    if facts.white_is_zero:
        return "miniswhite"
    return "rgb" if facts.colours else "minisblack"


def _describe(dataset: DatasetWriter, facts: Facts, encoding: Encoding) -> None:
    if facts.colormap is not None:
        dataset.write_colormap(1, dict(facts.colormap))
    elif not encoding.ycbcr:
        dataset.colorinterp = list(facts.colorinterp)
    if any(facts.descriptions):
        dataset.descriptions = list(facts.descriptions)
    if any(facts.units):
        dataset.units = [unit or "" for unit in facts.units]
    if any(scale != 1 for scale in facts.scales) or any(facts.offsets):
        dataset.scales, dataset.offsets = list(facts.scales), list(facts.offsets)
    for domain, tags in facts.domains.items():
        if tags:
            dataset.update_tags(ns=domain or None, **tags)
    for band, tags in enumerate(facts.band_tags, start=1):
        if tags:
            dataset.update_tags(band, **tags)
    for band, domains in enumerate(facts.band_domains, start=1):
        for domain, tags in domains.items():
            dataset.update_tags(band, ns=domain, **tags)
    points, crs_wkt = facts.gcps
    if points:
        copies = [GroundControlPoint(p.row, p.col, p.x, p.y, p.z, p.id, p.info) for p in points]
        dataset.gcps = copies, CRS.from_wkt(crs_wkt) if crs_wkt else CRS()
    if facts.rpcs is not None:
        dataset.rpcs = facts.rpcs


def _directories(content: bytes) -> list[tuple[Tag, ...]]:
    """Return the tags of each IFD of a classic little-endian TIFF that GDAL has just written."""
    (position,) = struct.unpack_from("<I", content, 4)
    found = []
    while position:
        (entries,) = struct.unpack_from("<H", content, position)
        tags = (_tag(content, position + 2 + 12 * entry) for entry in range(entries))
        found.append(tuple(tag for tag in tags if tag.code not in _PLACED))
        (position,) = struct.unpack_from("<I", content, position + 2 + 12 * entries)
    return found


def _tag(content: bytes, position: int) -> Tag:
    code, kind, count = struct.unpack_from("<HHI", content, position)
    length = count * tiff.TYPE_BYTES[kind]
    if length > 4:
        (place,) = struct.unpack_from("<I", content, position + 8)
    else:
        place = position + 8
    return Tag(code, kind, count, content[place : place + length])
