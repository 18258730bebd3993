"""Assemble a file from pieces: the graph of tasks that encode them, and the order of blocks in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import IO, Any, cast

import dask
import numpy as np
from dask.delayed import Delayed
from numpy.typing import NDArray

from gdaltools.cog.encode.adaptive import Policy, Trial, find_policy
from gdaltools.cog.format.layout import Image, header
from gdaltools.cog.format.structure import check_structure, images
from gdaltools.cog.format.template import template
from gdaltools.cog.overviews.reduced import ReducedSource
from gdaltools.cog.pieces.blob_sink import Front
from gdaltools.cog.pieces.copied_blocks import CopiedSource
from gdaltools.cog.pieces.geometry import spread
from gdaltools.cog.pieces.pyramid import Halo, Patch, PieceRecord, Work, join_pieces, read_piece, try_blocks
from gdaltools.cog.pieces.sink import ByteRun, Sink
from gdaltools.cog.pieces.statistics import joined
from gdaltools.cog.plan import CogPlan
from gdaltools.errors import GdalToolsError, StorageError
from gdaltools.raster.facts import without_statistics
from gdaltools.raster.pixels.source import ArraySource
from gdaltools.raster.tiff import read_layout
from gdaltools.runtime.phases import phase

_Place = tuple[int, int]

#: Trials of adaptive DEFLATE: the most blocks, the divisor of all blocks, and the most rows of blocks. A grid
#: with fewer blocks than `FEW_BLOCKS` gets no trials.
MOST_TRIALS, TRIALS_SHARE, TRIAL_ROWS, FEW_BLOCKS = 64, 8, 8, 64


def record_tasks(plan: CogPlan, work: Work) -> list[Delayed]:
    """Return the tasks that encode the pieces, the full resolution first; each result is a `PieceRecord`."""
    shared = dask.delayed(work, pure=False, traverse=False)
    policy = _policy(plan, shared)
    read = dask.delayed(read_piece, pure=False, nout=2, traverse=False)
    source_of = _sources(plan, work)
    if plan.kept:
        sources = [_overview(plan, level) for level in range(len(plan.levels))]
        return [
            read(shared, policy, sources[level], level, row, col)[0]
            for level in range(len(plan.levels))
            for row, col in _places(work, level)
        ]
    records: list[Delayed] = []
    carries: dict[_Place, Delayed] = {}
    for row, col in _places(work, 0):
        record, carries[row, col] = read(shared, policy, source_of(row, col), 0, row, col)
        records.append(record)
    join = dask.delayed(join_pieces, pure=False, nout=2)
    strips_of = dask.delayed(_strips, pure=False)
    for level in range(1, plan.cascading):
        down, across = work.steps(level - 1)
        joined = down.joined or across.joined
        strips = {place: strips_of(halo) for place, halo in carries.items()} if joined else {}
        made: dict[_Place, Delayed] = {}
        for row, col in _places(work, level):
            children = [carries[place] for place in product(down.children(row), across.children(col))]
            around = (
                [strips[place] for place in product(down.around(row), across.around(col))] if joined else []
            )
            record, made[row, col] = join(shared, policy, level, row, col, children, around)
            records.append(record)
        carries = made
    alone = dask.delayed(replace(work, kept=True), pure=False, traverse=False)
    for level in range(plan.cascading, len(plan.levels)):
        reduced = ReducedSource(plan.source, work.rule, plan.levels[0], plan.levels[level])
        source = dask.delayed(reduced, pure=False, traverse=False)
        records += [read(alone, policy, source, level, row, col)[0] for row, col in _places(work, level)]
    return records


def _sources(plan: CogPlan, work: Work) -> Callable[[int, int], Delayed]:
    """Return a function that maps the row and column of a full-resolution piece to its source."""
    if isinstance(plan.source, ArraySource) and plan.source.lazy:
        # Chunks in the shape of the pieces: each is a task of the same graph and is computed once.
        blocks = plan.source.array.rechunk({0: -1, 1: work.rows[0].piece, 2: work.cols[0].piece}).to_delayed()
        part = dask.delayed(_computed, pure=False)
        bare = replace(plan.source, array=np.empty((0, 0, 0)))
        origin = work.rows[0].piece, work.cols[0].piece
        return lambda row, col: part(bare, blocks[0, row, col], row * origin[0], col * origin[1])
    whole = cast(Delayed, dask.delayed(plan.source, pure=False, traverse=False))
    return lambda row, col: whole


def _computed(source: ArraySource, array: NDArray[Any], top: int, left: int) -> ArraySource:
    return replace(source, array=array, origin=(top, left))


def _policy(plan: CogPlan, work: Delayed) -> Delayed:
    """Return the task that chooses the encoders of adaptive DEFLATE, by trials across the raster."""
    if plan.policy is not None:
        return cast(Delayed, dask.delayed(plan.policy, pure=False, traverse=False))
    tolerance = plan.profile.size_tolerance
    if not tolerance:
        return cast(Delayed, dask.delayed(Policy(), pure=False, traverse=False))
    source = dask.delayed(plan.source, pure=False, traverse=False)
    run_trials = dask.delayed(try_blocks, pure=False, traverse=False)
    trials = [run_trials(work, source, places) for places in _trial_places(plan)]
    return cast(Delayed, dask.delayed(decided, pure=False)(trials, tolerance))


def decided(trials: Iterable[Iterable[Trial]], tolerance: float | None) -> Policy:
    """Return the policy that follows from trials of rows of blocks; without a tolerance, GDAL's own level."""
    return find_policy((trial for row in trials for trial in row), tolerance) if tolerance else Policy()


