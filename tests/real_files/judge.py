"""What differs between a raster and what was made of it, by GDAL's reads, PROJ and numpy alone.

Each function returns the differences as texts that begin with the field's name; an empty list is right.
Pixels, masks and all that a file states are compared with the source; GDAL's COG driver judges overviews and
lossy pixels only, so what it loses of a source is a difference all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyproj
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader, MemoryFile
from rio_cogeo.cogeo import cog_validate

from gdaltools.cog.encode.profiles import CogProfile
from tests.support.cogs.gdal import by_gdal, facts_told, levels_of

#: Metadata domains in which a driver describes its own file format.
_OF_THE_FORMAT = ("EXIF", "SUBDATASETS", "GEOLOCATION")
#: A TIFF has a colour profile, but no name for it.
_ONLY_IN_PNG = (("COLOR_PROFILE", "SOURCE_ICC_PROFILE_NAME"), ("COLOR_PROFILE", "PNG_GAMMA"))
# Pixels of a tile that are compared with those at their place, and of those that are not the source's own.
_MOST_PIXELS, _MOST_WARPED = 1_000_000, 4_000
# Source pixels around a warped pixel, beyond its own, that a kernel or GDAL's 1/8 pixel of error can reach.
_REACH = 2
_MOST_REACH = 12
_MERCATOR_ENDS = 85.05
# Of JPEG at the default quality: the mean difference of pixels, which noise makes large.
_MOST_LOSS = 12

_UNCOMPRESSED = {"compression": "NONE", "predictor": 1, "level": None, "max_z_error": 0.0}

Differences = list[str]


def facts(path: Path) -> dict[str, Any]:
    """Return everything that a file states of its pixels, by field."""
    found = dict(facts_told(path))
    with rasterio.open(path) as dataset:
        found["nodata"] = tuple(map(_number, _nodata(dataset)))
        found["dtypes"] = _in_one_dtype(dataset)
    if found["colorinterp"][0] == ColorInterp.undefined:  # a TIFF's first band is grey at least
        found["colorinterp"] = (ColorInterp.gray, *found["colorinterp"][1:])
    if ColorInterp.palette in found["colorinterp"]:
        # A TIFF has one table, for the first band, and in it a colour for each value.
        found["colorinterp"] = tuple(
            ColorInterp.undefined if band and shows == ColorInterp.palette else shows
            for band, shows in enumerate(found["colorinterp"])
        )
        full = dict.fromkeys(range(2 ** (8 * np.dtype(found["dtypes"][0]).itemsize)), (0, 0, 0, 255))
        found["colormap"] = full | (found["colormap"] or {})
    if not found["gcps"]:  # some formats have the dataset's CRS here too
        found["gcps_crs"] = None
    # By domain and name, so that a difference names them.
    found["tags"] = {
        f"{domain}:{name}": text
        for domain, tags in found["tags"].items()
        for name, text in tags.items()
        if domain not in _OF_THE_FORMAT and (domain, name) not in _ONLY_IN_PNG
    }
    found["tags"].setdefault(":AREA_OR_POINT", "Area")  # which is what a file means that does not say it
    return found


def compare(
    source: Mapping[str, Any], result: Mapping[str, Any], *, without: Iterable[str] = ()
) -> Differences:
    """Return the fields of `source` that are another in `result`."""
    return [
        f"{name}: {_shown(result.get(name), value)}"
        for name, value in source.items()
        if name not in without and not _same(name, value, result.get(name))
    ]


def judge_cog(source: Path, result: Path, profile: CogProfile, gdals: Path) -> Differences:
    """Judge a COG of `source`; `gdals` is where GDAL's COG of the same encoding is written."""
    lossy = profile.compression in ("JPEG", "WEBP")
    # JPEG changes values, so a nodata value becomes a mask.
    found = compare(facts(source), facts(result), without=("nodata", "masks") if lossy else ())
    with rasterio.open(source) as before, rasterio.open(result) as after:
        if lossy:
            there = before.dataset_mask()
            found += compare({"mask": there}, {"mask": after.dataset_mask()})
            apart = np.abs(before.read().astype(float) - after.read())[:, there != 0]
            if apart.size and apart.mean() > _MOST_LOSS:
                found.append(f"pixels: {apart.mean():.1f} from the source's on average")
        else:
            found += compare(_pixels(before), _pixels(after))
    valid, errors, warnings = cog_validate(str(result), strict=True, quiet=True)
    found += [f"validity: {text}" for text in (*errors, *warnings) if not valid]
    try:
        by_gdal(source, gdals, profile if lossy else profile.model_copy(update=_UNCOMPRESSED))
    except rasterio.errors.RasterioError:
        return found  # GDAL makes no COG of it
    expected, made = levels_of(gdals), levels_of(result)
    if len(expected) != len(made):
        return [*found, f"overviews: {len(made) - 1} instead of {len(expected) - 1}"]
    with rasterio.open(source) as dataset:
        kind, dtype = _kind_of_mask(dataset), np.dtype(made[0].pixels.dtype)
        palette = ColorInterp.palette in dataset.colorinterp
    if lossy and kind == "nodata":
        return found  # GDAL's JPEGs keep the value, which hides other pixels there
    # GDAL's overviews of 64-bit integers have no nodata value.
    masks = kind != "nodata" or dtype.name not in ("int64", "uint64")
    # Below a mask GDAL computes complex samples and palettes from the full resolution, else level by level.
    last = 1 if kind == "mask" and (palette or dtype.kind == "c") else len(made)
    for number, (theirs, ours) in list(enumerate(zip(expected, made, strict=True)))[not lossy : last + 1]:
        name = f"overview {number}" if number else "pixels"
        found += compare({name: theirs.pixels}, {name: ours.pixels})
        found += compare({f"mask of {name}": theirs.mask}, {f"mask of {name}": ours.mask}) if masks else []
    return found


