"""The two kinds of task that build a COG: for a piece of the full resolution, and for a piece of an overview.

Both encode the blocks of their piece and pass on what the next level needs: the part of the halved piece that
can be computed from the piece alone, and thin strips of its border for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdaltools.cog.encode.adaptive import Policy, Trial, try_block
from gdaltools.cog.encode.codec import BlockEncoder, Encoding, encode_mask_block, framed, predicted
from gdaltools.cog.format.layout import BLOCK_FRAME
from gdaltools.cog.overviews.axis import HalvingAxis
from gdaltools.cog.overviews.halving import Rule, halve, halve_planes
from gdaltools.cog.pieces.copied_blocks import CopiedSource, EncodedBlocks
from gdaltools.cog.pieces.geometry import LevelAxis, LevelStep
from gdaltools.cog.pieces.sink import Sink
from gdaltools.cog.pieces.statistics import Statistics, statistics_of
from gdaltools.geo.window import Span
from gdaltools.raster.pixels.nodata import comparable
from gdaltools.raster.pixels.source import Pixels, Source, Valid
from gdaltools.runtime.phases import phase

# A trial encodes this many bytes of a block, or a quarter of it if that is more. They represent the whole
# block, because DEFLATE's window is small in comparison.
_TRIAL_BYTES = 160 << 10


@dataclass(frozen=True)
class Patch:
    """The pixels of a part of a level, shape (planes, rows, cols, samples), and their mask, (rows, cols)."""

    rows: Span
    cols: Span
    pixels: Pixels
    valid: Valid | None

    def window(self, rows: Span, cols: Span) -> tuple[slice, slice]:
        """Return the slices of its arrays that hold these rows and columns of the level."""
        return (
            slice(rows.start - self.rows.start, rows.stop - self.rows.start),
            slice(cols.start - self.cols.start, cols.stop - self.cols.start),
        )

    def part(self, rows: Span, cols: Span) -> Patch:
        """Return a copy of a part of it, so that the rest can be freed."""
        window = self.window(rows, cols)
        return Patch(
            rows,
            cols,
            self.pixels[:, window[0], window[1]].copy(),
            None if self.valid is None else self.valid[window].copy(),
        )


@dataclass(frozen=True)
class Halo:
    """The output of a piece for the next level: the part that it completes, and strips of its own border."""

    half: Patch | None
    strips: tuple[Patch, ...]


@dataclass(frozen=True)
class PieceRecord:
    """The encoded blocks of a piece.

    Attributes
    ----------
    sizes : ndarray of uint32, shape (planes, block rows, block cols)
        The bytes of each block without its frame; 0 for one that is left out.
    mask_sizes : ndarray of uint32, shape (block rows, block cols), or None
        The bytes of each block of the mask.
    stored : bytes or None
        The blocks themselves, if the process that encoded them cannot reach the sink.
    """

    level: int
    row: int
    col: int
    sizes: NDArray[np.uint32]
    mask_sizes: NDArray[np.uint32] | None
    stored: bytes | None = None
    statistics: Statistics | None = None

    @property
    def name(self) -> str:
        """The name under which the blocks are stored."""
        return piece_name(self.level, self.row, self.col)

    def row_starts(self) -> NDArray[np.int64]:
        """Return where each row of blocks begins in the stored piece, and where the last one ends.

        The shape is (planes, block rows + 1). A mask that is not interleaved with the imagery counts as one
        more plane after the others.
        """
        sizes = _with_frames(self.sizes).sum(axis=2)
        if self.mask_sizes is not None:
            masks = _with_frames(self.mask_sizes).sum(axis=1)
            sizes = sizes + masks if len(sizes) == 1 else np.concatenate([sizes, masks[None]])
        ends = np.cumsum(sizes).reshape(sizes.shape)
        begins = ends[:, :1] - sizes[:, :1]
        return np.concatenate([begins, ends], axis=1)


def _with_frames(sizes: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.where(sizes > 0, sizes.astype(np.int64) + BLOCK_FRAME, 0)


def piece_name(level: int, row: int, col: int) -> str:
    """Return the name of a piece in the sink."""
    return f"level{level}-{row}-{col}"


@dataclass(frozen=True)
class Work:
    """What all tasks of a COG have in common.

    Attributes
    ----------
    rows, cols : tuple of LevelAxis
        The grid of pieces of every level.
    planes, bands_together : int
        1 and the number of bands if a block holds all bands; otherwise the reverse.
    sparse : bool
        Whether blocks without data are left out.
    kept : bool
        Whether the source has all levels itself, so that pieces pass nothing on.
    statistics : bool
        Whether statistics of the full-resolution pieces are computed.
    """

    encoding: Encoding
    rule: Rule
    rows: tuple[LevelAxis, ...]
    cols: tuple[LevelAxis, ...]
    planes: int
    bands_together: int
    dtype: np.dtype[Any]
    sparse: bool
    kept: bool
    statistics: bool
    sink: Sink

    def ends(self, record: PieceRecord) -> list[int]:
        """Return the offsets at which the file may separate the stored bytes of a piece, and their end."""
        starts = record.row_starts()
        ends = starts[:, -1] if self.cols[record.level].count == 1 else starts[:, 1:].ravel()
        return [int(end) for end in ends]

    def steps(self, level: int) -> tuple[LevelStep, LevelStep]:
        """Return the row and column axes of the step from `level` to the next."""
        return (
            LevelStep(self.rows[level], self.rows[level + 1], self.rule),
            LevelStep(self.cols[level], self.cols[level + 1], self.rule),
        )


def try_blocks(work: Work, source: Source, places: Iterable[tuple[int, int]]) -> list[Trial]:
    """Return trials of blocks (block row, block column) of the full resolution."""
    size = work.encoding.profile.blocksize
    height, width = work.rows[0].size, work.cols[0].size
    row_bytes = size * work.bands_together * work.dtype.itemsize
    tried = min(size, max(size // 4, _TRIAL_BYTES // row_bytes))
    trials = []
    for row, col in places:
        rows = Span(row * size, min(row * size + tried, height))
        across = Span(col * size, min((col + 1) * size, width))
        pixels, _ = source.read(rows, across, work.dtype, planes=work.planes)
        plane = pixels[row % work.planes]
        predictor = work.encoding.profile.predictor
        trials.append(try_block(predicted(plane, predictor), overview=False))
        if min(plane.shape[:2]) > 1 and len(work.rows) > 1:
            trials.append(try_block(predicted(_like_an_overview(work, plane), predictor), overview=True))
    return trials


def _like_an_overview(work: Work, plane: Pixels) -> Pixels:
    """Return the pixels at half size, regardless of their place in the raster."""
    height, width = (side // 2 for side in plane.shape[:2])
    rows, cols = (HalvingAxis(2 * side, side, Span(0, side), Span(0, 2 * side)) for side in (height, width))
    return halve(np.ascontiguousarray(plane[: 2 * height, : 2 * width]), None, rows, cols, work.rule)[0]


def read_piece(
    work: Work, policy: Policy, source: Source, level: int, row: int, col: int
) -> tuple[PieceRecord, Halo | None]:
    """Read a piece from the source, encode it, and return its record and its halo for the next level."""
    rows, cols = work.rows[level].span(row), work.cols[level].span(col)
    with phase("read"):
        pixels, valid = source.read(rows, cols, work.dtype, planes=work.planes)
    stored = source.stored(rows, cols) if isinstance(source, CopiedSource) else None
    return _done(work, policy, level, row, col, Patch(rows, cols, pixels, valid), stored)


def join_pieces(
    work: Work,
    policy: Policy,
    level: int,
    row: int,
    col: int,
    children: Sequence[Halo],
    around: Iterable[Sequence[Patch]],
) -> tuple[PieceRecord, Halo | None]:
    """Build a piece of an overview from halos, encode it, and return its record and its own halo."""
    rows, cols = work.rows[level].span(row), work.cols[level].span(col)
    halves = [child.half for child in children if child.half is not None]
    patch = _empty(rows, cols, halves[0] if halves else next(iter(next(iter(around)))))
    for half in halves:
        _paste(half, patch)
    strips = [strip for piece in around for strip in piece]
    down, across = work.steps(level - 1)
    for pending in down.seams(row):
        _finish(work, patch, strips, (down, across), pending, cols)
    for pending in across.seams(col):
        _finish(work, patch, strips, (down, across), rows, pending)
    return _done(work, policy, level, row, col, patch)


def _done(
    work: Work,
    policy: Policy,
    level: int,
    row: int,
    col: int,
    patch: Patch,
    stored: EncodedBlocks | None = None,
) -> tuple[PieceRecord, Halo | None]:
    record = _encoded(work, policy, level, row, col, patch, stored)
    if work.statistics and level == 0:
        record = replace(record, statistics=statistics_of(patch.pixels, patch.valid, work.rule.nodata))
    last = work.kept or level + 1 == len(work.rows)
    return record, None if last else _halo(work, level, row, col, patch)


def _halo(work: Work, level: int, row: int, col: int, patch: Patch) -> Halo:
    down, across = work.steps(level)
    rows, cols = down.complete(row), across.complete(col)
    half = None
    if rows.stop > rows.start and cols.stop > cols.start:
        half = _halved(work, (down, across), rows, cols, patch)
    strips = [patch.part(border, patch.cols) for border in down.borders(row)]
    strips += [patch.part(patch.rows, border) for border in across.borders(col)]
    return Halo(half, tuple(strips))


def _halved(work: Work, steps: tuple[LevelStep, LevelStep], rows: Span, cols: Span, patch: Patch) -> Patch:
    down, across = steps[0].axis(rows, patch.rows), steps[1].axis(cols, patch.cols)
    pixels, valid = halve_planes(patch.pixels, patch.valid, down, across, work.rule)
    return Patch(rows, cols, pixels, valid)


def _finish(
    work: Work, patch: Patch, strips: list[Patch], steps: tuple[LevelStep, LevelStep], rows: Span, cols: Span
) -> None:
    """Compute the pending pixels in a window of `patch` from the strips along the seam."""
    needs = steps[0].needs(rows), steps[1].needs(cols)
    along = _empty(needs[0], needs[1], strips[0])
    for strip in strips:
        _paste(strip, along)
    _paste(_halved(work, steps, rows, cols, along), patch)


def _empty(rows: Span, cols: Span, like: Patch) -> Patch:
    planes, _, _, samples = like.pixels.shape
    pixels = np.empty((planes, len(rows), len(cols), samples), like.pixels.dtype)
    return Patch(rows, cols, pixels, None if like.valid is None else np.zeros((len(rows), len(cols)), bool))


def _paste(patch: Patch, onto: Patch) -> None:
    rows = Span(max(patch.rows.start, onto.rows.start), min(patch.rows.stop, onto.rows.stop))
    cols = Span(max(patch.cols.start, onto.cols.start), min(patch.cols.stop, onto.cols.stop))
    if rows.stop <= rows.start or cols.stop <= cols.start:
        return
    there, here = onto.window(rows, cols), patch.window(rows, cols)
    onto.pixels[:, there[0], there[1]] = patch.pixels[:, here[0], here[1]]
    if onto.valid is not None and patch.valid is not None:
        onto.valid[there] = patch.valid[here]


@phase("encode")
def _encoded(
    work: Work,
    policy: Policy,
    level: int,
    row: int,
    col: int,
    patch: Patch,
    stored: EncodedBlocks | None,
) -> PieceRecord:
    """Encode the blocks of a piece and store them row by row, each mask block right after its pixels.

    Rows of blocks that the source has `stored` are copied instead. With several planes the mask blocks follow
    all others.
    """
    size = work.encoding.profile.blocksize
    # Small overviews resemble no trial, and have too few blocks to be worth it.
    encoder = BlockEncoder(work.encoding, policy if level < 2 else Policy(), overview=level > 0)
    _, height, width, _ = patch.pixels.shape
    shape = -(-height // size), -(-width // size)
    sizes = np.zeros((work.planes, *shape), np.uint32)
    mask_sizes = None if patch.valid is None else np.zeros(shape, np.uint32)
    pieces: list[bytes] = []

    def keep(block: bytes, table: NDArray[np.uint32], place: tuple[int, ...]) -> None:
        pieces.append(framed(block))
        table[place] = len(block)

    for plane, pixels in enumerate(patch.pixels):
        for block_row in range(shape[0]):
            lines = slice(block_row * size, (block_row + 1) * size)
            parts = [(lines, slice(col * size, (col + 1) * size)) for col in range(shape[1])]
            left_out = [
                work.sparse and _without_data(pixels[part], patch.valid, part, work.rule.nodata)
                for part in parts
            ]
            copied = stored.row(plane, block_row) if stored is not None else None
            for block_col, block in enumerate(copied or encoder.encode_row(pixels[lines], left_out)):
                part, empty = parts[block_col], left_out[block_col]
                if not empty:
                    keep(block, sizes, (plane, block_row, block_col))
                if patch.valid is not None and mask_sizes is not None and work.planes == 1 and not empty:
                    keep(encode_mask_block(patch.valid[part], size), mask_sizes, (block_row, block_col))
    if patch.valid is not None and mask_sizes is not None and work.planes > 1:
        for place in np.ndindex(*shape):
            window = tuple(slice(index * size, (index + 1) * size) for index in place)
            keep(encode_mask_block(patch.valid[window], size), mask_sizes, place)
    record = PieceRecord(level, row, col, sizes, mask_sizes)
    if not work.sink.reachable():
        return replace(record, stored=b"".join(pieces))
    work.sink.store(record.name, pieces, work.ends(record))
    return record


def _without_data(
    pixels: Pixels, valid: Valid | None, part: tuple[slice, slice], nodata: float | None
) -> bool:
    """Return whether a reader sees the same pixels if the block is left out."""
    if valid is not None and valid[part].any():
        return False
    empty = 0 if nodata is None else nodata
    value = comparable(empty, pixels.dtype)
    if value is None or not (np.isnan(pixels) if np.isnan(value) else pixels == value).all():
        return False
    if np.isnan(value):
        return pixels.dtype.kind != "c"  # one part may be a number
    # -0.0 equals 0.0, but its bits differ.
    parts = pixels.view(pixels.real.dtype)
    return parts.dtype.kind != "f" or bool((np.signbit(parts) == np.signbit(empty)).all())
