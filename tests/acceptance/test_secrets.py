"""Every credential that a worker has, failures of every service it uses, and no trace of a credential."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import pytest_asyncio
from azure.servicebus import ServiceBusClient, ServiceBusMessage, ServiceBusSubQueue
from psycopg import sql

from gdaltools import storage
from gdaltools.storage.azure import accounts
from tests.support.eventually import eventually
from tests.support.rasters import smooth, write_raster
from tests.support.services.azurite import azurite
from tests.support.services.broker_process import BrokerProcess
from tests.support.services.certificate import certificate
from tests.support.services.guarded_postgres import ROLE, guarded_postgres
from tests.support.services.identity import Endpoint, identity_endpoint, token
from tests.support.worker_process import WorkerProcess
from worker.web.client import Client

pytestmark = [pytest.mark.azurite, pytest.mark.timeout(240)]

QUEUES = ("docker-tasks", "raster-tasks", "vector-tasks", "geospatial-jobs")
POSTGRES = "https://ossrdbms-aad.database.windows.net"
API_TOKEN = "planted-api-token-0123456789"
BUS_KEY = "cGxhbnRlZC1idXMta2V5LTAxMjM0NTY3ODk="


@dataclass
class Secured:
    """Services that all require credentials.

    Attributes
    ----------
    environment : dict of str
        The variables that a worker needs to use them.
    secrets : list of str
        Texts that must not appear anywhere.
    """

    folder: Path
    owner: str
    broker: BrokerProcess
    endpoint: Endpoint
    environment: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)

    def all_secrets(self) -> set[str]:
        """Return the secrets in every form in which they may be written."""
        plain = {*self.secrets, *self.endpoint.given}
        return (
            plain
            | {quote(s, safe="") for s in plain}
            | {base64.b64encode(s.encode()).decode() for s in plain}
        )


@pytest.fixture(params=["keys and passwords", pytest.param("identity", marks=pytest.mark.slow)])
def secured(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Secured]:
    by_identity = request.param == "identity"
    for name in ("GDALTOOLS_BLOB_ROOT", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        endpoint = stack.enter_context(identity_endpoint(secret="planted-identity-header"))
        password = "planted-password-0123456789"
        if by_identity:
            password = endpoint.tokens[POSTGRES] = token(POSTGRES, 4_000_000_000)
        files = certificate(tmp_path)
        text = stack.enter_context(azurite(certificate=files if by_identity else None))
        owner = stack.enter_context(guarded_postgres(password))
        broker = stack.enter_context(BrokerProcess(tmp_path, QUEUES, options=["--lock-seconds=5"]))
        bus = broker.connection_string.partition("SharedAccessKey=")
        bus_text = f"{bus[0]}SharedAccessKey={BUS_KEY};{bus[2].partition(';')[2]}"
        made = Secured(tmp_path, owner, broker, endpoint)
        made.secrets += [password, BUS_KEY, API_TOKEN, "planted-identity-header"]
        made.environment |= {
            "POSTGIS_HOST": str(psycopg.conninfo.conninfo_to_dict(owner)["host"]),
            "POSTGIS_USER": ROLE,
            "POSTGIS_DATABASE": "postgres",
            "APP_MODE": "standalone",
            "LOG_LEVEL": "DEBUG",
            "SERVICE_BUS_CONNECTION_STRING": bus_text,
            "WORKER_API_TOKEN": API_TOKEN,
            "WORKER_HEARTBEAT_SECONDS": "1",
            "WORKER_LEASE_SECONDS": "6",
            "GDALTOOLS_STORAGE_RETRY_SECONDS": "0.2",
        }
        parts = dict(part.split("=", 1) for part in text.split(";") if part)
        made.secrets.append(parts["AccountKey"])
        if by_identity:
            made.environment |= endpoint.environment | {
                "USE_MANAGED_IDENTITY": "true",
                "AZURE_STORAGE_ACCOUNT": parts["AccountName"],
                "AZURE_STORAGE_BLOB_ENDPOINT": parts["BlobEndpoint"],
                **dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(files[0])),
            }
        else:
            made.environment |= {"POSTGIS_PASSWORD": password, "AZURE_STORAGE_CONNECTION_STRING": text}
        if by_identity:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(files[0]))
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        accounts.service.cache_clear()
        content = write_raster(tmp_path / "s.tif", smooth(1, 64, 64)).read_bytes()
        for name in ("leak.tif", "leak-at-once.tif"):
            storage.write_bytes(f"abfs://bronze-rasters/{name}", content, overwrite=True)
        storage.write_bytes("abfs://bronze-rasters/broken.tif", b"II*\0\x08\0\0\0\xff", overwrite=True)
        yield made


@pytest_asyncio.fixture
async def worker(secured: Secured) -> AsyncIterator[WorkerProcess]:
    made = WorkerProcess(
        conninfo=secured.owner,
        connection_string=secured.environment["SERVICE_BUS_CONNECTION_STRING"],
        blobs=secured.folder,
        log_path=secured.folder / "worker.log",
        environment=secured.environment,
        module="tests.support.leaky_worker",
    )
    del made.environment["GDALTOOLS_BLOB_ROOT"]
    with made:
        await eventually(lambda: get(made, "/readyz")[0] == 200, within_seconds=60)
        yield made


def get(worker: WorkerProcess, path: str, *, shown: str | None = API_TOKEN) -> tuple[int, str]:
    """Return status and body of an answer; status 0 if there is none."""
    request = urllib.request.Request(f"http://127.0.0.1:{worker.port}{path}")
    if shown is not None:
        request.add_header("Authorization", f"Bearer {shown}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode() + str(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode() + str(error.headers)
    except OSError:
        return 0, ""


async def test_no_secret_is_seen_whatever_fails(secured: Secured, worker: WorkerProcess) -> None:
    client = Client(f"http://127.0.0.1:{worker.port}", token=API_TOKEN)
    jobs = []
    for name in ("leak.tif", "leak-at-once.tif", "broken.tif"):
        asked = {"container_name": "bronze-rasters", "blob_name": name}
        jobs.append((await asyncio.to_thread(client.submit, "process_large_raster_v2", asked)).job_id)
    with ServiceBusClient.from_connection_string(secured.environment["SERVICE_BUS_CONNECTION_STRING"]) as bus:
        with bus.get_queue_sender("docker-tasks") as sender:
            sender.send_messages(ServiceBusMessage("{not json"))
        await eventually(lambda: all(over(client, job) for job in jobs[1:]), within_seconds=120)
        await eventually(lambda: "docker-tasks" in get(worker, "/api/dead-letters/docker-tasks")[1])
        await eventually(lambda: "failed and is tried again" in worker.log, within_seconds=60)
        found = dead_letters(bus)
    seen = {f"letter {number}": text for number, text in enumerate(found)}
    seen |= answers(worker, jobs)
    assert "leak-at-once.tif" in seen["/"], "the status page shows what failed"
    seen |= rows(secured.owner)
    # Services go away, and come back with other credentials.
    await asyncio.to_thread(secured.broker.kill)
    try:
        await eventually(lambda: "docker-tasks" in get(worker, "/readyz")[1], within_seconds=60)
        seen["without a broker"] = get(worker, "/readyz")[1]
    finally:
        await asyncio.to_thread(secured.broker.start)
    with psycopg.connect(secured.owner, autocommit=True) as connection:
        connection.execute("alter role tok password 'another'")
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'tok'")
    await eventually(lambda: "database" in get(worker, "/readyz")[1], within_seconds=60)
    seen["without a database"] = get(worker, "/readyz")[1]
    seen["log"] = worker.log
    seen |= {path.name: path.read_text(errors="replace") for path in secured.folder.glob("*.log")}

    assert seen["log"].count("\n") > 20
    assert sum("***" in text for text in seen.values()) >= 4, "what fails with secrets is told without them"
    found = {
        (where, secret[:12])
        for secret in secured.all_secrets()
        for where, text in seen.items()
        if secret in text
    }
    assert not found


def over(client: Client, job_id: str) -> bool:
    return client.status(job_id)["status"] in ("failed", "completed", "completed_with_errors")


def answers(worker: WorkerProcess, jobs: list[str]) -> dict[str, str]:
    """Return the HTTP server's answers, to authenticated callers and to others."""
    paths = ["/", "/livez", "/readyz", "/api/jobs/status/none", "/api/nothing"]
    paths += [f"/api/jobs/{what}/{job}" for job in jobs for what in ("status", "tasks")]
    for queue in QUEUES:
        paths.append(f"/api/dead-letters/{queue}")
        listed = json.loads(get(worker, paths[-1])[1].partition("Content-Type")[0])
        paths += [f"/api/dead-letters/{queue}/{dead_letter}" for dead_letter in _numbers(listed)]
    found = {path: get(worker, path)[1] for path in paths}
    return found | {f"{path} for nobody": get(worker, path, shown=None)[1] for path in paths}


