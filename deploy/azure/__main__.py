"""Create or update a deployment of the worker: ``python -m deploy.azure CONFIG.toml [--what-if]``.

It can be repeated: resources that are already as configured stay unchanged. With ``--what-if`` it changes
nothing and prints each az command that it would run. It runs az as the account that is logged in, which needs
Contributor and the right to assign roles; for the database it must also be the Entra administrator
(postgres_admin).
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from deploy.azure import az
from deploy.azure.app_settings import app_settings
from deploy.azure.config import Config
from deploy.azure.steps import Facts, Step, first_steps, steps
from gdaltools.errors import GdalToolsError

_NOT_YET = "00000000-0000-0000-0000-000000000000"


def main(arguments: list[str] | None = None) -> int:
    """Deploy; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.azure", description=__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG.toml", help="see deploy/azure/example.toml")
    parser.add_argument("--what-if", action="store_true", help="only say what would be done")
    given = parser.parse_args(arguments)
    try:
        config = Config.read(given.config)
        app_settings(config, client_id=_NOT_YET)
        _carry_out(first_steps(config), what_if=given.what_if)
        facts = _facts(config)
        _carry_out(steps(config, facts), what_if=given.what_if)
        return _provision_database(config, what_if=given.what_if)
    except GdalToolsError as error:
        print(f"deploy.azure: {error}", file=sys.stderr)
        return 2


def _carry_out(wanted: Iterable[Step], *, what_if: bool) -> None:
    for step in wanted:
        found = az.look(step.look)
        if found is None or found == []:
            _do("+", step.what, step.make, what_if=what_if)
        elif differ := step.differences(found):
            _do("~", f"{step.what} ({', '.join(differ)})", step.change, what_if=what_if)
        else:
            print(f"= {step.what}")


def _do(sign: str, what: str, command: tuple[str, ...], *, what_if: bool) -> None:
    print(f"{sign} {what}", flush=True)
    if what_if:
        print(f"    {shlex.join(('az', *command))}")
    else:
        az.run(command)


def _facts(config: Config) -> Facts:
    subscription = az.run(("account", "show"))["id"]
    here = ("--name", config.identity, "--resource-group", config.resource_group)
    identity = az.look(("identity", "show", *here)) or {"principalId": _NOT_YET, "clientId": _NOT_YET}
    return Facts(subscription, identity["principalId"], identity["clientId"])


def _provision_database(config: Config, *, what_if: bool) -> int:
    if config.postgres_admin is None:
        print(f"- database: as its administrator, python -m worker provision --grant-to {config.identity}")
        return 0
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SERVICE_BUS_")},
        **app_settings(config, client_id=""),
        "POSTGIS_USER": config.postgres_admin,
    }
    # The logged-in account, not the app's identity, creates the schema; the queues already exist.
    del environment["AZURE_CLIENT_ID"]
    command = [sys.executable, "-m", "worker", "provision", "--database-only", "--grant-to", config.identity]
    print("~ database", flush=True)
    if what_if:
        command.append("--what-if")
    return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
