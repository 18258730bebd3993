"""Tiling schemes as GeoJSON (protocol.md §5): a feature for each tile, the scheme itself in ``metadata``.

What is read is believed only where its tiles are those of its own grid: a document that was cut or
changed by hand is refused. One that another program made needs its raster to be understood.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gdaltools.crs import parse_crs
from gdaltools.errors import InvalidParameter
from gdaltools.storage import Location, StrPath
from gdaltools.tiling import Tile, TilingScheme
from gdaltools.tiling_adopted import adopt_tiling_scheme

FORMAT = "gdaltools-tiling-scheme/1"

_MAX_BYTES = 2 << 30


def encode(scheme: TilingScheme) -> dict[str, Any]:
    """The FeatureCollection of a scheme."""
    return {
        "type": "FeatureCollection",
        "metadata": {"format": FORMAT, "scheme": scheme.model_dump(mode="json"), **scheme.facts()},
        "features": [_feature(tile, scheme.grid.crs) for tile in scheme.tiles()],
    }


def dumps(scheme: TilingScheme) -> bytes:
    """The FeatureCollection as UTF-8 text."""
    return json.dumps(encode(scheme), allow_nan=False).encode()


def decode(
    document: Mapping[str, Any] | str | bytes,
    raster: StrPath | Location | None = None,
    *,
    input_crs: str | None = None,
) -> TilingScheme:
    """The scheme of a FeatureCollection: one that `encode` made, or another program did for `raster`.

    Raises
    ------
    InvalidParameter
        It is neither.
    """
    content = _parsed(document) if isinstance(document, str | bytes) else document
    if not isinstance(content, Mapping) or content.get("type") != "FeatureCollection":
        raise InvalidParameter("not a tiling scheme: a GeoJSON FeatureCollection is needed")
    metadata = content.get("metadata")
    if not isinstance(metadata, Mapping):
        metadata = {}
    if metadata.get("format") != FORMAT:
        if raster is not None:
            return adopt_tiling_scheme(content, raster, input_crs=input_crs)
        raise InvalidParameter(
            f"a tiling scheme that another program made (format {str(metadata.get('format'))[:60]!r}): "
            "name the raster that it was made for, or generate it anew"
        )
    try:
        scheme = TilingScheme.model_validate(metadata.get("scheme"))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidParameter(f"a damaged tiling scheme: {where}: {first['msg']}") from error
    for grid in (scheme.grid, scheme.source_grid):
        parse_crs(grid.crs, "CRS of the tiling scheme")
        if grid.affine.determinant == 0:
            raise InvalidParameter("a damaged tiling scheme: its transform has no inverse")
    _check_features(scheme, content.get("features"))
    return scheme


def _parsed(document: str | bytes) -> Any:
    if len(document) > _MAX_BYTES:
        raise InvalidParameter(f"a tiling scheme of {len(document)} bytes: the limit is {_MAX_BYTES}")
    try:
        return json.loads(document)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"not a tiling scheme: not JSON ({str(error)[:80]})") from error


def _feature(tile: Tile, crs: str) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": tile.tile_id,
        "geometry": tile.geometry,
        "properties": {
            "tile_id": tile.tile_id,
            "row": tile.row,
            "col": tile.col,
            "pixel_window": tile.window.model_dump(),
            "bounds_4326": list(tile.bounds_4326),
            "target_width_pixels": tile.window.width,
            "target_height_pixels": tile.window.height,
            "crs_target": crs,
        },
    }


def _check_features(scheme: TilingScheme, features: object) -> None:
    if not isinstance(features, list) or len(features) != len(scheme):
        found = len(features) if isinstance(features, list) else "no"
        raise InvalidParameter(f"a damaged tiling scheme: {found} features for {len(scheme)} tiles")
    columns = [scheme.window(0, col) for col in range(scheme.cols)]
    rows = [scheme.window(row, 0) for row in range(scheme.rows)]
    for number, feature in enumerate(features):
        row, col = divmod(number, scheme.cols)
        properties = feature.get("properties") if isinstance(feature, Mapping) else None
        if (
            not isinstance(properties, Mapping)
            or properties.get("tile_id") != f"tile_{row}_{col}"
            or properties.get("pixel_window")
            != {
                "col_off": columns[col].col_off,
                "row_off": rows[row].row_off,
                "width": columns[col].width,
                "height": rows[row].height,
            }
        ):
            raise InvalidParameter(
                f"a damaged tiling scheme: feature {number} is not tile_{row}_{col} of its grid"
            )