def _numbers(listed: Any) -> list[int]:
    if isinstance(listed, dict):
        own = [value for name, value in listed.items() if name == "sequenceNumber"]
        return own + [n for value in listed.values() for n in _numbers(value)]
    return [n for value in listed for n in _numbers(value)] if isinstance(listed, list) else []


def rows(conninfo: str) -> dict[str, str]:
    """Return every row of every table of the schema."""
    found = {}
    with psycopg.connect(conninfo) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'app'").fetchall()
        for (table,) in tables:
            query = sql.SQL("select to_jsonb(t)::text from {} t").format(sql.Identifier("app", table))
            found[f"table {table}"] = "\n".join(row for (row,) in connection.execute(query).fetchall())
    assert '"failed"' in "".join(found.values())
    return found


def dead_letters(bus: ServiceBusClient) -> list[str]:
    """Return the dead letters of all queues, with all their properties."""
    found = []
    for queue in QUEUES:
        with bus.get_queue_receiver(queue, sub_queue=ServiceBusSubQueue.DEAD_LETTER) as receiver:
            found += [
                f"{dead_letter} {dead_letter.dead_letter_reason} {dead_letter.dead_letter_error_description} "
                f"{dead_letter.application_properties} {dead_letter.raw_amqp_message}"
                for dead_letter in receiver.peek_messages(50)
            ]
    assert found
    return found


@pytest.mark.parametrize("wrong", ["POSTGIS_PASSWORD", "SERVICE_BUS_CONNECTION_STRING", "WORKER_API_TOKEN"])
def test_a_worker_that_does_not_start_says_why_without_a_secret(wrong: str, tmp_path: Path) -> None:
    planted = {
        "POSTGIS_PASSWORD": "planted-wrong-password",
        "SERVICE_BUS_CONNECTION_STRING": "Endpoint=nonsense;SharedAccessKey=planted-wrong-key",
        "WORKER_API_TOKEN": "planted-short",
    }[wrong]
    environment = {
        **os.environ,
        "APP_MODE": "standalone" if wrong == "WORKER_API_TOKEN" else "worker_docker",
        "POSTGIS_HOST": str(tmp_path),
        "POSTGIS_PORT": "0" if wrong == "POSTGIS_PASSWORD" else "5432",
        "SERVICE_BUS_NAMESPACE": "nowhere.example",
        "PORT": "0",
        wrong: planted,
    }
    done = subprocess.run(
        [sys.executable, "-m", "worker"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr
    assert "planted" not in done.stdout + done.stderr
