"""How a set of dask tasks is run: on the active cluster if there is one, else on threads of this process.

When `run` returns or raises, none of its tasks is still running here: an error leaves no thread behind
that goes on writing. Ctrl-C ends the tasks under way before their next window, and they publish nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
from dask import local, threaded
from dask.callbacks import Callback
from dask.delayed import Delayed
from dask.system import CPU_COUNT

from gdaltools.interruption import Interruption

_SYNCHRONOUS = ("synchronous", "sync", "single-threaded")


Ended = Callable[[int, Any], None]
Keep = Callable[[Any], Any]


def run(tasks: Sequence[Delayed], *, ended: Ended, keep: Keep = lambda result: result) -> list[Any]:
    """The results of `tasks`, in their order.

    Parameters
    ----------
    tasks : sequence of Delayed
        What to compute.
    ended : callable
        Told a task's position in `tasks` and its result when it has ended, in the thread of the caller.
    keep : callable
        Makes of a result what `run` returns of it, as soon as a cluster has sent it: not all need stay.

    Raises
    ------
    Exception
        The first error of a task or of `ended`; tasks not yet begun are dropped.
    KeyboardInterrupt
        The caller was interrupted, and so were the tasks.
    """
    client = _active_client()
    if client is not None:
        return _run_on_cluster(client, tasks, ended, keep)
    positions = {task.key: position for position, task in enumerate(tasks)}

    def task_ended(key: Any, result: Any, *_: object) -> None:
        if key in positions:
            ended(positions[key], result)

    interruption = Interruption()
    threads = dask.config.get("num_workers", None) or CPU_COUNT
    with (
        ThreadPoolExecutor(threads, initializer=interruption.watch) as pool,
        Callback(posttask=task_ended),
    ):
        try:
            return [keep(result) for result in dask.compute(*tasks, scheduler=_scheduler(), pool=pool)]
        except KeyboardInterrupt:
            interruption.tell()
            raise


def _scheduler() -> Callable[..., Any]:
    """As a function: given a name, dask would import all of distributed to look for a client."""
    configured = dask.config.get("scheduler", None)
    get: Callable[..., Any] = local.get_sync if configured in _SYNCHRONOUS else threaded.get
    return get


def _active_client() -> Any:
    """The `distributed` client that dask.compute would use; never the reason to import distributed."""
    distributed = sys.modules.get("distributed")
    if distributed is None or dask.config.get("scheduler", None) in ("threads", *_SYNCHRONOUS):
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None


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
