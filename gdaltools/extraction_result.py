"""What an extraction wrote, and what it found written: the values that `extract_tiles` answers with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class ExtractedTile(BaseModel):
    """One tile in its place: where, how many bytes with which ETag, and its (bands, rows, cols).

    Attributes
    ----------
    resumed : bool
        Whether an earlier run wrote it, and this one found it whole.
    started, finished : float
        Seconds since 1970; of a resumed tile both are when it was looked at.
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


class ExtractionResult(BaseModel):
    """What `extract_tiles` wrote.

    Attributes
    ----------
    tiles : tuple of ExtractedTile
        In the scheme's order, or that of `tiles`.
    tiles_resumed : int
        How many of them an earlier run had written.
    skipped : tuple of str
        Ids of tiles that hold no data, and were not written as that was asked for.
    cogs : bool
        Whether the tiles are COGs.
    warped : bool
        Whether pixels were resampled, by `resampling`.
    seconds : float
        From the first tile's start to the last one's end, resumed ones left out.
    facts : dict
        The scheme's (`TilingScheme.facts`).
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
    facts: dict[str, Any]

    def __str__(self) -> str:
        how = f"warped ({self.resampling})" if self.warped else "cut out, not resampled"
        kept = f", {self.tiles_resumed} of them by an earlier run" if self.tiles_resumed else ""
        empty = f", {len(self.skipped)} without data left out" if self.skipped else ""
        grid = self.facts["grid"]
        head = (
            f"{len(self.tiles)} {'COGs' if self.cogs else 'tiles'} of up to {grid['tile_size_pixels']} "
            f"pixels that share {grid['overlap_pixels']}, {how}, {self.total_bytes / 1e6:,.1f} MB, "
            f"{self.seconds:.1f} s{kept}{empty}"
        )
        return "\n".join([head, *(f"  {t.location}  {t.shape[2]} x {t.shape[1]}" for t in self.tiles)])
