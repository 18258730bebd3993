"""Every az command of a deployment is one that the real Azure CLI understands (make deploy-test)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from deploy.azure.config import Config
from deploy.azure.steps import Facts, first_steps, steps

pytestmark = [pytest.mark.az, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PARSER = ROOT / "tests" / "support" / "az_parser.py"


def _commands() -> list[tuple[str, ...]]:
    config = Config.read(ROOT / "deploy" / "azure" / "example.toml")
    every = [*first_steps(config), *steps(config, Facts("subscription", "principal", "client"))]
    found = [command for step in every for command in (step.look, step.make, step.change) if command]
    return [("account", "show"), *dict.fromkeys(found)]


def _answers(commands: list[tuple[str, ...]], home: Path) -> list[str]:
    python = os.environ.get("AZ_PYTHON")
    if python is None:
        pytest.skip("AZ_PYTHON does not name a Python with azure-cli: make deploy-test")
    done = subprocess.run(
        [python, "-P", PARSER],  # a module beside it is called platform
        input="\n".join(json.dumps(command) for command in commands),
        env={**os.environ, "AZURE_CONFIG_DIR": str(home), "AZURE_CORE_COLLECT_TELEMETRY": "false"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_azure_cli_understands_every_command(tmp_path: Path) -> None:
    commands = _commands()
    answers = _answers(commands, tmp_path)
    assert len(answers) == len(commands)
    refused = {" ".join(command): said for command, said in zip(commands, answers, strict=True) if said}
    assert not refused


def test_it_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    answers = _answers([("webapp", "create", "--always-off"), ("webapp", "creat")], tmp_path)
    assert all(answers)
