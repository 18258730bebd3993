"""Run the notebooks from top to bottom: ``python -m notebooks.execute [01 02 ...]``.

Their outputs are stored without what differs from machine to machine: paths, times of execution, the state of
widgets. A notebook that raises, or prints to standard error, fails and stays unchanged.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parent
_SECONDS = 900
_WIDGET = "application/vnd.jupyter.widget-view+json"
_LARGEST_BYTES = 1_500_000


class NotebookFailed(Exception):
    """A notebook raised, printed to standard error, or grew too large to be stored."""


def notebooks(chosen: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks whose names begin with one of `chosen`; all of them for none."""
    return [
        path
        for path in sorted(FOLDER.glob("*.ipynb"))
        if not chosen or any(path.name.startswith(name) for name in chosen)
    ]


def execute(path: Path, *, folder: Path = FOLDER) -> Any:
    """Run a notebook in `folder` and return it with its outputs.

    Raises
    ------
    NotebookFailed
        A cell raised, or something was printed to standard error, or the notebook is too large with its
        outputs.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=_SECONDS, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute(env=os.environ | {"COLUMNS": "100"})
    except CellExecutionError as error:
        raise NotebookFailed(f"{path.name}: {error}") from error
    _clean(notebook, folder)
    for output in (out for cell in notebook.cells for out in cell.get("outputs", ())):
        if output.get("name") == "stderr":
            raise NotebookFailed(f"{path.name} prints to standard error: {output['text']}")
    size = len(json.dumps(notebook))
    if size > _LARGEST_BYTES:
        raise NotebookFailed(
            f"{path.name} is of {size} bytes with its outputs: the limit is {_LARGEST_BYTES}"
        )
    return notebook


def _clean(notebook: Any, folder: Path) -> None:
    """Remove what only a machine reads, and what differs from machine to machine."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if data.pop(_WIDGET, None) is not None:
                data["text/plain"] = "(interactive: run the cell to see it)"
            if "metadata" in output:
                output.metadata = {}
            texts = [(data, kind) for kind in data if kind.startswith("text/")]
            for holder, key in [(output, "text"), *texts]:
                if key in holder:
                    holder[key] = _without_paths(holder[key], folder)


def _without_paths(text: str, folder: Path) -> str:
    text = text.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen notebooks and write them; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of names, as 01; by default all")
    failed = False
    for path in notebooks(parser.parse_args(arguments).names):
        began = time.monotonic()
        try:
            nbformat.write(execute(path), path)
        except NotebookFailed as error:
            failed = True
            print(error, file=sys.stderr)
            continue
        seconds, size = time.monotonic() - began, path.stat().st_size
        print(f"{path.name}: {seconds:.0f} s, {size / 1e3:.0f} kB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
