"""Task types for tests, run like any other: importing this module in a task's process registers them.

They do on purpose what rasters do only by accident: nothing at all, stand still, use memory, die.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import Any

import numpy as np

from gdaltools.cost.estimation import estimate_workload
from gdaltools.cost.workload import Workload, square_layout
from gdaltools.display.progress import ProgressOption
from gdaltools.display.reporting import reporting
from gdaltools.errors import StorageError
from gdaltools.runtime.phases import phase
from worker.job.expectations import Expected
from worker.task import handlers
from worker.task.handlers import Handler, Parameters


class NoParameters(Parameters):
    pass


class Seconds(Parameters):
    seconds: float = 0.1


class Megabytes(Parameters):
    megabytes: int


class Signal(Parameters):
    number: int = signal.SIGKILL


def do_nothing(parameters: NoParameters, progress: ProgressOption) -> dict[str, Any]:
    return {}


def sleep(parameters: Seconds, progress: ProgressOption) -> dict[str, Any]:
    time.sleep(parameters.seconds)
    return {}


def compute(parameters: Seconds, progress: ProgressOption) -> dict[str, Any]:
    until = time.monotonic() + parameters.seconds
    while time.monotonic() < until:
        np.sort(np.random.default_rng(0).random(100_000))
    return {}


def stand_still(parameters: Seconds, progress: ProgressOption) -> dict[str, Any]:
    with reporting(progress, label="steps", total=3, unit="steps") as advance:
        advance(1)
        time.sleep(parameters.seconds)
    return {}


def use_memory(parameters: Megabytes, progress: ProgressOption) -> dict[str, Any]:
    held = [np.ones(1 << 17) for _ in range(parameters.megabytes)]
    time.sleep(30)
    return {"held": len(held)}


def die(parameters: Signal, progress: ProgressOption) -> dict[str, Any]:
    os.kill(os.getpid(), parameters.number)
    time.sleep(30)
    return {}


def leave(parameters: NoParameters, progress: ProgressOption) -> dict[str, Any]:
    os._exit(7)


def meet_bad_storage(parameters: NoParameters, progress: ProgressOption) -> dict[str, Any]:
    raise StorageError("the storage is not well today")


def tell_secrets(parameters: NoParameters, progress: ProgressOption) -> dict[str, Any]:
    raise RuntimeError(" and ".join(value for value in os.environ.values() if value.startswith("planted-")))


def say_something(parameters: NoParameters, progress: ProgressOption) -> dict[str, Any]:
    with phase("read"):
        logging.getLogger("tests").warning("said by a task's process")
    return {}


def needs_much(task_type: str, parameters: Any) -> Expected | None:
    """Return the test's own expectation if `parameters` have one, else the task type's."""
    if "needs_mb" not in parameters:
        return _expectation(task_type, parameters)
    work = Workload("create_cog", "analysis", square_layout(1), cores=1)
    estimate = estimate_workload(work).model_copy(update={"peak_memory_mb": float(parameters["needs_mb"])})
    return Expected(((work, estimate),))


_expectation = handlers.expectation
handlers.expectation = needs_much
handlers.HANDLERS |= {  # type: ignore[operator]
    "do_nothing": Handler(NoParameters, do_nothing),
    "sleep": Handler(Seconds, sleep),
    "compute": Handler(Seconds, compute),
    "stand_still": Handler(Seconds, stand_still),
    "use_memory": Handler(Megabytes, use_memory),
    "die": Handler(Signal, die),
    "leave": Handler(NoParameters, leave),
    "say_something": Handler(NoParameters, say_something),
    "tell_secrets": Handler(NoParameters, tell_secrets),
    "meet_bad_storage": Handler(NoParameters, meet_bad_storage),
}
