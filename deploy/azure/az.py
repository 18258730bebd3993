"""Runs the az command for the deployment's steps and returns its JSON output."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from gdaltools.errors import GdalToolsError, InvalidParameter

_NOT_FOUND = 3  # az's exit code for a resource that does not exist (Azure CLI, "az", exit codes)


class AzError(GdalToolsError):
    """The az command refused or failed."""

    retryable = False


def look(command: Sequence[str]) -> Any | None:
    """Run a command that shows a resource and return its output; None when the resource does not exist.

    Raises
    ------
    AzError
        The command failed for another reason.
    InvalidParameter
        The Azure CLI is not installed.
    """
    done = _run(command)
    if done.returncode == _NOT_FOUND:
        return None
    return _shown(command, done)


def run(command: Sequence[str]) -> Any:
    """Run a command and return its output, None when it prints none. Raises as `look`.

    A resource that does not exist is an `AzError` here.
    """
    return _shown(command, _run(command))


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["az", *command, "--output", "json", "--only-show-errors"], capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise InvalidParameter("az is not here: install the Azure CLI, and run az login") from error


def _shown(command: Sequence[str], done: subprocess.CompletedProcess[str]) -> Any:
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        raise AzError(f"az {' '.join(command[:4])} ...: {said or f'exit code {done.returncode}'}")
    return json.loads(done.stdout) if done.stdout.strip() else None
