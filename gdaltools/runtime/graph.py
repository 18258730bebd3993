"""Run a set of dask tasks: on the active cluster if there is one, else on threads of this process.

When `run` returns or raises, none of its tasks is still running in this process: an error leaves no thread
that goes on writing. Ctrl-C ends running tasks before their next window, and they publish nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any, TypeVar

import dask
from dask import local, threaded
from dask.callbacks import Callback
from dask.delayed import Delayed
from dask.system import CPU_COUNT

from gdaltools.runtime.interruption import Interruption

_SYNCHRONOUS = ("synchronous", "sync", "single-threaded")

A = TypeVar("A")
R = TypeVar("R")

# Calls that are submitted per thread: one that runs and one that follows it.
_HANDED_OUT = 2

Ended = Callable[[int, Any], None]
Keep = Callable[[Any], Any]

# One value per thread; dask's configuration is the same for the whole process.
_threads: ContextVar[int | None] = ContextVar("threads", default=None)


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Inside this block, and in the thread that entered it, `run` uses `threads` threads of this process.

    1 runs all tasks in the caller's own thread. A cluster is not used, whatever is configured.
    """
    token = _threads.set(threads)
    try:
        yield
    finally:
        _threads.reset(token)


def thread_count() -> int:
    """Return the threads that `run` uses: those of `using_threads`, else dask's ``num_workers``.

    Without either, the cores that this process may use; 1 with a synchronous scheduler of dask.
    """
    if dask.config.get("scheduler", None) in _SYNCHRONOUS:
        return 1
    return int(_threads.get() or dask.config.get("num_workers", None) or CPU_COUNT)


def cluster_threads() -> int:
    """Return the threads of the cluster that `run` would use; 0 without a cluster."""
    client = active_client()
    return sum(client.nthreads().values()) if client is not None else 0


def active_client() -> Any:
    """Return the `distributed` client that `run` would use, or None; never imports distributed itself."""
    distributed = sys.modules.get("distributed")
    if (
        distributed is None
        or _threads.get()
        or dask.config.get("scheduler", None) in ("threads", *_SYNCHRONOUS)
    ):
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None


def run(tasks: Sequence[Delayed], *, ended: Ended, keep: Keep = lambda result: result) -> list[Any]:
    """Return the results of `tasks`, in the same order.

    Parameters
    ----------
    tasks : sequence of Delayed
        The tasks to compute.
    ended : callable
        Called with a task's position in `tasks` and its result when it has ended, in the caller's thread.
    keep : callable
        Converts a result to what `run` returns for it, as soon as a cluster has sent it, so that whole
        results need not be kept.

    Raises
    ------
    Exception
        The first error of a task or of `ended`; tasks that have not begun are dropped.
    KeyboardInterrupt
        The caller was interrupted, and so were the tasks.
    """
    client = active_client()
    if client is not None:
        return _run_on_cluster(client, tasks, ended, keep)
    positions = {task.key: position for position, task in enumerate(tasks)}

    def task_ended(key: Any, result: Any, *_: object) -> None:
        if key in positions:
            ended(positions[key], result)

    interruption = Interruption()
    # Passed and not entered: dask's active callbacks are one set for all threads of the process.
    callbacks = [*Callback.active, Callback(posttask=task_ended)._callback]
    with ThreadPoolExecutor(thread_count(), initializer=interruption.watch) as pool:
        try:
            results = dask.compute(*tasks, scheduler=_scheduler(), pool=pool, callbacks=callbacks)
            return [keep(result) for result in results]
        except KeyboardInterrupt:
            interruption.request()
            raise


def run_each(
    function: Callable[[A], R],
    arguments: Iterable[A],
    *,
    ended: Callable[[R], None],
    threads: int | None = None,
) -> None:
    """Call `function` for each of `arguments`, however many; only a few per thread are submitted at a time.

    Parameters
    ----------
    ended : callable
        Called with each result when it is available, in the caller's thread.
    threads : int, optional
        Threads of this process, by default `thread_count`; a cluster uses its own.

    Raises
    ------
    Exception
        The first error of a call or of `ended`; running calls end before their next window.
    KeyboardInterrupt
        The caller was interrupted, and so were the calls.
    """
    waiting = iter(arguments)
    client = active_client()
    if client is not None:
        _each_on_cluster(client, function, waiting, ended)
        return
    threads = threads or thread_count()
    if threads == 1:
        for argument in waiting:
            ended(function(argument))
        return
    interruption = Interruption()
    with ThreadPoolExecutor(threads, initializer=interruption.watch) as pool:
        under_way = {pool.submit(function, argument) for argument in islice(waiting, _HANDED_OUT * threads)}
        try:
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    ended(future.result())
                under_way |= {pool.submit(function, argument) for argument in islice(waiting, len(done))}
        except BaseException:
            interruption.request()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _each_on_cluster(
    client: Any, function: Callable[[A], R], waiting: Iterator[A], ended: Callable[[R], None]
) -> None:
    from distributed import as_completed

    def handed_out(count: int) -> list[Any]:
        return [client.submit(function, argument, pure=False) for argument in islice(waiting, count)]

    under_way = as_completed(handed_out(_HANDED_OUT * cluster_threads()), raise_errors=True)
    held = set(under_way.futures)
    try:
        for future in under_way:
            ended(future.result())
            held.discard(future)
            future.release()
            for following in handed_out(1):
                held.add(following)
                under_way.add(following)
    except BaseException:
        client.cancel(list(held))
        raise


def _scheduler() -> Callable[..., Any]:
    """Return the scheduler as a function: for a name, dask would import distributed to look for a client."""
    inline = _threads.get() == 1 or dask.config.get("scheduler", None) in _SYNCHRONOUS
    get: Callable[..., Any] = local.get_sync if inline else threaded.get
    return get


def _run_on_cluster(client: Any, tasks: Sequence[Delayed], ended: Ended, keep: Keep) -> list[Any]:
    from distributed import as_completed

    futures = client.compute(list(tasks))
    positions = {future.key: position for position, future in enumerate(futures)}
    results: list[Any] = [None] * len(futures)
    try:
        for future in as_completed(futures, raise_errors=True):
            position = positions[future.key]
            result = future.result()
            ended(position, result)
            results[position] = keep(result)
            future.release()
        return results
    except BaseException:
        client.cancel(futures)
        raise
