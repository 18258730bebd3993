"""``python -m worker dead-letters list|show|redrive|purge``: inspect and redrive failed tasks.

When SERVICE_BUS_CONNECTION_STRING or SERVICE_BUS_NAMESPACE is set, the commands connect to the queues and to
the database of POSTGIS_* themselves. Otherwise they ask a standalone worker, as ``submit`` and ``status`` do.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, get_args

from gdaltools.errors import InvalidParameter
from gdaltools.runtime.text import one_line, printable
from worker.errors import QueueNotFound
from worker.ops.terminal import print_table
from worker.queue.dead_letter import Selection, SortOrder, parse_sequence_number, pretty
from worker.settings import ServiceSettings, load_service_settings
from worker.telemetry import logs
from worker.web.client import Client

if TYPE_CHECKING:
    from worker.ops.direct import Direct

# The most dead letters in one list.
_MAX_LIMIT = 100_000


def add_to(commands: Any) -> None:
    """Add ``dead-letters`` to the sub-commands of ``python -m worker``."""
    parser = commands.add_parser("dead-letters", help="see, redrive or purge messages of what failed")
    verbs = parser.add_subparsers(metavar="list|show|redrive|purge", required=True)

    listing = verbs.add_parser("list", help="list dead letters; of all queues their number")
    listing.add_argument("--queue", metavar="NAME", help="only this queue's, one line each")
    listing.add_argument(
        "--order", choices=get_args(SortOrder), default="newest", help="which come first (default: newest)"
    )
    listing.add_argument("--limit", type=_limit, default=50, metavar="N", help="how many (default: 50)")
    listing.set_defaults(command=_list)

    show = verbs.add_parser("show", help="show one dead letter whole, with its task and job")
    show.add_argument("sequence", metavar="SEQUENCE", help="its number in the list")
    show.set_defaults(command=_show)

    redrive = verbs.add_parser("redrive", help="let failed tasks begin anew, and remove their letters")
    redrive.set_defaults(command=_redrive)

    purge = verbs.add_parser("purge", help="remove dead letters for good")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    purge.set_defaults(command=_purge)

    for chosen in (show, redrive, purge):
        chosen.add_argument("--queue", metavar="NAME", help="whose letters (default: DOCKER_TASKS_QUEUE)")
    for chosen in (redrive, purge):
        chosen.add_argument(
            "--sequence", action="append", default=[], metavar="N", help="the letter N; repeatable"
        )
        chosen.add_argument("--task", metavar="TASK_ID", help="the letters of this task")
        chosen.add_argument("--reason", metavar="TEXT", help="the letters with this very reason")
        chosen.add_argument("--all", action="store_true", help="every letter of the queue")
    for each in (listing, show, redrive, purge):
        each.add_argument("--json", action="store_true", help="for programs")


def _list(args: argparse.Namespace) -> int:
    settings, dead_letters = _opened()
    if args.queue is None:
        return _list_queues(args, settings, dead_letters)
    found = dead_letters.dead_letters(args.queue, order=args.order, limit=args.limit)
    if args.json:
        return _print_json(found)
    shown = ("taskId", "stage", "reason", "description")
    print_table(
        ("sequence", "enqueued", "task", "stage", "reason", "description"),
        [(each["sequenceNumber"], _time(each), *(each[name] for name in shown)) for each in found["letters"]],
        shortened=("description",),
    )
    print(f"{len(found['letters'])} of {found['total']} dead letters of {one_line(args.queue)}")
    return 0


def _list_queues(args: argparse.Namespace, settings: ServiceSettings, dead_letters: Client | Direct) -> int:
    def listed(queue: str) -> dict[str, Any]:
        try:
            return dead_letters.dead_letters(queue, order=args.order, limit=1)
        except QueueNotFound:
            return {"queue": queue, "total": None, "letters": []}

    with ThreadPoolExecutor() as pool:
        queues = list(pool.map(listed, settings.all_queues))
    if args.json:
        return _print_json({"queues": queues})
    rows = []
    for each in queues:
        total = "no such queue" if each["total"] is None else each["total"]
        first = (each["letters"] or [{}])[0]
        rows.append((each["queue"], total, _time(first), first.get("reason"), first.get("description")))
    headings = ("queue", "dead letters", f"the {args.order}", "reason", "description")
    print_table(headings, rows, shortened=("description",))
    return 0


def _show(args: argparse.Namespace) -> int:
    settings, dead_letters = _opened()
    number = parse_sequence_number(args.sequence)
    dead_letter = dead_letters.dead_letter(args.queue or settings.docker_tasks_queue, number)
    if args.json:
        return _print_json(dead_letter)
    body = dead_letter.pop("body")
    for name, value in dead_letter.items():
        for label, shown in (
            ((f"{name}.{key}", each) for key, each in value.items())
            if isinstance(value, dict)
            else ((name, value),)
        ):
            if shown is not None:
                print(f"{one_line(label):<20}  {one_line(str(shown))}")
    print(f"\n{printable(pretty(body))}")
    return 0


def _redrive(args: argparse.Namespace) -> int:
    settings, dead_letters = _opened()
    return _report(args, dead_letters.redrive(args.queue or settings.docker_tasks_queue, _choice(args)))


def _purge(args: argparse.Namespace) -> int:
    settings, dead_letters = _opened()
    queue, choice = args.queue or settings.docker_tasks_queue, _choice(args)
    if not args.yes:
        if not sys.stdin.isatty():
            raise InvalidParameter("purge removes letters for good: say --yes where nobody can be asked")
        meant = "all" if args.all else json.dumps(choice)
        print(f"Purge dead letters of {one_line(queue)} for good: {meant}? [y/N] ", end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise InvalidParameter("nothing was purged")
    return _report(args, dead_letters.purge(queue, choice))


def _choice(args: argparse.Namespace) -> dict[str, Any]:
    chosen = {
        "sequences": [parse_sequence_number(text) for text in args.sequence],
        "taskId": args.task,
        "reason": args.reason,
        "all": args.all,
    }
    chosen = {name: value for name, value in chosen.items() if value not in (None, [], False)}
    if not chosen:
        raise InvalidParameter("say which letters: --sequence N, --task TASK_ID, --reason TEXT or --all")
    Selection.of(chosen)
    return chosen


def _report(args: argparse.Namespace, done: dict[str, Any]) -> int:
    rows = done["letters"]
    if args.json:
        _print_json(done)
    elif rows:
        print_table(
            ("sequence", "task", "outcome", "detail"),
            ((each["sequenceNumber"], each["taskId"], each["outcome"], each["detail"]) for each in rows),
            wrapped=("detail",),
        )
    else:
        print(f"no such dead letter in {one_line(done['queue'])}")
    outcomes = {each["outcome"] for each in rows}
    if "left" in outcomes:
        return 4
    missed = outcomes & {"refused", "absent"} or not (rows or args.all)
    return 3 if missed else 0


def _opened() -> tuple[ServiceSettings, Client | Direct]:
    settings = load_service_settings()
    if not settings.names_a_bus:
        return settings, Client.from_environment()
    from worker.ops.direct import Direct

    logs.write_text("WARNING")
    # The SDK logs as errors what it then retries; we report the final one ourselves.
    logging.getLogger("azure").setLevel(logging.CRITICAL)
    return settings, Direct(settings)


def _limit(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text) <= _MAX_LIMIT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MAX_LIMIT}")


def _time(dead_letter: dict[str, Any]) -> str:
    return str(dead_letter.get("enqueuedAt") or "")[:16].replace("T", " ")


def _print_json(answer: dict[str, Any]) -> int:
    print(json.dumps(answer, indent=2))
    return 0
