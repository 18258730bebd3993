"""docs/operations.md covers every warning and error that the worker logs, and every error of a task."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gdaltools import errors as raster_errors
from worker import errors as worker_errors
from worker.telemetry.metrics import METRICS

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

LEVELS = ("warning", "error", "exception", "log")
# Errors that a task can end with; others never reach a row.
OF_TASKS = ("TaskFailed", "TaskTimedOut", "TaskStalled", "ChildDied", "OutOfMemory", "WorkerDied")


def _messages() -> Iterator[str]:
    """Yield the formats of everything logged at WARNING or above outside of `worker.local`."""
    worker = ROOT / "worker"
    for path in sorted(each for each in worker.rglob("*.py") if worker / "local" not in each.parents):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            if not (
                isinstance(owner, ast.Name) and owner.id in ("log", "_LOGGER") and node.func.attr in LEVELS
            ):
                continue
            texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
            yield from (text for text in texts if isinstance(text, str))


@pytest.mark.parametrize("message", sorted(set(_messages())))
def test_a_message_of_the_log_is_explained(message: str) -> None:
    parts = [part.strip(" :") for part in re.split(r"%[-+.0-9]*[a-z]", message)]
    assert all(part in PAGE for part in parts if len(part) > 3), message


@pytest.mark.parametrize(
    "error",
    sorted(
        {
            *OF_TASKS,
            *(
                name
                for name, kind in vars(raster_errors).items()
                if isinstance(kind, type) and issubclass(kind, raster_errors.GdalToolsError)
            ),
        }
        - {"GdalToolsError", "TaskFailed", "BindingsMissing", "MissingExtra"}
    ),
)
def test_an_error_of_a_task_is_explained(error: str) -> None:
    assert hasattr(worker_errors, error) or hasattr(raster_errors, error)
    assert f"`{error}`" in PAGE


@pytest.mark.parametrize("name", sorted(each.name for each in METRICS.recorded))
def test_a_metric_is_named(name: str) -> None:
    assert name in PAGE
