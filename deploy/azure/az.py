"""The az command, as far as steps need it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from gdaltools.errors import GdalToolsError, InvalidParameter

_NOT_FOUND = 3  # az's exit code where a resource is not there (Azure CLI, "az", exit codes)


class AzError(GdalToolsError):
    """az refused, or failed."""

    retryable = False


def look(command: Sequence[str]) -> Any | None:
    """What a command shows; None where what it looks for is not there.

    Raises
    ------
    AzError
        It failed for another reason.
    """
    done = _run(command)
    if done.returncode == _NOT_FOUND:
        return None
    return _shown(command, done)


def run(command: Sequence[str]) -> Any:
    """What a command shows when it has done what it does. Raises as `look`."""
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