def judge_info(source: Path, info: Any) -> Differences:
    """Judge what `gdaltools.inspect` says of `source`."""
    with rasterio.open(source) as dataset:
        points, _ = dataset.gcps
        expected = {
            "shape": (dataset.count, dataset.height, dataset.width),
            "dtypes": tuple(
                "complex64" if name.startswith("complex_int") else name for name in dataset.dtypes
            ),
            "crs": dataset.crs.to_wkt() if dataset.crs else None,
            "transform": tuple(dataset.transform)[:6],
            "nodata": tuple(map(_number, _nodata(dataset))),
            "mask": _kind_of_mask(dataset),
            "colorinterp": tuple(getattr(shows, "name", str(shows)) for shows in dataset.colorinterp),
            "colormap": facts_told(source)["colormap"],
            "descriptions": dataset.descriptions,
            "units": dataset.units,
            "scales": dataset.scales,
            "offsets": dataset.offsets,
            "tags": dataset.tags(),
            "blocks": tuple(dataset.block_shapes),
            "overviews": tuple(dataset.overviews(1)),
            "gcps": bool(points),
            "rpcs": dataset.rpcs is not None,
        }
    return compare(
        expected,
        {
            "shape": info.shape, "dtypes": info.dtypes, "crs": _wkt(info.crs), "transform": info.transform,
            "nodata": tuple(map(_number, info.nodata)), "mask": info.mask,
            "colorinterp": info.color_interpretation, "colormap": info.color_table,
            "descriptions": info.descriptions, "units": info.units, "scales": info.scales,
            "offsets": info.offsets, "tags": info.tags, "blocks": info.block_shapes,
            "overviews": info.overviews, "gcps": info.has_gcps, "rpcs": info.has_rpcs,
        },
    )  # fmt: skip


