"""A Web App's managed identity: the real azure-identity with an endpoint like App Service's."""

from __future__ import annotations

import os
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.identity.aio import DefaultAzureCredential
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusAuthenticationError
from azure.storage.blob import BlobServiceClient
from rasterio.windows import Window

import gdaltools as gt
from gdaltools import storage
from gdaltools.errors import StorageDenied, StorageError
from gdaltools.raster.dataset import open_dataset
from gdaltools.storage.azure import accounts, gdal
from tests.support.rasters import smooth, write_raster
from tests.support.services.azurite import azurite
from tests.support.services.certificate import certificate
from tests.support.services.guarded_postgres import ROLE, guarded_postgres
from tests.support.services.identity import Endpoint, claims_of, identity_endpoint
from tests.support.services.identity import token as endpoint_token
from worker.database import migration
from worker.local.broker.server import BrokerThread, QueueSpec, Token
from worker.service import backing
from worker.settings import load_service_settings

pytestmark = pytest.mark.azurite

STORAGE = "https://storage.azure.com"
BUS = "https://servicebus.azure.net/"
POSTGRES = "https://ossrdbms-aad.database.windows.net"


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[str, Path]]:
    """The address of a server that accepts tokens, and the certificate to verify it."""
    with tempfile.TemporaryDirectory() as folder:
        files = certificate(Path(folder))
        with azurite(certificate=files) as text:
            yield text.partition("BlobEndpoint=")[2].rstrip(";"), files[0]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with identity_endpoint() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        _forget()
        yield running
        _forget()


def _forget() -> None:
    """Clear identities and clients with their tokens, which otherwise live as long as the process."""
    for kept in (accounts.identity, accounts.service, accounts.filesystem):
        kept.cache_clear()
    gdal.close()


@pytest.fixture(autouse=True)
def _in_azure(secured: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    address, authority = secured
    for name in ("GDALTOOLS_BLOB_ROOT", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "devstoreaccount1")
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", address)
    monkeypatch.setenv("GDALTOOLS_STORAGE_RETRY_SECONDS", "2")
    # For the SDK, for adlfs and for GDAL.
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(authority))
    # aiohttp reads the environment when it is first imported, perhaps by an earlier test.
    monkeypatch.setattr(
        "aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=authority)
    )


def test_one_identity_serves_the_sdk_adlfs_and_gdal(endpoint: Endpoint, tmp_path: Path) -> None:
    pixels = smooth(3, 300, 400)
    source = write_raster(tmp_path / "a.tif", pixels)
    gt.create_cog(source, "abfs://silver-cogs/a.tif", blocksize=64, progress=False)
    assert (gt.open("abfs://silver-cogs/a.tif").compute().values == pixels).all()
    location = storage.locate("abfs://silver-cogs/a.tif")
    filesystem = storage.filesystem(location)
    assert filesystem.cat_file("silver-cogs/a.tif") == storage.read_bytes(location)
    assert set(endpoint.resources()) == {STORAGE}


