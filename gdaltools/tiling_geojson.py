"""Tiling schemes as GeoJSON (protocol.md §5): a feature for each tile, the scheme itself in ``metadata``.

What is read is believed only where its tiles are those of its own grid: a document that was made by
something else, cut, or changed by hand is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gdaltools.crs import parse_crs
from gdaltools.errors import InvalidParameter
from gdaltools.tiling import Tile, TilingScheme

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


def decode(document: Mapping[str, Any] | str | bytes) -> TilingScheme:
    """The scheme of a FeatureCollection.

    Raises
    ------
    InvalidParameter
        It is not one that `encode` made.
    """
    content = _parsed(document) if isinstance(document, str | bytes) else document
    metadata = content.get("metadata") if isinstance(content, Mapping) else None
    if not isinstance(metadata, Mapping) or content.get("type") != "FeatureCollection":
        raise InvalidParameter("not a tiling scheme: a GeoJSON FeatureCollection with metadata is needed")
    if metadata.get("format") != FORMAT:
        raise InvalidParameter(
            f"a tiling scheme of another kind (format {str(metadata.get('format'))[:60]!r}, not {FORMAT!r}): "
            "generate it anew"
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
