"""Write a COG from rows that the caller passes from top to bottom.

`gdaltools.cog.create` reads the pieces of one COG from a source. Here the caller reads a raster for many COGs
at a time and passes each COG its rows as they are read. Blocks, overviews and bytes are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gdaltools.cog.encode.adaptive import Policy
from gdaltools.cog.pieces.pyramid import Halo, PieceRecord, join_pieces, read_piece
from gdaltools.cog.pieces.sink import Sink
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.write.assemble import assemble
from gdaltools.geo.window import Span
from gdaltools.raster.pixels.source import Pixels, Valid, stacked


@dataclass(frozen=True)
class _Input:
    """The pixels of one piece, as the source of that piece."""

    pixels: Pixels
    valid: Valid | None
    name: str = "rows"

    def read(
        self, rows: Span, cols: Span, dtype: np.dtype[np.generic], *, planes: int
    ) -> tuple[Pixels, Valid | None]:
        return stacked(self.pixels, dtype, planes=planes), self.valid


class CogRows:
    """Encodes a COG's blocks from streamed rows, and its overviews as soon as their pixels are available.

    Memory holds only the rows that do not yet fill a piece, and for each level what the next level has not
    used yet.

    Parameters
    ----------
    plan : CogPlan
        A plan whose pieces are as wide as the image.
    sink : Sink
        Stores the blocks.
    policy : Policy
        The encoders of adaptive DEFLATE.
    """

    def __init__(self, plan: CogPlan, sink: Sink, policy: Policy) -> None:
        self._plan = plan
        self._sink = sink
        self._policy = policy
        self._work = plan.work(sink)
        self._records: list[PieceRecord] = []
        self._carries: list[dict[int, Halo]] = [{} for _ in plan.levels]
        self._built = [0] * len(plan.levels)
        self._pixels: list[Pixels] = []
        self._valid: list[Valid | None] = []

    def add(self, pixels: Pixels, valid: Valid | None) -> None:
        """Add the next rows, shape (bands, rows, cols), and their mask, (rows, cols), if the COG has one."""
        first = 0
        while first < pixels.shape[1]:
            piece = self._work.rows[0].span(self._built[0])
            missing = len(piece) - sum(part.shape[1] for part in self._pixels)
            some = slice(first, first + missing)
            self._pixels.append(pixels[:, some])
            self._valid.append(None if valid is None else valid[some])
            first += missing
            if first <= pixels.shape[1]:
                self._encode()
        if self._pixels:  # pending rows are copied, so that the caller's strip can be freed
            self._pixels = [_joined(self._pixels, axis=1).copy(order="K")]
            self._valid = [_joined_masks(self._valid)]

    def finish(self) -> None:
        """Write the file, after all rows have been added.

        Raises
        ------
        StorageError
            The file cannot be written.
        """
        levels = sorted(self._records, key=lambda record: (record.level, record.row))
        assemble(self._plan, levels, self._sink)

    def _encode(self) -> None:
        available = _Input(_joined(self._pixels, axis=1), _joined_masks(self._valid))
        self._pixels, self._valid = [], []
        self._keep(0, *read_piece(self._work, self._policy, available, 0, self._built[0], 0))
        for level in range(1, len(self._plan.levels)):
            self._rise(level)

    def _rise(self, level: int) -> None:
        """Build all pieces of a level that can be built, and drop the halos that no later piece needs."""
        down, across = self._work.steps(level - 1)
        below = self._carries[level - 1]
        count = self._work.rows[level].count
        while (row := self._built[level]) < count and down.around(row).stop <= self._built[level - 1]:
            children = [below[index] for index in down.children(row)]
            around = [below[index].strips for index in down.around(row)]
            joined = around if down.joined or across.joined else []
            self._keep(level, *join_pieces(self._work, self._policy, level, row, 0, children, joined))
            needed = down.around(row + 1).start if row + 1 < count else self._built[level - 1]
            for index in [index for index in below if index < needed]:
                del below[index]

    def _keep(self, level: int, record: PieceRecord, halo: Halo | None) -> None:
        if halo is not None:
            self._carries[level][self._built[level]] = halo
        self._records.append(record)
        self._built[level] += 1


def _joined(parts: Sequence[Pixels], *, axis: int) -> Pixels:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=axis)


def _joined_masks(parts: Sequence[Valid | None]) -> Valid | None:
    known = [part for part in parts if part is not None]
    return _joined(known, axis=0) if known else None