def test_tokens_that_expire_on_the_way_are_replaced(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.lifetime = 2.0
    pixels = smooth(1, 300, 400)
    storage.write_bytes(
        "abfs://bronze-rasters/long.tif", write_raster(tmp_path / "a.tif", pixels).read_bytes()
    )
    location = storage.pinned("abfs://bronze-rasters/long.tif")
    first, began = len(endpoint.asked), time.monotonic()
    rounds = 0
    while time.monotonic() - began < 3 * endpoint.lifetime:
        with open_dataset(location, verify=False) as dataset:
            assert (dataset.read(window=Window(0, 0, 400, 300)) == pixels).all()
        assert storage.read_range(location, 0, 4) in (b"II*\0", b"II+\0")
        storage.write_bytes("abfs://silver-cogs/long.txt", b"x", overwrite=True)
        rounds += 1
        time.sleep(0.2)
    assert rounds > 3
    assert len(endpoint.asked) >= first + 2


def test_a_dataset_can_be_open_for_longer_than_a_token_lives(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.lifetime, endpoint.refresh_in = 3.0, 1
    pixels = np.random.default_rng(0).integers(0, 255, (3, 1600, 800), "uint8")
    name = "abfs://bronze-rasters/open.tif"
    storage.write_bytes(name, write_raster(tmp_path / "a.tif", pixels).read_bytes(), overwrite=True)
    with open_dataset(name, verify=False) as dataset:
        opened_with = endpoint.given[-1]
        assert (dataset.read(window=Window(0, 0, 800, 100)) == pixels[:, :100]).all()
        header = Path(storage.gdal_options(name)["GDAL_HTTP_HEADER_FILE"])
        assert (header.stat().st_mode & 0o777, header.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        while time.time() < claims_of(opened_with)["exp"] + 1:
            time.sleep(0.1)
        assert _is_refused(opened_with)
        assert (dataset.read(window=Window(0, 1500, 800, 100)) == pixels[:, 1500:]).all()
    gdal.close()
    assert not header.parent.exists()


def _is_refused(text: str) -> bool:
    class Static:
        def get_token(self, *_: str, **__: object) -> AccessToken:
            return AccessToken(text, int(time.time()) + 3600)

    client = BlobServiceClient(os.environ["AZURE_STORAGE_BLOB_ENDPOINT"], Static())
    try:
        client.get_blob_client("bronze-rasters", "open.tif").get_blob_properties()
    except HttpResponseError as error:
        return error.status_code in (401, 403)
    return False


def test_a_token_is_asked_for_once_while_it_lasts(endpoint: Endpoint) -> None:
    for number in range(5):
        storage.write_bytes(f"abfs://silver-cogs/{number}.txt", b"x", overwrite=True)
        storage.gdal_options("abfs://silver-cogs/0.txt")
    assert len(endpoint.asked) <= 2


def test_a_user_assigned_identity_is_asked_for_by_its_client_id(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_ID", "6f0c1b52-0000-4000-8000-000000000001")
    assert not storage.exists("abfs://silver-cogs/nothing.txt")
    assert {query["client_id"] for query in endpoint.asked} == {"6f0c1b52-0000-4000-8000-000000000001"}


@pytest.mark.parametrize("trouble", ["down", "refusing", "expired", "slow"])
def test_an_identity_that_cannot_be_had_is_a_clear_error(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    if trouble == "down":
        monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1/msi/token")
    elif trouble == "refusing":
        endpoint.status = 400
    elif trouble == "expired":
        endpoint.lifetime = -600
    else:
        endpoint.delay = 1.0
        assert not storage.exists("abfs://silver-cogs/nothing.txt")
        return
    with pytest.raises((StorageDenied, StorageError), match="silver-cogs") as caught:
        storage.stat("abfs://silver-cogs/nothing.txt")
    assert "eyJ" not in repr(caught.value)
    assert "header-secret" not in repr(caught.value)


async def _send(client: ServiceBusClient) -> None:
    async with client, client.get_queue_sender("tasks") as sender:
        await sender.send_messages(ServiceBusMessage("x"))


async def test_service_bus_is_shown_a_token_of_its_own_audience(endpoint: Endpoint) -> None:
    def accept(shown: Token) -> bool:
        claims = claims_of(shown.value)
        audiences.append(claims["aud"])
        return shown.kind == "jwt" and claims["exp"] > time.time() and claims["aud"] == BUS

    audiences: list[str] = []
    with BrokerThread([QueueSpec("tasks")], accept_token=accept) as broker:
        host = f"127.0.0.1:{broker.port}"
        async with DefaultAzureCredential() as credential:
            await _send(ServiceBusClient(host, credential, use_tls=False))
            assert broker.counts("tasks").active == 1
            endpoint.tokens[BUS] = endpoint_token(STORAGE, time.time() + 3600)
        async with DefaultAzureCredential() as credential:
            with pytest.raises(ServiceBusAuthenticationError):
                await _send(ServiceBusClient(host, credential, use_tls=False, retry_total=0))
    assert audiences[0] == BUS
    assert audiences[-1] == STORAGE


@pytest.fixture
def guarded(endpoint: Endpoint) -> Iterator[str]:
    """Connection string of a PostgreSQL whose role ``tok`` has the endpoint's token as its password."""
    password = endpoint.tokens[POSTGRES] = endpoint_token(POSTGRES, time.time() + 3600)
    with guarded_postgres(password) as owner:
        yield psycopg.conninfo.make_conninfo(owner, user=ROLE)


async def test_postgres_takes_the_identitys_token_as_its_password(
    endpoint: Endpoint, guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGIS_HOST", "elsewhere")
    monkeypatch.setenv("USE_MANAGED_IDENTITY", "true")
    async with backing.database(load_service_settings(), guarded) as database:
        await migration.migrate(database.connections)
        await migration.check(database.connections)
    assert set(endpoint.resources()) == {POSTGRES}
