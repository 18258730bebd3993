"""Where a secret must never appear: logs, errors, reprs, plans, task rows and dead letters."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

import gdaltools as gt
from gdaltools import storage
from gdaltools.runtime.text import redacted
from gdaltools.storage.azure import accounts
from tests.support.rasters import smooth, write_raster
from tests.support.services.azurite import azurite
from tests.support.services.storage_proxy import Fault, StorageProxy, storage_proxy
from worker.errors import TaskFailed
from worker.settings import load_service_settings
from worker.task.runner import Runner, RunnerOptions

pytestmark = pytest.mark.azurite

MISSING = "abfs://bronze-rasters/none.tif"
OPERATIONS = ("read", "properties", "put", "block", "commit", "blocks", "appendblock", "list")
SCENE = "abfs://bronze-rasters/scene.tif"
BROKEN = "abfs://bronze-rasters/broken.tif"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[StorageProxy, str, str]]:
    with azurite() as direct, storage_proxy(direct) as (proxy, text):
        yield proxy, text, direct


@pytest.fixture(params=["connection string", "account key", "SAS token", "wrong key", "wrong SAS token"])
def planted(
    request: pytest.FixtureRequest,
    server: tuple[StorageProxy, str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> tuple[StorageProxy, list[str]]:
    """Credentials of one kind in the environment, and the texts that must not appear."""
    proxy, text, direct = server
    proxy.heal()
    parts = dict(part.split("=", 1) for part in text.split(";") if part)
    key, name = parts["AccountKey"], parts["AccountName"]
    for variable in ("GDALTOOLS_BLOB_ROOT", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", direct)
    storage.write_bytes(
        SCENE, write_raster(tmp_path / "s.tif", smooth(1, 64, 64)).read_bytes(), overwrite=True
    )
    storage.write_bytes(BROKEN, b"II*\0\x08\0\0\0\xff", overwrite=True)
    monkeypatch.setenv("GDALTOOLS_STORAGE_RETRY_SECONDS", "0.1")
    if request.param == "connection string":
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        return proxy, [key]
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", name)
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", parts["BlobEndpoint"].rstrip("/"))
    if "key" in request.param:
        key = "c2VjcmV0" * 10 + "c2U=" if "wrong" in request.param else key
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", key)
        return proxy, [key]
    sas = generate_account_sas(
        name,
        key,
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, write=True, list=True, create=True, delete=True, add=True),
        datetime.now(UTC) + timedelta(hours=1),
    )
    if "wrong" in request.param:
        sas = sas.partition("sig=")[0] + "sig=cGxhbnRlZC1zZWNyZXQ%3D"
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", sas)
    signature = sas.partition("sig=")[2].partition("&")[0]
    return proxy, [signature, signature.replace("%3D", "=").replace("%2B", "+").replace("%2F", "/")]


def doings(tmp_path: Path) -> dict[str, Callable[[], Any]]:
    """Return operations on storage, each of which may fail."""
    local = write_raster(tmp_path / "l.tif", smooth(1, 64, 64))
    return {
        "stat": lambda: storage.stat(MISSING),
        "read": lambda: storage.read_bytes(SCENE),
        "write": lambda: storage.write_bytes("abfs://silver-cogs/x", b"x" * 10, overwrite=True),
        "large write": lambda: storage.write_bytes("abfs://silver-cogs/y", b"x" * (9 << 20), overwrite=True),
        "append": lambda: storage.append_bytes("abfs://silver-cogs/z", b"x"),
        "list": lambda: storage.list_names(storage.locate("abfs://silver-cogs")),
        "copy": lambda: storage.copy(SCENE, "abfs://silver-cogs/copy", overwrite=True),
        "fetch": lambda: storage.fetch(SCENE, tmp_path / "near"),
        "cog": lambda: gt.create_cog(local, "abfs://silver-cogs/c.tif", overwrite=True, progress=False),
        "delete": lambda: storage.delete("abfs://silver-cogs/x"),
    }


def held(location: storage.Location) -> list[Any]:
    """Return everything that a notebook may show and that has, or leads to, a secret."""
    account = accounts.account_of("bronze-rasters")
    found = [account, accounts.service(account), accounts.filesystem(account), load_service_settings()]
    found.append(storage.UncommittedBlob("silver-cogs", "x"))
    with suppress(gt.errors.GdalToolsError):
        scheme = gt.generate_tiling_scheme(location, 256, 0)
        found += [gt.plan_cog(location), gt.inspect(location), gt.open(location), scheme]
        found.append(gt.plan_extraction(location, scheme))
    return found


def test_no_secret_is_seen_whatever_happens_to_storage(
    planted: tuple[StorageProxy, list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    proxy, secrets = planted
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    for fault in (None, Fault(status=403), Fault(status=503), Fault(cut="before")):
        proxy.heal()
        if fault is not None:
            for operation in (
                "read",
                "properties",
                "put",
                "block",
                "commit",
                "blocks",
                "appendblock",
                "list",
            ):
                proxy.spoil(operation, fault, times=10**6)
        for doing in doings(tmp_path).values():
            try:
                seen.append(repr(doing()))
            except gt.errors.GdalToolsError as error:
                seen += [str(error), repr(error), repr(vars(error)), repr(error.__cause__)]
                seen += traceback.format_exception(error)
                seen.append(repr(pickle.dumps(error)))
    proxy.heal()
    location = storage.locate(SCENE)
    for shown in held(location):
        seen += [repr(shown), str(shown)]
        seen += [getattr(shown, name)() for name in ("_repr_html_",) if hasattr(shown, name)]
    seen += [
        repr(location),
        str(location),
        repr(accounts.account_of("bronze-rasters")),
        storage.url(location),
    ]
    seen += [record.getMessage() for record in caplog.records] + [
        str(record.args) for record in caplog.records
    ]
    seen += list(capfd.readouterr())
    assert len(seen) > 100
    for secret in secrets:
        assert not [text[:300] for text in seen if secret in text]


@pytest.mark.parametrize(
    "text",
    [
        "GET https://a.blob.core.windows.net/c/b?sv=2024&sig=SECRET%3D&se=1 failed",
        "Authorization: Bearer SECRET.SECRET.SECRET",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=SECRET==;EndpointSuffix=x",
        "Authorization: SharedKey account:SECRET=",
        "connection failed: host=db user=worker password=SECRET dbname=geo",
        "cannot connect to postgresql://worker:SECRET@db:5432/geo",
        "token eyJSECRETSECRET.eyJSECRETSECRET.SECRET is expired",
    ],
)
def test_signatures_and_tokens_are_cut_out_of_what_gdal_says(text: str) -> None:
    assert "SECRET" not in redacted(text)
    assert "***" in redacted(text)


async def test_what_a_task_fails_with_is_cut_before_anybody_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_BUS_CONNECTION_STRING", "POSTGIS_PASSWORD", "WORKER_API_TOKEN"):
        monkeypatch.setenv(name, f"planted-{name}")
    runner = Runner(RunnerOptions(timeout_seconds=60, stall_seconds=60))
    with pytest.raises(TaskFailed) as caught:
        await runner.run("tell_secrets", {}, on_progress=lambda _: None)
    assert "***" in str(caught.value)
    assert "planted" not in str(caught.value)