def _trial_places(plan: CogPlan) -> list[list[_Place]]:
    """Return rows of blocks (block row, block column) for trials."""
    size = plan.profile.blocksize
    down, across = -(-plan.levels[0][1] // size), -(-plan.levels[0][0] // size)
    if down * across < FEW_BLOCKS:
        return []
    count = min(MOST_TRIALS, down * across // TRIALS_SHARE)
    rows = min(down, TRIAL_ROWS, count)
    return list(spread(down, across, rows, min(across, -(-count // rows))))


def _overview(plan: CogPlan, level: int) -> Delayed:
    source = cast(Any, plan.source)
    return cast(
        Delayed,
        dask.delayed(replace(source, level=level - 1) if level else source, pure=False, traverse=False),
    )


def _places(work: Work, level: int) -> Iterator[_Place]:
    return product(range(work.rows[level].count), range(work.cols[level].count))


def _strips(halo: Halo) -> tuple[Patch, ...]:
    return halo.strips


def assemble(plan: CogPlan, records: Sequence[PieceRecord], sink: Sink) -> bytes:
    """Write the file from the stored blocks that `records` describe; return its header.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    levels = [_Level(plan, level) for level in range(len(plan.levels))]
    for record in records:
        levels[record.level].enter(record)
    stored = tuple(level.image for level in levels)
    facts = plan.facts
    if plan.statistics:
        found = joined(record.statistics for record in records if record.statistics is not None)
        tags = (without_statistics(known) | found.tags(band) for band, known in enumerate(facts.band_tags))
        facts = replace(facts, band_tags=tuple(tags))
    parts = template(facts, plan.encoding)
    if isinstance(plan.source, CopiedSource):
        parts = plan.source.tags(parts, kept=plan.kept)
    front = header(stored, parts, plan.profile.blocksize)
    with phase("commit"):
        sink.commit(front, (run for level in reversed(levels) for run in level.runs()))
    return front


class _Level:
    """The sizes of a level's blocks, and the places where their bytes are stored."""

    def __init__(self, plan: CogPlan, level: int) -> None:
        width, height = plan.levels[level]
        size = plan.profile.blocksize
        shape = -(-height // size), -(-width // size)
        masked = plan.facts.masked
        self._axes = tuple(axis[level] for axis in plan.axes)
        self._size = size
        self._records: dict[_Place, PieceRecord] = {}
        self.image = Image(
            width,
            height,
            np.zeros((plan.planes, *shape), np.uint32),
            np.zeros(shape, np.uint32) if masked else None,
        )

    def enter(self, record: PieceRecord) -> None:
        self._records[record.row, record.col] = record
        top = record.row * self._axes[0].piece // self._size
        left = record.col * self._axes[1].piece // self._size
        _, rows, cols = record.sizes.shape
        self.image.sizes[:, top : top + rows, left : left + cols] = record.sizes
        if self.image.mask_sizes is not None and record.mask_sizes is not None:
            self.image.mask_sizes[top : top + rows, left : left + cols] = record.mask_sizes

    def runs(self) -> Iterator[ByteRun]:
        """Yield the stored bytes of the level as runs, in the order of the file."""
        starts = {place: record.row_starts() for place, record in self._records.items()}
        parts = next(iter(starts.values())).shape[0]
        waiting: ByteRun | None = None
        for part in range(parts):
            for row in range(self._axes[0].count):
                lines = starts[row, 0].shape[1] - 1
                for line, col in product(range(lines), range(self._axes[1].count)):
                    begin, end = starts[row, col][part, line : line + 2]
                    name = self._records[row, col].name
                    if waiting and waiting.name == name and waiting.offset + waiting.length == begin:
                        waiting = ByteRun(name, waiting.offset, int(end) - waiting.offset)
                        continue
                    if waiting and waiting.length:
                        yield waiting
                    waiting = ByteRun(name, int(begin), int(end - begin))
        if waiting and waiting.length:
            yield waiting


def check_written(stream: IO[bytes], plan: CogPlan, *, name: str) -> None:
    """Raise unless the file is the COG that `plan` describes, before any reader can see it.

    This checks the layout and, unless only the `Front` is at hand, the bytes around blocks. It decodes no
    pixels, so it takes hardly any time.

    Raises
    ------
    StorageError
        The file breaks a rule of the layout, or its shape differs from the plan.
    """
    try:
        layout = read_layout(stream, name=name)
        findings = check_structure(layout, None if isinstance(stream, Front) else stream)
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
