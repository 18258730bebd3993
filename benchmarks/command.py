"""What the command lines of the benchmarks share: exit codes, arguments, and messages to stderr."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gdaltools.errors import GdalToolsError

OK, USAGE, INTERRUPTED = 0, 2, 130


def run_command(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    run: Callable[[argparse.Namespace], int],
    *,
    codes: dict[type[GdalToolsError], int] | None = None,
    interrupted: str = "interrupted",
) -> int:
    """Parse `arguments`, call `run` with them, and return the exit code; errors are said on stderr.

    Parameters
    ----------
    codes : dict, optional
        Exit codes of errors that are not wrong usage.
    """
    try:
        return run(parser.parse_args(arguments))
    except SystemExit as end:  # argparse printed usage or help already
        return int(end.code or 0)
    except KeyboardInterrupt:
        say(interrupted)
        return INTERRUPTED
    except GdalToolsError as error:
        say(f"{parser.prog.removeprefix('python -m ')}: {error}")
        return (codes or {}).get(type(error), USAGE)


def exit_with(main: Callable[[], int]) -> None:
    """Exit with what `main` returns; SIGTERM ends a measured child first, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())


def say(text: str) -> None:
    """Print one line to stderr."""
    print(text, file=sys.stderr, flush=True)


def now() -> str:
    """Return the current time in ISO 8601, in whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def positive(text: str) -> float:
    """Parse an argument that is a number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def add_inputs(group: Any) -> None:
    """Add ``--inputs``, the folder where the sources of all benchmarks are kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    group.add_argument(
        "--inputs",
        type=Path,
        default=cache / "gdaltools-benchmarks",
        metavar="FOLDER",
        help="where sources are kept, and outputs written meanwhile",
    )


def as_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments as JSON can hold them; paths are reduced to their names."""
    return {name: value.name if isinstance(value, Path) else value for name, value in vars(args).items()}
