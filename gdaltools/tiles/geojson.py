"""Tiling schemes as GeoJSON (protocol.md §5): a feature for each tile, the scheme itself in ``metadata``.

What is read is believed only where its tiles are those of its own grid: a document that was cut or
changed by hand is refused. One that another program made needs its raster to be understood.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from gdaltools.errors import InvalidParameter
from gdaltools.geo.crs import parse_crs
from gdaltools.storage import Location, StrPath
from gdaltools.tiles.adopted import adopt_tiling_scheme
from gdaltools.tiles.scheme import Tile, TilingScheme

FORMAT = "gdaltools-tiling-scheme/1"

_MAX_BYTES = 2 << 30
# What stands at the end of the first line that `lines` gives, and in the last.
_FEATURES, _TAIL = '"features": [', b"]}\n"


def encode(scheme: TilingScheme) -> dict[str, Any]:
    """The FeatureCollection of a scheme."""
    return {
        "type": "FeatureCollection",
        "metadata": _metadata(scheme),
        "features": [_feature(tile, scheme.grid.crs) for tile in scheme.tiles()],
    }


def lines(scheme: TilingScheme) -> Iterator[bytes]:
    """The FeatureCollection as UTF-8 text, a line for each feature, of which none is kept."""
    yield _head(scheme)
    for number, tile in enumerate(scheme.tiles(), start=1):
        feature = json.dumps(_feature(tile, scheme.grid.crs), allow_nan=False)
        yield f"{feature}{',' if number < len(scheme) else ''}\n".encode()
    yield _TAIL


def _head(scheme: TilingScheme) -> bytes:
    metadata = json.dumps(_metadata(scheme), allow_nan=False)
    return f'{{"type": "FeatureCollection", "metadata": {metadata}, {_FEATURES}\n'.encode()


def _metadata(scheme: TilingScheme) -> dict[str, Any]:
    return {"format": FORMAT, "scheme": scheme.model_dump(mode="json"), **scheme.facts()}


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
    if isinstance(document, bytes) and (scheme := _by_lines(document)) is not None:
        return scheme
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
    scheme = _scheme(metadata)
    _check_features(scheme, content.get("features"))
    return scheme


def _by_lines(document: bytes) -> TilingScheme | None:
    """The scheme of a text that `lines` gave, one feature in memory at a time; None of any other text."""
    if len(document) > _MAX_BYTES:
        return None
    stream = io.BytesIO(document)
    head = stream.readline()
    try:
        metadata = json.loads(head + _TAIL).get("metadata")
    except (ValueError, RecursionError, AttributeError):
        return None
    if not head.rstrip().endswith(_FEATURES.encode()) or not isinstance(metadata, Mapping):
        return None
    if metadata.get("format") != FORMAT:
        return None
    scheme = _scheme(metadata)
    check = _FeatureCheck(scheme)
    for line in stream:
        if line == _TAIL:
            break
        try:
            check(json.loads(line.rstrip().removesuffix(b",")))
        except (ValueError, RecursionError) as error:
            raise InvalidParameter(f"not a tiling scheme: not JSON ({str(error)[:80]})") from error
    check.finish()
    return scheme


def _scheme(metadata: Mapping[str, Any]) -> TilingScheme:
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
    check = _FeatureCheck(scheme)
    for feature in features if isinstance(features, list) else ():
        check(feature)
    check.finish()


class _FeatureCheck:
    """Refuses features that are not the tiles of the scheme, in their order."""

    def __init__(self, scheme: TilingScheme) -> None:
        self._scheme = scheme
        self._columns = [scheme.window(0, col) for col in range(scheme.cols)]
        self._rows = [scheme.window(row, 0) for row in range(scheme.rows)]
        self._seen = 0

    def __call__(self, feature: object) -> None:
        """Look at the next one."""
        row, col = divmod(self._seen, self._scheme.cols)
        self._seen += 1
        if self._seen > len(self._scheme):
            return
        properties = feature.get("properties") if isinstance(feature, Mapping) else None
        if (
            not isinstance(properties, Mapping)
            or properties.get("tile_id") != f"tile_{row}_{col}"
            or properties.get("pixel_window")
            != {
                "col_off": self._columns[col].col_off,
                "row_off": self._rows[row].row_off,
                "width": self._columns[col].width,
                "height": self._rows[row].height,
            }
        ):
            raise InvalidParameter(
                f"a damaged tiling scheme: feature {self._seen - 1} is not tile_{row}_{col} of its grid"
            )

    def finish(self) -> None:
        """Refuse what has too few or too many."""
        if self._seen != len(self._scheme):
            raise InvalidParameter(
                f"a damaged tiling scheme: {self._seen} features for {len(self._scheme)} tiles"
            )
