"""The comparison itself: interleaved runs, A B C A B C, each in its own process, with each output checked.

Nothing carries over from one run to the next: the output is flushed to disk before its process ends, read
back the first time, and then deleted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.compare.jobs import Encoding, Job, LimitJob
from benchmarks.compare.limit import limit_seconds
from benchmarks.compare.methods.cogs import Method
from benchmarks.compare.results import CaseResult, Check, CodecLimit, MethodResult, Run, Scaling
from benchmarks.compare.sources.rasters import Source, read_through
from benchmarks.compare.work import CogWork, Work
from benchmarks.errors import ChildFailed
from benchmarks.process import ChildResult, run_child

#: A callback that receives one line for each step.
Say = Callable[[str], None]

_CHILD = "benchmarks.compare.child"
# Blocks for measuring the codec's limit: about 38 MB of RGB.
_LIMIT_BLOCKS = 48


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
    scaling : bool
        Whether the first engine variant is also measured on one thread.
    work : Work
        What each run does: a COG of the source, or its tiles.
    """

    methods: tuple[Method, ...]
    encoding: Encoding
    rounds: int
    threads: int
    folder: Path
    timeout_seconds: float
    scaling: bool = False
    work: Work = field(default_factory=CogWork)


@dataclass
class _Tally:
    """The results of one method so far."""

    method: Method
    runs: list[Run] = field(default_factory=list)
    check: Check | None = None
    skipped: str | None = None
    failed: str | None = None

    @property
    def goes_on(self) -> bool:
        return self.skipped is None and self.failed is None

    def result(self) -> MethodResult:
        encoding = self.method.encoding
        return MethodResult(
            name=self.method.name,
            label=self.method.label,
            role=self.method.role,
            codec=encoding.codec,
            level=encoding.level,
            size_tolerance=self.method.size_tolerance,
            runs=tuple(self.runs),
            check=self.check,
            skipped=self.skipped,
            failed=self.failed,
        )


def compare(source: Source, plan: Plan, *, warm_up: Source | None, say: Say) -> CaseResult:
    """Measure every method of the plan on one source.

    A method that fails is reported with its error and not run again; the others go on.

    Parameters
    ----------
    warm_up : Source, optional
        A small source on which every method first runs once, unmeasured, so that libraries are read from disk
        and compiled. A method that fails there fails again in the measured run, which reports it.
    """
    tallies = [_tally(method) for method in plan.methods]
    with tempfile.TemporaryDirectory(prefix="outputs-", dir=plan.folder) as scratch:
        bench = _Bench(plan, Path(scratch))
        if warm_up is not None:
            say(f"{source.name}: warming up")
            for tally in tallies:
                if tally.goes_on:
                    bench.warm(tally.method, warm_up)
        read_through(source)
        for number in range(1, plan.rounds + 1):
            for tally in tallies:
                if tally.goes_on:
                    bench.measure(tally, source, number)
                    say(f"{source.name}, round {number}: {_text(tally)}")
        limit, limit_missing = bench.limit(source)
        scaling = bench.scaling(source, say) if plan.scaling else None
    return CaseResult(
        name=source.name,
        output=plan.work.output,
        description=source.description,
        file=source.path.name,
        width=source.width,
        height=source.height,
        bands=source.bands,
        dtype=source.dtype,
        nodata=source.nodata,
        layout=source.layout,
        compression=source.compression,
        size_bytes=source.size_bytes,
        predictor=plan.encoding.predictor,
        methods=tuple(tally.result() for tally in tallies),
        limit=limit,
        limit_missing=limit_missing,
        scaling=scaling,
    )


