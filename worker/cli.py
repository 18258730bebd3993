"""``python -m worker [run|submit|status|tasks|dead-letters|provision|doctor|demo]``: what an engineer types.

Exit codes: 0 it worked, 1 the job failed or doctor found a problem, 2 the configuration or the arguments are
wrong, 3 the source, job, queue or dead letter is not there, or the letter cannot be redriven, 4 something
that may pass. Errors are one line on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from gdaltools.errors import GdalToolsError, InvalidParameter, SourceNotFound
from gdaltools.runtime.text import one_line
from worker.errors import ConfigurationError, JobNotFound, Stopped
from worker.ops import commands as operations_cli
from worker.ops import dead_letter_commands
from worker.ops.terminal import print_table
from worker.settings import load_settings
from worker.telemetry import logs

_JOB_TYPE = "process_large_raster_v2"
# The time for which --once waits for its message; the platform that started it has seen one in the queue.
_ONCE_IDLE_SECONDS = 30.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        args = _parser().parse_args(arguments)
        return int(args.command(args))
    except GdalToolsError as error:
        print(f"python -m worker: {one_line(str(error))}", file=sys.stderr)
        return _exit_code(error)
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser that accepts no abbreviated options and reports errors in one line, like all other errors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise InvalidParameter(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m worker", description=__doc__)
    parser.set_defaults(command=_run)
    _add_run_options(parser, once=False, idle_exit=None)
    commands = parser.add_subparsers(metavar="COMMAND")

    run = commands.add_parser("run", help="serve the queues that APP_MODE says (the default)")
    # Options before the command's name apply unless they are repeated after it.
    _add_run_options(run, once=argparse.SUPPRESS, idle_exit=argparse.SUPPRESS)
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

    dead_letter_commands.add_to(commands)
    operations_cli.add_to(commands)

    demo = commands.add_parser("demo", help="run the whole job on real imagery, on this machine alone")
    demo.add_argument("--input", type=Path, metavar="PATH", help="a raster of your own instead")
    demo.add_argument("--keep", action="store_true", help="leave the services up until Ctrl-C")
    demo.set_defaults(command=_demo)
    return parser


def _add_run_options(parser: argparse.ArgumentParser, *, once: Any, idle_exit: Any) -> None:
    parser.add_argument(
        "--once", action="store_true", default=once, help="take one message, then end (a mode of one queue)"
    )
    parser.add_argument(
        "--idle-exit",
        type=_positive_seconds,
        default=idle_exit,
        metavar="SECONDS",
        help=f"end when there was no message for so long (with --once {_ONCE_IDLE_SECONDS:g}, else never)",
    )


def _positive_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError
    return seconds


def _run(args: argparse.Namespace) -> int:
    # Before the event loop runs, no message is held, so the process can exit at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load_settings()
    if args.once and len(settings.queues) > 1:
        raise ConfigurationError(
            f"--once takes one message of one queue, and APP_MODE={settings.app_mode} serves "
            f"{', '.join(settings.queues)}: use worker_docker, worker_raster or worker_vector"
        )
    logs.write(settings)
    from worker.service.assembly import serving, stop_on_signals
    from worker.service.shift import Shift
    from worker.task.runner import own_temporary_folder

    async def run() -> None:
        stopping = asyncio.Event()
        stop_on_signals(stopping)
        idle_seconds = args.idle_exit or (_ONCE_IDLE_SECONDS if args.once else None)
        shift = Shift(stopping, once=args.once, idle_seconds=idle_seconds)
        async with serving(settings, stopping=stopping, shift=shift) as service:
            logging.getLogger("worker").info(
                "%s serves %s; probes and the status page (/) on port %d",
                settings.app_mode,
                ", ".join(settings.queues),
                service.port,
            )
            await service.wait(stopping)
            if shift.is_over:
                await service.leave_nothing()

    with own_temporary_folder(), suppress(Stopped):
        asyncio.run(run())
    return 0


def _submit(args: argparse.Namespace) -> int:
    from worker.web.client import Client

    parameters: dict[str, Any] = {"container_name": args.container, "blob_name": args.blob}
    for text in args.parameter:
        name, separator, value = text.partition("=")
        if not separator:
            raise InvalidParameter(f"--parameter {text!r}: write NAME=VALUE")
        parameters[name] = _json_or_text(value)
    job = Client.from_environment().submit(args.job_type, parameters)
    if not args.wait:
        return _show(job.submitted)
    return _show(job.wait())


def _status(args: argparse.Namespace) -> int:
    from worker.web.client import Client

    return _show(Client.from_environment().status(args.job_id))


def _tasks(args: argparse.Namespace) -> int:
    from worker.web.client import Client

    shown = ("taskId", "stage", "status", "queue", "retryCount")
    rows = []
    for task in Client.from_environment().tasks(args.job_id):
        percent = (task["progress"] or {}).get("percent")
        progress = "" if percent is None else f"{percent:g}%"
        rows.append((*(task[name] for name in shown), progress, task["errorDetails"]))
    headings = ("task", "stage", "status", "queue", "retries", "progress", "error")
    print_table(headings, rows, wrapped=("error",))
    return 0


def _demo(args: argparse.Namespace) -> int:
    from worker.ops.demo import demo

    logs.write_text("ERROR")
    return demo(source=args.input, keep=args.keep)


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
