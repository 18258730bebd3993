"""From pieces to a file: the graph of tasks that makes them, and the order in which blocks are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

import dask
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from gdaltools.cog.layout import BLOCK_FRAME, Image, header
from gdaltools.cog.lifted import LiftedSource
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.pyramid import Carry, Patch, Record, Work, join_pieces, read_kept, read_piece
from gdaltools.cog.sink import Run, Sink
from gdaltools.cog.structure import check_structure, images
from gdaltools.cog.template import template
from gdaltools.cog.tiff import read_layout
from gdaltools.errors import GdalToolsError, StorageError

_Place = tuple[int, int]


def record_tasks(plan: CogPlan, work: Work) -> list[Delayed]:
    """The tasks whose results say what was encoded, piece by piece, the full resolution first."""
    shared = dask.delayed(work, pure=False, traverse=False)
    source = dask.delayed(plan.source, pure=False, traverse=False)
    if plan.kept:
        kept = dask.delayed(read_kept, pure=False, traverse=False)
        sources = [_overview(plan, level) for level in range(len(plan.levels))]
        return [
            kept(shared, sources[level], level, row, col)
            for level in range(len(plan.levels))
            for row, col in _places(work, level)
        ]
    read = dask.delayed(read_piece, pure=False, nout=2, traverse=False)
    records: list[Delayed] = []
    carries: dict[_Place, Delayed] = {}
    for row, col in _places(work, 0):
        record, carries[row, col] = read(shared, source, 0, row, col)
        records.append(record)
    join = dask.delayed(join_pieces, pure=False, nout=2)
    strips_of = dask.delayed(_strips, pure=False)
    for level in range(1, len(plan.levels)):
        down, across = work.steps(level - 1)
        joined = down.joined or across.joined
        strips = {place: strips_of(carry) for place, carry in carries.items()} if joined else {}
        made: dict[_Place, Delayed] = {}
        for row, col in _places(work, level):
            children = [carries[place] for place in product(down.children(row), across.children(col))]
            around = (
                [strips[place] for place in product(down.around(row), across.around(col))] if joined else []
            )
            record, made[row, col] = join(shared, level, row, col, children, around)
            records.append(record)
        carries = made
    return records


def _overview(plan: CogPlan, level: int) -> Delayed:
    source = cast(Any, plan.source)
    return cast(
        Delayed,
        dask.delayed(replace(source, level=level - 1) if level else source, pure=False, traverse=False),
    )


def _places(work: Work, level: int) -> Iterator[_Place]:
    return product(range(work.rows[level].count), range(work.cols[level].count))


def _strips(carry: Carry) -> tuple[Patch, ...]:
    return carry.strips


def assemble(plan: CogPlan, records: Sequence[Record], sink: Sink) -> None:
    """Write the file from what is stored.

    Raises
    ------
    StorageError
        It cannot be written.
    """
    levels = [_Level(plan, level) for level in range(len(plan.levels))]
    for record in records:
        levels[record.level].enter(record)
    stored = tuple(level.image for level in levels)
    tags = template(plan.facts, plan.encoding)
    if isinstance(plan.source, LiftedSource):
        tags = plan.source.tags(tags, kept=plan.kept)
    front = header(stored, tags, plan.profile.blocksize)
    sink.commit(front, (run for level in reversed(levels) for run in level.runs()))


class _Level:
    """The sizes of a level's blocks, and where their bytes are stored."""

    def __init__(self, plan: CogPlan, level: int) -> None:
        width, height = plan.levels[level]
        size = plan.profile.blocksize
        shape = -(-height // size), -(-width // size)
        masked = plan.facts.masked
        self._axes = tuple(axis[level] for axis in plan.axes)
        self._size = size
        self._records: dict[_Place, Record] = {}
        self.image = Image(
            width,
            height,
            np.zeros((plan.planes, *shape), np.uint32),
            np.zeros(shape, np.uint32) if masked else None,
        )

    def enter(self, record: Record) -> None:
        self._records[record.row, record.col] = record
        top = record.row * self._axes[0].piece // self._size
        left = record.col * self._axes[1].piece // self._size
        _, rows, cols = record.sizes.shape
        self.image.sizes[:, top : top + rows, left : left + cols] = record.sizes
        if self.image.mask_sizes is not None and record.mask_sizes is not None:
            self.image.mask_sizes[top : top + rows, left : left + cols] = record.mask_sizes

    def runs(self) -> Iterator[Run]:
        """The stored bytes in the order of the file."""
        starts = {place: _row_starts(record) for place, record in self._records.items()}
        parts = next(iter(starts.values())).shape[0]
        waiting: Run | None = None
        for part in range(parts):
            for row in range(self._axes[0].count):
                lines = starts[row, 0].shape[1] - 1
                for line, col in product(range(lines), range(self._axes[1].count)):
                    begin, end = starts[row, col][part, line : line + 2]
                    name = self._records[row, col].name
                    if waiting and waiting.name == name and waiting.offset + waiting.length == begin:
                        waiting = Run(name, waiting.offset, int(end) - waiting.offset)
                        continue
                    if waiting and waiting.length:
                        yield waiting
                    waiting = Run(name, int(begin), int(end - begin))
        if waiting and waiting.length:
            yield waiting


def _row_starts(record: Record) -> NDArray[np.int64]:
    """Where each row of blocks begins in a stored piece, and where the last ends: (planes, block rows + 1).

    A mask that is not interleaved with the imagery counts as a plane of its own behind the others.
    """
    sizes = _with_frames(record.sizes).sum(axis=2)
    if record.mask_sizes is not None:
        masks = _with_frames(record.mask_sizes).sum(axis=1)
        sizes = sizes + masks if len(sizes) == 1 else np.concatenate([sizes, masks[None]])
    ends = np.cumsum(sizes).reshape(sizes.shape)
    begins = ends[:, :1] - sizes[:, :1]
    return np.concatenate([begins, ends], axis=1)


def _with_frames(sizes: NDArray[np.uint32]) -> NDArray[np.int64]:
    return np.where(sizes > 0, sizes.astype(np.int64) + BLOCK_FRAME, 0)


def check_made(path: Path, plan: CogPlan, *, name: str) -> None:
    """Refuse a file that is not the COG that was to be made, before anybody can see it.

    Looks at the layout and the block edges, not at pixels, so it takes no time to speak of.

    Raises
    ------
    StorageError
        It breaks a rule of the layout, or has another shape than planned.
    """
    try:
        with path.open("rb") as stream:
            layout = read_layout(stream, name=name)
            findings = check_structure(layout, stream)
    except GdalToolsError as error:
        raise StorageError(f"{name} was not written whole: {error}; try again") from error
    main, _ = images(layout)
    problems = list(findings.errors)
    if len(plan.levels) > 1:
        problems += findings.warnings
    shape = (plan.facts.count, plan.levels[0][1], plan.levels[0][0])
    if (main.samples, main.height, main.width) != shape:
        problems.append(f"it has the shape {(main.samples, main.height, main.width)} instead of {shape}")
    if problems:
        raise StorageError(f"{name} was not written whole: {'; '.join(problems)}; try again")