def judge_array(source: Path, array: Any, masked: Any) -> Differences:
    """Judge `gdaltools.open`'s arrays of `source`, as stored and with NaN for pixels without data."""
    with rasterio.open(source) as dataset:
        pixels = dataset.read()
        expected = {
            "pixels": pixels,
            "masked": np.where(_there(dataset), pixels, np.nan),
            "crs": dataset.crs.to_wkt() if dataset.crs else None,
            "transform": tuple(dataset.transform),
            "nodata": _number(_nodata(dataset)[0]),
        }
    found = {
        "pixels": array.values,
        "masked": masked.values,
        "crs": _wkt(array.rio.crs),
        "transform": tuple(array.rio.transform()),
        "nodata": _number(array.rio.nodata),
    }
    return compare(expected, found)


def judge_report(source: Path, report: Any) -> Differences:
    """Judge `gdaltools.validate_cog`'s verdict on `source` itself: valid only if rio-cogeo agrees.

    A COG of GDAL's is valid; in other files that rio-cogeo admits, a mask can be in the wrong place.
    """
    with rasterio.open(source) as dataset:
        tiff, levels = dataset.driver == "GTiff", tuple(dataset.overviews(1))
        gdals = dataset.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") == "COG"
    admitted = tiff and bool(cog_validate(str(source), strict=True, quiet=True)[0])
    valid = admitted and (gdals or report.valid)
    expected = {"valid": valid, "levels": levels if tiff else ()}
    return compare(expected, {"valid": report.valid, "levels": report.overview_levels})


def judge_tiles(source: Path, tiles: Iterable[Path], *, nearest: bool) -> Differences:
    """Judge tiles of `source` on its own grid, or warped: by the nearest pixel, or between its neighbours."""
    found: dict[str, None] = {}
    # Tiles hold pixels of another place: what locates or measures those of the whole source does not apply.
    without = {"shape", "transform", "gcps", "gcps_crs", "rpcs"}
    told = _without_statistics(facts(source))
    with rasterio.open(source) as dataset:
        pixels, masks = dataset.read(), _there(dataset)
        seen = _Seen(dataset)
        for path in tiles:
            with rasterio.open(path) as tile:
                own = _on_same_grid(tile, dataset)
                stated = _without_statistics(facts(path))
                # A warp adds a mask where nothing else could mark what lies outside the source.
                left_out = without if own else without | {"crs", "masks"}
                differences = compare(told, stated, without=left_out)
                seen.add(tile)
                differences += _judge_placed(dataset, pixels, masks, tile, exact=own, nearest=nearest or own)
            found |= dict.fromkeys(differences)
    return [*found, *seen.missing()]


