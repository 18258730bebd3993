"""Results of `extract_tiles`: the tiles that it wrote, and those that it kept from an earlier run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from gdaltools.display import html
from gdaltools.raster.maps import OnMap
from gdaltools.raster.picture import file_name
from gdaltools.runtime.text import megabytes


class ExtractedTile(BaseModel):
    """A tile at its target: location, size in bytes, ETag, and shape (bands, rows, cols).

    Attributes
    ----------
    resumed : bool
        Whether an earlier run wrote the tile and this run found it intact.
    started, finished : float
        Seconds since 1970; for a resumed tile both are the time at which it was checked.
    """

    model_config = ConfigDict(frozen=True)

    tile_id: str
    location: str
    size_bytes: int
    etag: str
    shape: tuple[int, int, int]
    resumed: bool
    started: float
    finished: float


class ExtractionResult(OnMap, BaseModel):
    """The result of `extract_tiles`.

    Attributes
    ----------
    tiles : tuple of ExtractedTile
        Tiles in the scheme's order, or in the order of the `tiles` parameter.
    tiles_resumed : int
        Number of tiles that an earlier run had written.
    skipped : tuple of str
        Ids of tiles that hold no data and were left out on request.
    cogs : bool
        Whether the tiles are COGs.
    warped : bool
        Whether pixels were resampled, by `resampling`.
    seconds : float
        From the start of the first tile to the end of the last one, without resumed tiles.
    tile_size, overlap : int
        The largest side of a tile, and the pixels that neighbours share.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    tiles: tuple[ExtractedTile, ...]
    tiles_resumed: int
    skipped: tuple[str, ...] = ()
    total_bytes: int
    total_pixels: int
    seconds: float
    cogs: bool = False
    warped: bool
    resampling: str | None
    tile_size: int
    overlap: int

    def __str__(self) -> str:
        rows = self._rows()
        head = f"{rows['tiles']}, {rows['pixels']}, {self.total_bytes / 1e6:,.1f} MB, {self.seconds:.1f} s"
        kept = f", {self.tiles_resumed} of them by an earlier run" if self.tiles_resumed else ""
        empty = f", {len(self.skipped)} without data left out" if self.skipped else ""
        listed = (f"  {t.location}  {t.shape[2]} x {t.shape[1]}" for t in self.tiles)
        return "\n".join([head + kept + empty, *listed])

    def _rows(self) -> dict[str, str]:
        rows = {
            "source": self.source,
            "tiles": f"{len(self.tiles)} {'COGs' if self.cogs else 'tiles'} of up to "
            f"{self.tile_size} pixels that share {self.overlap}",
            "pixels": f"warped ({self.resampling})" if self.warped else "cut out, not resampled",
            "size": f"{megabytes(self.total_bytes)} for {self.total_pixels / 1e6:,.1f} Mpixels",
            "time": f"{self.seconds:.1f} s",
        }
        if self.tiles_resumed:
            rows["resumed"] = f"{self.tiles_resumed} tiles of an earlier run"
        if self.skipped:
            rows["empty"] = f"{len(self.skipped)} tiles without data were left out"
        return rows

    def _on_map(self) -> dict[str, Any]:
        return {"sources": [tile.location for tile in self.tiles]}

    def _about(self) -> str:
        return file_name(self.source)

    def _parts(self) -> Iterable[html.Html]:
        rows = (
            (t.tile_id, f"{t.shape[2]} x {t.shape[1]}", megabytes(t.size_bytes), t.location)
            for t in self.tiles[: html.MOST_ROWS]
        )
        yield html.details(
            f"{len(self.tiles)} files",
            html.table(("tile", "pixels", "size", "where"), rows, count=len(self.tiles)),
        )
