"""``python -m worker [run|submit|status|tasks|demo]``: what an engineer types.

Exit codes: 0 it worked, 1 the job failed, 2 the configuration or the arguments are wrong, 3 the source, job
or service is not there, 4 something that may pass. Errors are one line on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gdaltools.errors import GdalToolsError, InvalidParameter, SourceNotFound
from worker.errors import ConfigurationError, JobNotFound, Stopped
from worker.settings import load_settings

_JOB_TYPE = "process_large_raster_v2"
# Columns of a table that goes into a file or a pipe.
_PIPED_WIDTH = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.command(given))
    except GdalToolsError as error:
        print(f"python -m worker: {error}", file=sys.stderr)
        return _exit_code(error)
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    parser.set_defaults(command=_run)
    commands = parser.add_subparsers(metavar="COMMAND")

    run = commands.add_parser("run", help="serve the queues that APP_MODE says (the default)")
    run.set_defaults(command=_run)

    submit = commands.add_parser("submit", help="submit a job to a running standalone worker")
    submit.add_argument("job_type", metavar="JOB_TYPE", help=f"for example {_JOB_TYPE}")
    submit.add_argument(
        "--container", required=True, help="the source's container, for example bronze-rasters"
    )
    submit.add_argument("--blob", required=True, help="the source's name in its container")
    submit.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a further job parameter; the value is JSON, else text; repeatable",
    )
    submit.add_argument("--wait", action="store_true", help="wait until the job is over")
    submit.set_defaults(command=_submit)

    for name, help_text, command in (
        ("status", "show a job", _status),
        ("tasks", "list a job's tasks", _tasks),
    ):
        shown = commands.add_parser(name, help=help_text)
        shown.add_argument("job_id", metavar="JOB_ID")
        shown.set_defaults(command=command)

    demo = commands.add_parser("demo", help="run the whole job on real imagery, on this machine alone")
    demo.add_argument("--input", type=Path, metavar="PATH", help="a raster of your own instead")
    demo.add_argument("--keep", action="store_true", help="leave the services up until Ctrl-C")
    demo.set_defaults(command=_demo)
    return parser


def _run(_: argparse.Namespace) -> int:
    settings = load_settings()
    _log_to_stderr(settings.log_level)
    from worker.runner import own_temporary_folder
    from worker.service import serving, stop_on_signals

    async def run() -> None:
        stopping = asyncio.Event()
        stop_on_signals(stopping)
        async with serving(settings, stopping=stopping) as service:
            logging.getLogger("worker").info(
                "%s serves %s; probes on port %d", settings.app_mode, ", ".join(settings.queues), service.port
            )
            await service.wait(stopping)

    with own_temporary_folder(), suppress(Stopped):
        asyncio.run(run())
    return 0


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # The SDK tells each link and session of every connection at INFO.
    for noisy in ("azure", "aiohttp", "rasterio", "distributed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # What fails to connect is told by whoever needed the connection.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def _submit(given: argparse.Namespace) -> int:
    from worker.client import Client

    parameters: dict[str, Any] = {"container_name": given.container, "blob_name": given.blob}
    for text in given.parameter:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidParameter(f"--parameter {text!r}: write NAME=VALUE")
        parameters[name] = _json_or_text(value)
    client = Client.from_environment()
    submitted = client.submit(given.job_type, parameters)
    if not given.wait:
        return _show(submitted)
    return _show(client.wait(submitted["jobId"]))


def _status(given: argparse.Namespace) -> int:
    from worker.client import Client

    return _show(Client.from_environment().status(given.job_id))


def _tasks(given: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from worker.client import Client

    table = Table()
    for heading in ("task", "stage", "status", "queue", "retries", "progress", "error"):
        table.add_column(heading, no_wrap=heading != "error")
    for task in Client.from_environment().tasks(given.job_id):
        progress = task["progress"] or {}
        shown = (
            task["taskId"],
            task["stage"],
            task["status"],
            task["queue"],
            task["retryCount"],
            f"{progress['percent']:g}%" if "percent" in progress else "",
            task["errorDetails"] or "",
        )
        table.add_row(*(Text(str(value)) for value in shown))
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH).print(table)
    return 0


def _demo(given: argparse.Namespace) -> int:
    from worker.demo import demo

    _log_to_stderr("ERROR")
    return demo(source=given.input, keep=given.keep)


def _show(job: dict[str, Any]) -> int:
    print(json.dumps(job, indent=2))
    return 1 if job.get("status") == "failed" else 0


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _exit_code(error: GdalToolsError) -> int:
    if isinstance(error, SourceNotFound | JobNotFound):
        return 3
    if isinstance(error, ConfigurationError | InvalidParameter):
        return 2
    return 4 if error.retryable else 3