@dataclass(frozen=True)
class _Bench:
    """Runs jobs one after the other in their own folder."""

    plan: Plan
    folder: Path

    def warm(self, method: Method, source: Source) -> None:
        with self._target() as target:
            try:
                self._run(self.plan.work.write(method, source, target, self.plan.threads))
            except ChildFailed:
                return  # the measured run reports it

    def measure(self, tally: _Tally, source: Source, number: int) -> None:
        """Measure one run; check the method's first output."""
        with self._target() as target:
            try:
                tally.runs.append(self._measured(tally.method, source, target, self.plan.threads, number))
                if tally.check is None:
                    found = self._run(self.plan.work.check(tally.method, source, target))
                    tally.check = Check(**found.answer)
            except ChildFailed as error:
                tally.failed = f"round {number}: {error}"

    def limit(self, source: Source) -> tuple[CodecLimit | None, str | None]:
        """Return the time of the codec alone, or why it is unknown."""
        plan, encoding = self.plan, self.plan.encoding
        if not plan.work.has_limit(encoding):
            return (
                None,
                "there is no codec" if encoding.codec == "NONE" else plan.work.no_limit,
            )
        try:
            found = self._run(LimitJob(str(source.path), encoding, plan.threads, _LIMIT_BLOCKS)).answer
        except ChildFailed as error:
            return None, str(error)
        one, many = found["bytes_per_second"], found["all_threads_bytes_per_second"]
        seconds, together = (
            limit_seconds(source.width, source.height, source.pixel_bytes, encoding.blocksize, rate)
            for rate in (one * plan.threads, many)
        )
        return CodecLimit(
            codec=encoding.codec,
            level=encoding.level,
            threads=plan.threads,
            blocks=found["blocks"],
            mb_per_second=one / 1e6,
            all_threads_mb_per_second=many / 1e6,
            thread_gain=many / one,
            size_ratio=found["size_ratio"],
            seconds=seconds,
            all_threads_seconds=together,
        ), None

    def scaling(self, source: Source, say: Say) -> Scaling | None:
        """Measure the first engine variant on one thread and on all, interleaved."""
        method = next((each for each in self.plan.methods if each.role == "engine"), None)
        if method is None:
            return None
        runs: dict[int, list[Run]] = {1: [], self.plan.threads: []}
        failed = None
        for number in range(1, self.plan.rounds + 1):
            for threads, done in runs.items():
                say(f"{source.name}, round {number}: {method.label}, threads: {threads}")
                try:
                    with self._target() as target:
                        done.append(self._measured(method, source, target, threads, number))
                except ChildFailed as error:
                    failed = f"round {number}, {threads} threads: {error}"
            if failed:
                break
        return Scaling(
            method=method.name,
            threads=self.plan.threads,
            one_thread=tuple(runs[1]),
            all_threads=tuple(runs[self.plan.threads]),
            failed=failed,
        )

    def _measured(self, method: Method, source: Source, target: Path, threads: int, number: int) -> Run:
        found = self._run(self.plan.work.write(method, source, target, threads))
        answer = found.answer
        return Run(
            round=number,
            seconds=answer["seconds"],
            cpu_seconds=answer["cpu_seconds"],
            flush_seconds=answer["flush_seconds"],
            peak_bytes=max(found.tree_peak_bytes, answer["peak_bytes"] or 0),
            size_bytes=answer["size_bytes"],
            process_seconds=found.process_seconds,
            process_cpu_seconds=found.process_cpu_seconds,
            others_cores=found.others_cores,
        )

    def _run(self, job: Job) -> ChildResult:
        return run_child(_CHILD, asdict(job), folder=self.folder, timeout_seconds=self.plan.timeout_seconds)

    @contextmanager
    def _target(self) -> Iterator[Path]:
        """Provide the output's path in a new folder, which is deleted afterwards with everything in it."""
        with tempfile.TemporaryDirectory(dir=self.folder) as fresh:
            yield self.plan.work.target(Path(fresh))


def _tally(method: Method) -> _Tally:
    missing = method.missing_package()
    return _Tally(method, skipped=missing and f"{missing} is not installed (extra: bench)")


def _text(tally: _Tally) -> str:
    if tally.failed:
        return f"{tally.method.label} FAILED: {tally.failed}"
    run = tally.runs[-1]
    return f"{tally.method.label} {run.seconds:.2f} s, {run.peak_bytes / 1e6:.0f} MB"
