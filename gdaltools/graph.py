"""How a set of dask tasks is run: on the active cluster if there is one, else on threads of this process.

When `run` returns or raises, none of its tasks is still running here: an error leaves no thread behind
that goes on writing.
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

_SYNCHRONOUS = ("synchronous", "sync", "single-threaded")


def run(tasks: Sequence[Delayed], *, weights: Sequence[int], advance: Callable[[int], None]) -> list[Any]:
    """The results of `tasks`, in their order.

    Parameters
    ----------
    tasks : sequence of Delayed
        What to compute.
    weights : sequence of int
        How much progress each task's end is worth.
    advance : callable
        Told a task's weight when it has ended.

    Raises
    ------
    Exception
        The first error of a task; those not yet begun are dropped.
    """
    client = _active_client()
    if client is not None:
        return _run_on_cluster(client, tasks, weights, advance)
    weight_of = {task.key: weight for task, weight in zip(tasks, weights, strict=True)}

    def ended(key: Any, *_: object) -> None:
        if key in weight_of:
            advance(weight_of[key])

    with (
        ThreadPoolExecutor(dask.config.get("num_workers", None) or CPU_COUNT) as pool,
        Callback(posttask=ended),
    ):
        return list(dask.compute(*tasks, scheduler=_scheduler(), pool=pool))


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


def _run_on_cluster(
    client: Any, tasks: Sequence[Delayed], weights: Sequence[int], advance: Callable[[int], None]
) -> list[Any]:
    from distributed import as_completed

    futures = client.compute(list(tasks))
    weight_of = dict(zip((future.key for future in futures), weights, strict=True))
    try:
        for future in as_completed(futures, raise_errors=True):
            future.result()
            advance(weight_of[future.key])
        return list(client.gather(futures))
    except BaseException:
        client.cancel(futures)
        raise