def _judge_placed(
    source: DatasetReader,
    pixels: NDArray[Any],
    masks: NDArray[np.bool_],
    tile: DatasetReader,
    *,
    exact: bool,
    nearest: bool,
) -> Differences:
    """Compare a tile's pixels with those of the source at the same places on Earth."""
    most = _MOST_PIXELS if exact else _MOST_WARPED
    step = max(1, int((tile.width * tile.height / most) ** 0.5))
    rows, cols = (part.ravel() for part in np.mgrid[0 : tile.height : step, 0 : tile.width : step])
    made, marked = tile.read()[:, rows, cols], _there(tile).any(axis=0)[rows, cols]
    there = masks.any(axis=0)
    row, col = _places(tile, source, rows, cols)
    if exact:
        at = np.floor(row + 1e-6).astype(int), np.floor(col + 1e-6).astype(int)
        expected = {"pixels": pixels[:, *at], "mask": there[at]}
        return compare(expected, {"pixels": made, "mask": marked})
    beside = _places(tile, source, rows + 0.5, cols + 0.5)
    reach = _REACH + np.ceil(2 * np.hypot(beside[0] - row, beside[1] - col))
    judged = np.isfinite(row + col) & (reach <= _MOST_REACH)
    if not judged.any():
        return []
    row, col, made, marked = row[judged], col[judged], made[:, judged], marked[judged]
    around = range(-int(reach[judged].max()), int(reach[judged].max()) + 1)
    every, some = np.ones(row.shape, bool), np.zeros(row.shape, bool)
    low = np.full(made.shape, np.inf)
    high, alike = -low, np.zeros(made.shape, bool)
    for down in around:
        for across in around:
            y, x = np.floor(row + down), np.floor(col + across)
            inside = (y >= 0) & (y < source.height) & (x >= 0) & (x < source.width)
            y, x = np.where(inside, y, 0).astype(int), np.where(inside, x, 0).astype(int)
            held = inside & there[y, x]
            # Where single bands have no data GDAL's warp, and so ours, makes it the value beside nodata.
            every &= inside & masks[:, y, x].all(axis=0)
            some |= held
            value = pixels[:, y, x]
            alike |= (value == made) | ((value != value) & (made != made))
            real = np.where(held, value.real, np.nan).astype("float64")
            low, high = np.fmin(low, real), np.fmax(high, real)
    found = []
    if lost := int((every & ~marked).sum()):
        found.append(f"mask: {lost} of {len(row)} pixels amid data have none")
    if invented := int((~some & marked).sum()):
        found.append(f"mask: {invented} of {len(row)} pixels far from data have some")
    between = (low - 1e-4 <= made.real) & (made.real <= high + 1e-4)
    if strange := int((every & ~(alike if nearest else alike | between)).sum()):
        found.append(f"pixels: {strange} of {made.size} are not near those of the source at their place")
    return found


class _Seen:
    """Which pixels of a source, of a sample, are in a tile."""

    def __init__(self, source: DatasetReader) -> None:
        self._source = source
        step = max(1, int((source.width * source.height / _MOST_WARPED) ** 0.5))
        grid = np.mgrid[0 : source.height : step, 0 : source.width : step]
        self._rows, self._cols = (part.ravel() for part in grid)
        self._in_tile = np.zeros(self._rows.shape, bool)
        self._needed = ~self._in_tile

    def add(self, tile: DatasetReader) -> None:
        row, col = _places(self._source, tile, self._rows, self._cols)
        room = 1e-6 if tile.crs == self._source.crs else 0.5
        if tile.crs.to_epsg() == 3857:  # the map ends at a square
            x, y = self._source.transform * (self._cols + 0.5, self._rows + 0.5)
            _, latitude = _transformer(self._source.crs, CRS.from_epsg(4326)).transform(x, y)
            self._needed = np.abs(latitude) < _MERCATOR_ENDS
        self._in_tile |= (
            (-room <= row) & (row < tile.height + room) & (-room <= col) & (col < tile.width + room)
        )

    def missing(self) -> Differences:
        lost = int((self._needed & ~self._in_tile).sum())
        return [f"coverage: {lost} of {len(self._in_tile)} source pixels are in no tile"] if lost else []


