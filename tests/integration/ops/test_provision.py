"""``provision``: queues through the real management client over HTTPS, the schema in a real database."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from gdaltools.errors import GdalToolsError
from tests.support.services import postgres
from tests.support.services.certificate import certificate
from tests.support.services.identity import identity_endpoint
from tests.support.services.queue_management import Management, queue_management
from worker.database import Database, migration, rights
from worker.database.connections import Connections
from worker.errors import BusAuthenticationError
from worker.ops.provision import Provided, provision
from worker.queue.settings import QueueManagement, QueueSettings
from worker.settings import AppMode, Settings


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        yield certificate(Path(folder))


@pytest.fixture
def management(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Management]:
    """The endpoint, and this process's identity for reaching it."""
    # aiohttp reads the environment when it is first imported, perhaps by an earlier test.
    monkeypatch.setattr(
        "aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=files[0])
    )
    monkeypatch.delenv("AZURE_CLIENT_ID", raising=False)
    with queue_management(files) as running, identity_endpoint() as identity:
        for name, value in identity.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def settings(management: Management, empty_conninfo: str) -> Settings:
    return Settings(
        app_mode=AppMode.WORKER_DOCKER,
        service_bus_namespace=management.namespace,
        **postgres.parts(empty_conninfo),
    )


def _by_part(provided: list[Provided]) -> dict[str, str]:
    return {each.part: each.done for each in provided}


async def test_queues_and_schema_are_made_once(settings: Settings, management: Management) -> None:
    foreseen = await provision(settings, what_if=True)
    assert set(_by_part(foreseen).values()) == {"to make"}
    assert management.queues == {}

    assert set(_by_part(await provision(settings)).values()) == {"made"}
    assert management.queues["docker-tasks"] == {
        "LockDuration": "PT5M",
        "RequiresDuplicateDetection": "false",
        "DefaultMessageTimeToLive": "P7D",
        "DeadLetteringOnMessageExpiration": "true",
        "MaxDeliveryCount": "3",
    }
    assert management.queues["geospatial-jobs"]["RequiresDuplicateDetection"] == "true"

    assert set(_by_part(await provision(settings)).values()) == {"there"}


async def test_a_queue_that_is_set_otherwise_is_told_and_changed_only_when_asked(
    settings: Settings, management: Management
) -> None:
    await provision(settings)
    management.queues["docker-tasks"] |= {"LockDuration": "PT1M", "UserMetadata": "kept"}
    text = [each for each in await provision(settings) if each.done == "differs"]
    assert [each.part for each in text] == ["queue docker-tasks"]
    assert "0:01:00, should be 0:05:00" in text[0].detail
    assert management.queues["docker-tasks"]["LockDuration"] == "PT1M"

    assert _by_part(await provision(settings, update=True))["queue docker-tasks"] == "changed"
    assert management.queues["docker-tasks"]["LockDuration"] == "PT5M"
    assert management.queues["docker-tasks"]["UserMetadata"] == "kept"


async def test_what_only_a_new_queue_can_is_told(settings: Settings, management: Management) -> None:
    await provision(settings)
    management.queues["geospatial-jobs"]["RequiresDuplicateDetection"] = "false"
    found = {each.part: each for each in await provision(settings, update=True)}
    assert found["queue geospatial-jobs"].done == "differs"
    assert "delete it" in found["queue geospatial-jobs"].detail


async def test_credentials_that_may_not_manage_are_told(settings: Settings, management: Management) -> None:
    management.status = 401
    with pytest.raises(BusAuthenticationError, match="docker-tasks"):
        await provision(settings)


async def test_settings_are_read_as_they_were_written(management: Management) -> None:
    expected = QueueSettings(timedelta(seconds=90), 7, timedelta(hours=30), False, True)
    async with QueueManagement.connect(namespace=management.namespace) as queues:
        assert await queues.look("other") is None
        await queues.create("other", expected)
        assert await queues.look("other") == expected


async def test_another_role_may_use_the_schema_after_a_grant(settings: Settings, empty_conninfo: str) -> None:
    with psycopg.connect(empty_conninfo, autocommit=True) as connection:
        connection.execute("drop role if exists provisioned_worker")
        connection.execute("create role provisioned_worker login")
    try:
        await provision(settings)
        as_worker = psycopg.conninfo.make_conninfo(empty_conninfo, user="provisioned_worker")
        async with Database(Connections(as_worker)) as database:
            assert await rights.lacking(database.connections) == ["USAGE on schema app"]
        with pytest.raises(GdalToolsError, match="pgaadauth_create_principal"):
            await provision(settings, queues=False, grant_to="nobody_such")
        await provision(settings, grant_to="provisioned_worker")
        async with Database(Connections(as_worker)) as database:
            assert await rights.lacking(database.connections) == []
            await migration.prepare(database.connections)
    finally:
        with psycopg.connect(empty_conninfo, autocommit=True) as connection:
            connection.execute("drop owned by provisioned_worker")
            connection.execute("drop role provisioned_worker")


async def test_an_identity_of_azures_gets_a_role(
    settings: Settings, postgres_server: postgres.Server, empty_conninfo: str
) -> None:
    with psycopg.connect(postgres_server.conninfo_for("postgres"), autocommit=True) as connection:
        connection.execute(
            "create function pgaadauth_create_principal(name text, admin boolean, mfa boolean) returns text"
            " language plpgsql as $$ begin execute format('create role %I login', name); return name; end $$"
        )
        try:
            foreseen = await provision(settings, queues=False, what_if=True, grant_to="example-identity")
            assert _by_part(foreseen)["role example-identity"] == "to make"
            made = await provision(settings, queues=False, grant_to="example-identity")
            assert _by_part(made) == {"schema app": "made", "role example-identity": "made"}
            again = await provision(settings, queues=False, grant_to="example-identity")
            assert _by_part(again) == {"schema app": "there", "role example-identity": "there"}
        finally:
            connection.execute("drop function pgaadauth_create_principal")
            with psycopg.connect(empty_conninfo, autocommit=True) as inside:
                inside.execute('drop owned by "example-identity"')
            connection.execute('drop role "example-identity"')
