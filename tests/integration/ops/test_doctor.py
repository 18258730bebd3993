"""``doctor`` names each broken part of a set-up, and no other."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gdaltools.storage.azure import accounts
from tests.support.commands import WORKER, environment_with
from tests.support.services import postgres
from tests.support.services.azurite import azurite
from tests.support.services.certificate import certificate
from tests.support.services.identity import identity_endpoint
from tests.support.services.queue_management import queue_management
from worker.local.broker.server import BrokerThread, QueueSpec, Token
from worker.ops.doctor import Finding, examine
from worker.settings import AppMode, Settings

pytestmark = pytest.mark.azurite

QUEUES = [QueueSpec("docker-tasks"), QueueSpec("geospatial-jobs")]
ROLE = "doctored_worker"


@pytest.fixture(scope="module")
def blobs() -> Iterator[str]:
    with azurite() as text:
        yield text


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerThread]:
    with BrokerThread(QUEUES) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(blobs: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("GDALTOOLS_BLOB_ROOT", "AZURE_CLIENT_ID", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", blobs)
    monkeypatch.setenv("GDALTOOLS_STORAGE_RETRY_SECONDS", "1")
    yield monkeypatch
    for kept in (accounts.identity, accounts.service, accounts.filesystem):
        kept.cache_clear()


@pytest.fixture
def settings(conninfo: str, broker: BrokerThread) -> Settings:
    return _settings(conninfo, service_bus_connection_string=broker.connection_string)


def _settings(conninfo: str, **given: Any) -> Settings:
    return Settings(app_mode=AppMode.WORKER_DOCKER, **{**postgres.parts(conninfo), **given})


async def _problems(settings: Settings, *, now: Callable[[], float] = time.time) -> dict[str, Finding]:
    found = await examine(settings, now=now)
    return {finding.part: finding for finding in found if finding.state == "problem"}


async def test_a_set_up_that_works_has_no_problems(settings: Settings) -> None:
    found = await examine(settings)
    assert {finding.part: finding.state for finding in found} == {
        "identity": "ok",
        "gdal": "ok",
        "scratch": "ok",
        "storage": "ok",
        "receive from docker-tasks": "ok",
        "send to docker-tasks": "ok",
        "send to geospatial-jobs": "ok",
        "queue settings": "unknown",
        "database": "ok",
        "schema app": "ok",
        "clock": "ok",
    }


def test_settings_that_are_wrong_are_the_first_problem() -> None:
    done = subprocess.run(
        [*WORKER, "doctor", "--json"],
        env=environment_with(APP_MODE="worker_docker"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    (finding,) = json.loads(done.stdout)
    assert (finding["part"], finding["state"]) == ("settings", "problem")
    assert "SERVICE_BUS_NAMESPACE" in finding["said"]


async def test_an_identity_that_is_not_assigned(
    settings: Settings, conninfo: str, environment: pytest.MonkeyPatch
) -> None:
    environment.delenv("AZURE_STORAGE_CONNECTION_STRING")
    environment.setenv("AZURE_STORAGE_ACCOUNT", "example")
    environment.setenv("AZURE_CLIENT_ID", "11111111-0000-0000-0000-000000000000")
    with identity_endpoint() as endpoint:
        endpoint.status = 400
        for name, value in endpoint.environment.items():
            environment.setenv(name, value)
        problems = await _problems(settings)
    assert problems.keys() == {"identity for storage"}
    assert "AZURE_CLIENT_ID" in problems["identity for storage"].remedy


async def test_a_missing_role_on_storage(
    settings: Settings, environment: pytest.MonkeyPatch, blobs: str
) -> None:
    key = blobs.partition("AccountKey=")[2].partition(";")[0]
    environment.setenv("AZURE_STORAGE_CONNECTION_STRING", blobs.replace(key, "bm90IHRoZSBrZXk="))
    problems = await _problems(settings)
    assert problems.keys() == {"storage"}
    assert "Storage Blob Data Contributor" in problems["storage"].remedy


async def test_storage_that_is_not_there(settings: Settings, environment: pytest.MonkeyPatch) -> None:
    environment.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        "DefaultEndpointsProtocol=http;AccountName=x;AccountKey=bm8=;BlobEndpoint=http://127.0.0.1:9/x;",
    )
    problems = await _problems(settings)
    assert problems.keys() == {"storage"}
    assert "account" in problems["storage"].remedy


async def test_a_queue_that_is_missing(settings: Settings) -> None:
    problems = await _problems(settings.model_copy(update={"jobs_queue": "other-jobs"}))
    assert problems.keys() == {"send to other-jobs"}
    assert "provision" in problems["send to other-jobs"].remedy


@pytest.mark.parametrize(
    ("queue", "named"),
    [
        ("docker-tasks", {"receive from docker-tasks", "send to docker-tasks"}),
        ("geospatial-jobs", {"send to geospatial-jobs"}),
    ],
)
async def test_a_missing_role_on_the_queues(conninfo: str, queue: str, named: set[str]) -> None:
    def accept(token: Token) -> bool:
        return not token.audience.endswith(queue)

    with BrokerThread(QUEUES, accept_token=accept) as strict:
        problems = await _problems(
            _settings(conninfo, service_bus_connection_string=strict.connection_string)
        )
    assert problems.keys() == named
    assert all("Azure Service Bus Data" in finding.remedy for finding in problems.values())


async def test_queues_that_are_set_wrongly(conninfo: str, environment: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = certificate(Path(folder))
        environment.setattr(
            "aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=files[0])
        )
        with queue_management(files) as management, identity_endpoint() as endpoint:
            for name, value in endpoint.environment.items():
                environment.setenv(name, value)
            for queue in ("docker-tasks", "geospatial-jobs"):
                management.queues[queue] = {
                    "LockDuration": "PT1M" if queue == "docker-tasks" else "PT5M",
                    "MaxDeliveryCount": "3",
                    "DefaultMessageTimeToLive": "P7D",
                    "DeadLetteringOnMessageExpiration": "true",
                    "RequiresDuplicateDetection": "false",
                }
            settings = _settings(conninfo, service_bus_namespace=management.namespace)
            # No AMQP is served there, but this test is about something else.
            problems = {
                part: finding
                for part, finding in (await _problems(settings)).items()
                if part.startswith("settings of")
            }
    assert problems.keys() == {"settings of docker-tasks", "settings of geospatial-jobs"}
    assert "lock_duration is 0:01:00, should be 0:05:00" in problems["settings of docker-tasks"].said
    assert "new queue" in problems["settings of geospatial-jobs"].remedy


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"postgis_host": "127.0.0.1", "postgis_port": 9}, "POSTGIS_HOST"),
        ({"postgis_database": "nowhere"}, "POSTGIS_DATABASE"),
    ],
)
async def test_a_database_that_is_not_there(settings: Settings, given: dict[str, Any], hint: str) -> None:
    problems = await _problems(settings.model_copy(update=given))
    assert problems.keys() == {"database"}
    assert hint in problems["database"].remedy


async def test_a_schema_that_is_not_there(settings: Settings) -> None:
    problems = await _problems(settings.model_copy(update={"app_schema": "elsewhere"}))
    assert problems.keys() == {"schema elsewhere"}
    assert "table tasks" in problems["schema elsewhere"].said


async def test_rights_that_are_missing(settings: Settings, conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(f"create role {ROLE} login")
        connection.execute(f"grant usage on schema app to {ROLE}")
        connection.execute(f"grant select on app.jobs, app.tasks to {ROLE}")
    try:
        problems = await _problems(settings.model_copy(update={"postgis_user": ROLE}))
    finally:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(f"drop owned by {ROLE}")
            connection.execute(f"drop role {ROLE}")
    assert problems.keys() == {"schema app"}
    assert "UPDATE on app.tasks" in problems["schema app"].said
    assert "SELECT on app.tasks" not in problems["schema app"].said
    assert f"--grant-to {ROLE}" in problems["schema app"].remedy


async def test_a_clock_that_is_wrong(settings: Settings) -> None:
    problems = await _problems(settings, now=lambda: time.time() - 400)
    assert problems.keys() == {"clock"}
    assert "behind" in problems["clock"].said


@pytest.mark.parametrize("folder", ["/nowhere", "/proc"])
async def test_scratch_that_cannot_be_written_to(
    settings: Settings, environment: pytest.MonkeyPatch, folder: str
) -> None:
    environment.setenv("TMPDIR", folder)
    assert (await _problems(settings)).keys() == {"scratch"}


async def test_a_full_disk(settings: Settings) -> None:
    problems = await _problems(settings.model_copy(update={"worker_min_free_disk_mb": 1e12}))
    assert problems.keys() == {"scratch"}
    assert "WORKER_MIN_FREE_DISK_MB" in problems["scratch"].said


def test_another_projs_data_is_told() -> None:
    with tempfile.TemporaryDirectory() as folder:
        script = "from worker.ops.doctor import _try_gdal; f, = _try_gdal(); print(f.state, f.remedy)"
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=environment_with(PROJ_DATA=folder, PROJ_LIB=folder),
            capture_output=True,
            text=True,
        )
    assert "problem" in done.stdout, done.stdout + done.stderr
    assert "PROJ_DATA" in done.stdout