def _places(
    of: DatasetReader, within: DatasetReader, rows: NDArray[Any], cols: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the fractional rows and columns in `within` of pixels of `of`, by their centres."""
    x, y = of.transform * (cols + 0.5, rows + 0.5)
    if of.crs != within.crs:
        x, y = _transformer(of.crs, within.crs).transform(x, y, errcheck=False)
    inverse = ~within.transform
    col, row = inverse * (x, y)
    if within.crs and within.crs.is_geographic and not (within.transform.b or within.transform.d):
        turn = abs(360 / within.transform.a)
        col = col - turn * np.floor(col / turn) if np.isfinite(turn) else col
        col = np.where(col >= turn - 1, np.where(col < within.width, col, col - turn), col)
    return np.asarray(row), np.asarray(col)


def _on_same_grid(tile: DatasetReader, source: DatasetReader) -> bool:
    """Return whether pixels are the source's own: not turned, flipped or in another CRS."""
    return bool(tile.crs == source.crs) and np.allclose(
        np.delete(tile.transform, [2, 5, 6, 7, 8]),
        np.delete(source.transform, [2, 5, 6, 7, 8]),
        rtol=1e-9,
        atol=0,
    )


def _transformer(source: CRS, target: CRS) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(_flat(source), _flat(target), always_xy=True)


def _flat(crs: CRS) -> pyproj.CRS:
    found = pyproj.CRS.from_wkt(crs.to_wkt())
    return found.sub_crs_list[0] if found.is_compound else found.to_2d()


def _wkt(crs: Any) -> str | None:
    return CRS.from_user_input(crs).to_wkt() if crs else None


def _pixels(dataset: DatasetReader) -> dict[str, NDArray[Any]]:
    return {"pixels": dataset.read(), "mask": dataset.read_masks()}


def _in_one_dtype(dataset: DatasetReader) -> tuple[str, ...]:
    """Return the bands' dtypes in a TIFF, which has one that holds them all."""
    names = set(dataset.dtypes)
    return dataset.dtypes if len(names) == 1 else (np.result_type(*names).name,) * dataset.count


def _nodata(dataset: DatasetReader) -> tuple[float | int | None, ...]:
    """Return the nodata values; those of 64-bit integers, which rasterio rounds, as GDAL writes them."""
    if not {"int64", "uint64"} & set(dataset.dtypes):
        return tuple(dataset.nodatavals)
    with MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(dataset, memory.name, driver="VRT")
        bands = ElementTree.fromstring(memory.read()).findall("VRTRasterBand")
    texts = [band.findtext("NoDataValue") for band in bands]
    return tuple(None if text is None else int(text) for text in texts)


def _number(value: Any) -> str:
    """Return a value as text, alike for each type of number, and for NaN."""
    value = value.item() if isinstance(value, np.generic) else value
    return repr(int(value) if value is not None and value == value and value % 1 == 0 else value)


def _kind_of_mask(dataset: DatasetReader) -> str:
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    kinds = {"alpha": "alpha", "nodata": "nodata", "per_dataset": "mask"}
    return next((kind for flag, kind in kinds.items() if flag in flags), "none")


def _there(dataset: DatasetReader) -> NDArray[np.bool_]:
    """Return where each band has data, shape (bands, rows, cols)."""
    masks = dataset.read_masks() != 0
    if _kind_of_mask(dataset) == "alpha":  # GDAL masks the other bands by it, and not itself
        masks[:] = dataset.dataset_mask() != 0
    return np.asarray(masks)


def _without_statistics(told: dict[str, Any]) -> dict[str, Any]:
    kept = [
        {space: {name: text for name, text in tags.items() if not name.startswith("STATISTICS_")}
         for space, tags in band.items()}
        for band in told["band_tags"]
    ]  # fmt: skip
    return told | {"band_tags": kept}


def _same(name: str, expected: Any, found: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return (
            isinstance(found, np.ndarray)
            and expected.shape == found.shape
            and np.array_equal(expected, found, equal_nan=expected.dtype.kind in "fc")
        )
    if name.endswith("crs") and expected and found:
        return expected == found or CRS.from_wkt(expected) == CRS.from_wkt(found)
    return bool(expected == found)


def _shown(found: Any, expected: Any) -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        names = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
        return ", ".join(f"{name} {found.get(name)!r} instead of {expected.get(name)!r}" for name in names)[
            :200
        ]
    if not isinstance(expected, np.ndarray) or getattr(found, "shape", None) != expected.shape:
        return " instead of ".join(
            f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else repr(value)[:150]
            for value in (found, expected)
        )
    apart = (found != expected) & ((found == found) | (expected == expected))
    place = tuple(map(int, np.argwhere(apart)[0])) if apart.any() else (0,) * apart.ndim
    return (
        f"{int(apart.sum())} of {apart.size} differ; {found[place]} instead of {expected[place]} at {place}"
    )
