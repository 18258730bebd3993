"""``python -m worker provision|doctor``: set up a worker, and diagnose one that does not work."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict
from typing import Any

from worker.errors import ConfigurationError
from worker.ops.terminal import print_table
from worker.settings import load_settings
from worker.telemetry import logs


def add_to(commands: Any) -> None:
    """Add ``provision`` and ``doctor`` to the sub-commands of ``python -m worker``."""
    provision = commands.add_parser("provision", help="make the queues and the schema that are missing")
    provision.add_argument("--update", action="store_true", help="also set queues that are there rightly")
    provision.add_argument("--what-if", action="store_true", help="only say what would be done")
    provision.add_argument(
        "--grant-to", metavar="ROLE", help="let this role of the database use the schema: the worker's"
    )
    provision.add_argument("--database-only", action="store_true", help="leave the queues alone")
    provision.set_defaults(command=_provision)

    doctor = commands.add_parser("doctor", help="see what of this set-up works, and how to mend the rest")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(command=_doctor)


def _provision(args: argparse.Namespace) -> int:
    settings = load_settings()
    logs.write_text("WARNING")
    from worker.ops.provision import provision

    made = asyncio.run(
        provision(
            settings,
            queues=not args.database_only,
            update=args.update,
            what_if=args.what_if,
            grant_to=args.grant_to,
        )
    )
    rows = [(each.part, each.done, each.detail) for each in made]
    print_table(("part", "state", ""), rows, wrapped=("",))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    logs.write_text("ERROR")
    from worker.ops.doctor import examine, of_configuration

    try:
        found = asyncio.run(examine(load_settings()))
    except ConfigurationError as error:
        found = [of_configuration(error)]
    if args.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        rows = [(each.part, each.state, each.said, each.remedy) for each in found]
        print_table(
            ("part", "state", "what was found", "what to do"), rows, wrapped=("what was found", "what to do")
        )
    return 1 if any(finding.state == "problem" for finding in found) else 0
