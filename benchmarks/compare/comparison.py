"""The comparison itself: interleaved runs, A B C A B C, each in its own process, with each output checked.

Nothing carries over from one run to the next: the output is flushed to disk before its process ends, read
back the first time, and then deleted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from benchmarks.compare.checks import check_cog, check_tiles
from benchmarks.compare.jobs import Encoding, Job, Tile, Tiles, TilesJob, measure
from benchmarks.compare.limit import encoded_megabytes, measure_codec
from benchmarks.compare.methods import Method
from benchmarks.compare.results import CaseResult, Check, CodecLimit, MethodResult, Run
from benchmarks.compare.sources.rasters import Source, read_through
from benchmarks.errors import ChildFailed
from benchmarks.process import ChildResult, run_child

#: A callback that receives one line for each step.
Say = Callable[[str], None]


@dataclass(frozen=True)
class Grid:
    """The tiles to compare on.

    Attributes
    ----------
    target_crs : str or None
        None for the source's own CRS, where tiles are plain windows.
    """

    tile_size: int
    overlap: int
    target_crs: str | None


@dataclass(frozen=True)
class Plan:
    """What to compare, and how.

    Attributes
    ----------
    rounds : int
        Runs of each method.
    threads : int
        Number of threads that may compress, for every method.
    folder : Path
        Where outputs are written, and deleted again.
    grid : Grid or None
        None for one COG of the source.
    """

    methods: tuple[Method, ...]
    encoding: Encoding
    rounds: int
    threads: int
    folder: Path
    timeout_seconds: float
    grid: Grid | None = None


def compare(source: Source, plan: Plan, *, warm_up: Source | None, say: Say) -> CaseResult:
    """Measure every method of the plan on one source.

    A method that fails is reported with its error and not run again; the others go on.

    Parameters
    ----------
    warm_up : Source, optional
        A small source on which every method first runs once, unmeasured, so that libraries are read from disk
        and compiled. A method that fails there fails again in the measured run, which reports it.
    """
    results = {method.name: MethodResult.of(method) for method in plan.methods}
    with tempfile.TemporaryDirectory(prefix="outputs-", dir=plan.folder) as scratch:
        if warm_up is not None:
            say(f"{source.name}: warming up")
            bench = Bench(plan, warm_up, Path(scratch))
            for method in plan.methods:
                if results[method.name].skipped is None:
                    bench.measured(method, 0, results[method.name])
        read_through(source)
        bench = Bench(plan, source, Path(scratch))
        for number in range(1, plan.rounds + 1):
            for method in plan.methods:
                before = results[method.name]
                if before.skipped is None and before.failed is None:
                    results[method.name] = after = bench.measured(method, number, before)
                    say(f"{source.name}, round {number}: {_text(after)}")
        limit = bench.limit(say)
    return CaseResult(
        **source.model_dump(exclude={"path", "size_bytes"}),
        output="cog" if plan.grid is None else "tiles",
        file=source.path.name,
        predictor=plan.encoding.predictor,
        methods=tuple(results.values()),
        limit=limit,
    )


@dataclass(frozen=True)
class Bench:
    """Runs methods on one source, one after the other, each with its output in a folder of its own."""

    plan: Plan
    source: Source
    folder: Path

    def measured(self, method: Method, number: int, result: MethodResult) -> MethodResult:
        """Return `result` with one more run, or with the error; the first output is checked."""
        with self._target() as target:
            try:
                run = _run(number, self._child(partial(measure, method.writer, self.job(method, target))))
                result = result.model_copy(update={"runs": (*result.runs, run)})
                if result.check is None:
                    check = Check(**self._child(self.check(target)).answer)
                    result = result.model_copy(update={"check": check})
            except ChildFailed as error:
                return result.model_copy(update={"failed": f"round {number}: {error}"})
        return result

    def limit(self, say: Say) -> CodecLimit | None:
        """Return what the codec alone takes; None where it sets no limit, or could not be measured."""
        plan, encoding, source = self.plan, self.plan.encoding, self.source
        if plan.grid is not None or encoding.codec == "NONE":
            return None
        try:
            rates = self._child(partial(measure_codec, source.path, encoding, plan.threads)).answer
        except ChildFailed as error:
            say(f"{source.name}: {encoding} alone is not known: {error}")
            return None
        size = encoded_megabytes(source.width, source.height, source.pixel_bytes, encoding.blocksize)
        return CodecLimit(
            codec=encoding.codec,
            level=encoding.level,
            threads=plan.threads,
            seconds=size / (rates["mb_per_second"] * plan.threads),
            all_threads_seconds=size / rates["all_threads_mb_per_second"],
            **rates,
        )

    def job(self, method: Method, target: Path) -> Job:
        """Return what the method's writer receives."""
        source, threads = str(self.source.path), self.plan.threads
        options = (source, str(target), method.encoding, threads, method.size_tolerance)
        return Job(*options) if self.tiles is None else TilesJob(*options, self.tiles)

    def check(self, target: Path) -> Callable[[], object]:
        """Return the call that checks an output."""
        if self.tiles is None:
            return partial(check_cog, self.source.path, target)
        return partial(check_tiles, self.source.path, target, self.tiles)

    @cached_property
    def tiles(self) -> Tiles | None:
        """The tiles of the source, which are the same for all methods; None if its output is one COG."""
        from gdaltools import generate_tiling_scheme, inspect

        grid, path = self.plan.grid, self.source.path
        if grid is None:
            return None
        crs = grid.target_crs or inspect(path).crs
        scheme = generate_tiling_scheme(path, grid.tile_size, grid.overlap, crs)
        kept = self.folder / f"{path.stem}.geojson"
        scheme.write(kept, overwrite=True)
        tiles = []
        for tile in scheme.tiles():
            window = tile.window
            place = (window.col_off, window.row_off, window.width, window.height)
            tiles.append(Tile(tile.tile_id, place, tile.transform))
        return Tiles(str(kept), scheme.grid.crs, scheme.warps, tuple(tiles))

    def _child(self, job: Callable[[], object]) -> ChildResult:
        return run_child(job, folder=self.folder, timeout_seconds=self.plan.timeout_seconds)

    @contextmanager
    def _target(self) -> Iterator[Path]:
        """Provide the output's path in a new folder, which is deleted afterwards with everything in it."""
        with tempfile.TemporaryDirectory(dir=self.folder) as fresh:
            yield Path(fresh) / "cog.tif" if self.plan.grid is None else Path(fresh)


def _run(number: int, found: ChildResult) -> Run:
    answer = found.answer
    return Run(
        round=number,
        seconds=answer["seconds"],
        cpu_seconds=answer["cpu_seconds"],
        flush_seconds=answer["flush_seconds"],
        peak_bytes=found.peak_bytes,
        size_bytes=answer["size_bytes"],
        process_seconds=found.process_seconds,
        process_cpu_seconds=found.process_cpu_seconds,
        others_cores=found.others_cores,
    )


def _text(result: MethodResult) -> str:
    if result.failed:
        return f"{result.label} FAILED: {result.failed}"
    run = result.runs[-1]
    return f"{result.label} {run.seconds:.2f} s, {run.peak_bytes / 1e6:.0f} MB"
