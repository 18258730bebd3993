"""The deployment's steps and settings, and a run of them against a fake az that remembers its commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.azure.__main__ import main
from deploy.azure.app_settings import OTHER_VARIABLES, STOP_SECONDS, app_settings
from deploy.azure.config import Config
from deploy.azure.steps import Facts, first_steps, steps
from gdaltools.errors import InvalidParameter
from worker.settings import Settings

Deploy = Callable[..., tuple[int, list[str]]]

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "deploy" / "azure" / "example.toml"
FACTS = Facts("11111111-0000-0000-0000-000000000001", "principal", "client")

# az, as far as the steps use it: what was created is shown from then on, unchanged.
AZ = """#!{python}
import json, pathlib, sys
state = pathlib.Path({state!r})
known = json.loads(state.read_text()) if state.exists() else {{"made": {{}}, "calls": []}}
words = sys.argv[1 : sys.argv.index("--output")]
first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
group, options = words[:first], words[first:]
verb = group.pop()
known["calls"].append([*group, verb])
if group == ["account"]:
    print(json.dumps({{"id": "subscription"}}))
    sys.exit(0)
name = options[options.index("--name") + 1] if "--name" in options else " ".join(options[:6])
key = " ".join(group) + ":" + name
if verb in ("show", "list"):
    found = known["made"].get(key)
    if found is None and verb == "show" and group != ["webapp", "config"]:
        sys.exit(3)
    if group == ["webapp", "config", "appsettings"]:
        print(json.dumps([{{"name": n, "value": v}} for n, v in (found or {{}}).items()]))
    else:
        print(json.dumps(found if found is not None else [] if verb == "list" else {{}}))
elif group == ["webapp", "config", "appsettings"]:
    given = dict(each.split("=", 1) for each in options[options.index("--settings") + 1 :])
    known["made"][key] = {{**known["made"].get(key, {{}}), **given}}
else:
    value = {{word: after for word, after in zip(options, [*options[1:], ""]) if word.startswith("--")}}
    known["made"][key] = {{
        "principalId": "principal",
        "clientId": "client",
        "sku": {{"name": value.get("--sku"), "capacity": int(value.get("--number-of-workers", 0))}},
        "lockDuration": value.get("--lock-duration"),
        "maxDeliveryCount": int(value.get("--max-delivery-count", 0)),
        "defaultMessageTimeToLive": value.get("--default-message-time-to-live"),
        "deadLetteringOnMessageExpiration": True,
        "alwaysOn": True,
        "healthCheckPath": "/livez",
        "linuxFxVersion": value.get("--linux-fx-version"),
    }}
state.write_text(json.dumps(known))
"""


@pytest.fixture
def config() -> Config:
    return Config.read(EXAMPLE)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a fake az, first on PATH, records its commands."""
    path = tmp_path / "state.json"
    command = tmp_path / "az"
    command.write_text(AZ.format(python=sys.executable, state=str(path)))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return path


@pytest.fixture
def deploy(capsys: pytest.CaptureFixture[str]) -> Deploy:
    """Deploys the example; returns the exit code and the printed lines."""

    def deploy(*arguments: str) -> tuple[int, list[str]]:
        code = main([str(EXAMPLE), *arguments])
        said = capsys.readouterr()
        return code, (said.out + said.err).splitlines()

    return deploy


def _calls(state: Path) -> list[list[str]]:
    content: dict[str, Any] = json.loads(state.read_text())
    return content["calls"]


def test_a_second_run_changes_nothing(state: Path, deploy: Deploy) -> None:
    code, said = deploy()
    assert code == 0, said
    assert {line[0] for line in said} == {"+", "~", "-"}, said
    made = len(_calls(state))
    code, said = deploy()
    assert code == 0, said
    assert {line[0] for line in said} == {"=", "-"}, said
    assert {call[-1] for call in _calls(state)[made:]} == {"show", "list"}


def test_what_if_only_looks_and_prints_the_commands(state: Path, deploy: Deploy) -> None:
    code, said = deploy("--what-if")
    assert code == 0, said
    assert {call[-1] for call in _calls(state)} == {"show", "list"}
    assert sum(line.startswith("    az ") for line in said) >= 15


def test_what_was_set_otherwise_is_set_back(state: Path, deploy: Deploy) -> None:
    deploy()
    content = json.loads(state.read_text())
    content["made"]["servicebus queue:docker-tasks"]["lockDuration"] = "PT1M"
    del content["made"]["webapp config appsettings:example-gdaltools"]["WEBSITES_PORT"]
    state.write_text(json.dumps(content))
    _, said = deploy()
    assert [line for line in said if line[0] == "~"] == [
        "~ queue docker-tasks (lockDuration)",
        "~ settings of example-gdaltools (WEBSITES_PORT)",
    ]


def test_without_az_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, deploy: Deploy) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said = deploy()
    assert code == 2
    assert "Azure CLI" in said[-1]


def test_the_identity_gets_the_roles_that_a_worker_needs(config: Config) -> None:
    roles = [step.what for step in steps(config, FACTS) if step.what.startswith("role")]
    assert roles == [
        "role AcrPull on exampleimages",
        "role Storage Blob Data Contributor on examplebronze",
        "role Storage Blob Data Contributor on examplesilver",
        "role Azure Service Bus Data Receiver on example-bus",
        "role Azure Service Bus Data Sender on example-bus",
    ]


def test_every_step_can_be_looked_for_and_made(config: Config) -> None:
    every = [*first_steps(config), *steps(config, FACTS)]
    assert len({step.what for step in every}) == len(every)
    assert all(step.look[-1] and step.make for step in every)
    assert all(step.change for step in every if step.wants)


def test_the_apps_settings_are_the_workers(config: Config) -> None:
    settings = app_settings(config, client_id="client")
    known = {name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    assert {name for name in settings if not name.startswith("WEBSITE")} <= known
    accepted = Settings(**{name.lower(): value for name, value in settings.items()})  # type: ignore[arg-type]
    assert accepted.queues == ("docker-tasks",)
    assert settings["WEBSITES_PORT"] == str(accepted.port)
    assert accepted.worker_shutdown_grace_seconds < STOP_SECONDS
    assert settings["WEBSITES_CONTAINER_STOP_TIME_LIMIT"] == "120"


def test_variables_that_are_no_settings_are_read_somewhere() -> None:
    by_libraries = {"APPLICATIONINSIGHTS_CONNECTION_STRING", "PGSSLMODE"}
    files = (path for folder in ("gdaltools", "worker") for path in (ROOT / folder).rglob("*.py"))
    code = "\n".join(path.read_text() for path in files).lower()
    assert {name for name in OTHER_VARIABLES - by_libraries if name.lower() not in code} == set()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"worker_concurency": 2}, "WORKER_CONCURENCY"),
        ({"worker_concurrency": 0}, "WORKER_CONCURRENCY"),
        ({"worker_lease_seconds": 10}, "WORKER_LEASE_SECONDS"),
    ],
)
def test_settings_that_a_worker_would_refuse_are_refused(
    config: Config, given: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidParameter, match=named):
        app_settings(config.model_copy(update={"settings": given}), client_id="client")


@pytest.mark.parametrize(
    ("text", "named"),
    [("name = 'x'", "name"), ("nonsense", "Expected"), ("plan_sku = 'F1'", "resource_group")],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(InvalidParameter, match=named):
        Config.read(path)
