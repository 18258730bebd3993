"""One run over many rasters: when each COG is written, on how many threads, and with which outcome."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Literal

from gdaltools import storage
from gdaltools.cog.batch.budget import MemoryBudget
from gdaltools.cog.batch.journal import CogJournal, Origin
from gdaltools.cog.batch.pairs import Pair
from gdaltools.cog.batch.result import BatchedCog, FailedCog
from gdaltools.cog.options import CogOptions
from gdaltools.cog.plan import CogPlan
from gdaltools.cog.planning import plan_for
from gdaltools.cog.write.build import build_cog
from gdaltools.cog.write.reuse import with_reuse
from gdaltools.cost.cog_memory import SHARED_BYTES
from gdaltools.display.progress import Share
from gdaltools.errors import GdalToolsError, StorageError
from gdaltools.runtime import graph
from gdaltools.runtime.interruption import Interruption

# Decoded bytes of a raster that one thread writes in seconds.
_ONE_THREAD_BYTES = 192 << 20


@dataclass(frozen=True)
class Waiting:
    """A COG that has yet to be written; `replaces` says whether its target exists."""

    pair: Pair
    origin: Origin
    replaces: bool


@dataclass(frozen=True)
class CogOutcome:
    """The outcome of one COG."""

    name: str
    how: Literal["made", "copied", "skipped", "failed"]
    reported: BatchedCog | FailedCog


def failed(pair: Pair, error: Exception) -> CogOutcome:
    """Return the outcome of a COG that failed with `error`."""
    reported = FailedCog(
        source=str(pair.source),
        location=str(pair.target),
        error_type=type(error).__name__,
        error=str(error),
        retryable=not isinstance(error, GdalToolsError) or error.retryable,
    )
    return CogOutcome(pair.name, "failed", reported)


class _Stopped(BaseException):
    """Unwinds the work on a file when the whole run ends; no handler of `Exception` catches it."""


class BatchRun:
    """Writes the waiting COGs and holds the state that its threads share.

    Parameters
    ----------
    files : int
        The number of waiting COGs.
    allowed_bytes : int
        The memory that the process may use.
    """

    def __init__(
        self, options: CogOptions, journal: CogJournal, *, reuse: bool, files: int, allowed_bytes: int
    ) -> None:
        self._options = options
        self._journal = journal
        self._reuse = reuse
        self._files = files
        self._allowed = max(0, allowed_bytes - SHARED_BYTES)
        self._budget = MemoryBudget(self._allowed)
        self._lock = threading.Lock()
        self._advance: Callable[[int], None] = lambda _: None
        self._outcomes: list[CogOutcome] = []
        self._failures = 0
        self._large: dict[str, CogPlan] = {}
        self._stopped_by: BaseException | None = None
        self._interruption = Interruption()

    def label(self) -> str:
        """Return the label of the run's progress bar."""
        failures = f", {self._failures} failed" if self._failures else ""
        return f"cogs {len(self._outcomes)}/{self._files}{failures}"

    def outcomes(
        self, waiting: Sequence[Waiting], advance: Callable[[int], None], *, files_at_once: int | None
    ) -> list[CogOutcome]:
        """Write all waiting COGs and return their outcomes; `advance` receives bytes of the sources.

        Raises
        ------
        Exception
            The error that `advance` raised; files in progress are abandoned.
        """
        self._advance = advance
        threads = files_at_once or graph.cluster_threads() or graph.thread_count()
        with ThreadPoolExecutor(threads, initializer=self._interruption.watch) as pool:
            futures = [pool.submit(self._one, each) for each in waiting]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException as error:  # noqa: BLE001 - raised again, or what ended the run in its place
                pool.shutdown(wait=False, cancel_futures=True)
                raise self._stop(error) from None
        try:
            for each in waiting:
                if (plan := self._large.pop(each.pair.name, None)) is not None:
                    with self._threads_for(plan):
                        self._make(each, plan)
        except _Stopped as error:
            raise self._stop(error) from None
        return self._outcomes

    def _stop(self, error: BaseException) -> BaseException:
        """Stop the run and return the error that ended it; files in progress stop at their next check."""
        self._interruption.request()
        with self._lock:
            if self._stopped_by is None:
                self._stopped_by = error
            return self._stopped_by

    def _one(self, each: Waiting) -> None:
        """Write a small file on one thread, or keep the plan of a large one for later."""
        self._go_on()
        try:
            plan = plan_for(each.pair.source, self._options)
        except Exception as error:  # noqa: BLE001 - the border of a file: the others are made
            self._end(failed(each.pair, error), each)
            return
        if _decoded_bytes(plan) > _ONE_THREAD_BYTES and plan.pieces > 1:
            self._large[each.pair.name] = plan
            return
        alone = nullcontext() if graph.cluster_threads() else graph.using_threads(1)
        with self._budget.taking(plan.memory_bytes(1) - SHARED_BYTES), alone:
            self._go_on()
            self._make(each, plan)

    def _threads_for(self, plan: CogPlan) -> AbstractContextManager[None]:
        """Use all threads, or as many as the allowed memory suffices for."""
        if graph.cluster_threads():
            return nullcontext()
        threads = graph.thread_count()
        while threads > 1 and plan.memory_bytes(threads) - SHARED_BYTES > self._allowed:
            threads -= 1
        return graph.using_threads(threads)

    def _make(self, each: Waiting, plan: CogPlan) -> None:
        """Write one file from start to finish and record its outcome."""
        pair, began = each.pair, time.perf_counter()
        share = Share(each.origin.size_bytes, self._step)
        try:
            plan = with_reuse(plan, self._options) if self._reuse else plan
            self._journal.begun(pair.name, each.origin)
            with self._giving_up(each):
                made = build_cog(plan, pair.target, overwrite=each.replaces, progress=share)
            stat = storage.stat(pair.target)
            self._journal.made(pair.name, each.origin, stat)
        except Exception as error:  # noqa: BLE001 - the border of a file: the others are made
            self._end(failed(pair, error), each, share.reported)
            return
        cog = BatchedCog(
            source=str(pair.source),
            location=str(pair.target),
            source_bytes=each.origin.size_bytes,
            size_bytes=stat.size,
            from_stored_blocks=made.reused == "blocks",
            seconds=time.perf_counter() - began,
        )
        how: Literal["made", "copied"] = "copied" if made.reused == "file" else "made"
        self._end(CogOutcome(pair.name, how, cog), each, share.reported)

    @contextmanager
    def _giving_up(self, each: Waiting) -> Iterator[None]:
        """On an error inside the block, record that nothing was published."""
        try:
            yield
        except Exception:
            with suppress(StorageError):  # the original error says more
                self._journal.failed(each.pair.name, each.origin)
            raise

    def _end(self, outcome: CogOutcome, each: Waiting, reported: int = 0) -> None:
        with self._lock:
            self._outcomes.append(outcome)
            self._failures += outcome.how == "failed"
        self._step(each.origin.size_bytes - reported)

    def _step(self, size_bytes: int) -> None:
        self._go_on()
        try:
            self._advance(size_bytes)
        except BaseException as error:
            self._stop(error)
            raise _Stopped from error

    def _go_on(self) -> None:
        if self._stopped_by is not None:
            raise _Stopped


def _decoded_bytes(plan: CogPlan) -> int:
    width, height = plan.levels[0]
    return width * height * plan.facts.pixel_bytes
