"""Azure Blob Storage behind `gdaltools.storage`: adlfs for bytes, credentials for GDAL's ``/vsiaz/``.

Credentials, by precedence: AZURE_STORAGE_CONNECTION_STRING; AZURE_STORAGE_ACCOUNT_KEY or
AZURE_STORAGE_SAS_TOKEN with the account's name; else azure-identity's DefaultAzureCredential.
The account is BRONZE_STORAGE_ACCOUNT for ``bronze-*`` containers, SILVER_STORAGE_ACCOUNT for
``silver-*``, else AZURE_STORAGE_ACCOUNT. Nothing of Azure is imported before it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from gdaltools.errors import InvalidParameter, SourceNotFound, StorageError, TargetExists

_STORAGE_SCOPE = "https://storage.azure.com/.default"


def stat(container: str, name: str) -> tuple[int, str]:
    with _translated(container, name):
        found = _filesystem(container).info(f"{container}/{name}", refresh=True)
    if found["type"] != "file":
        raise SourceNotFound(f"abfs://{container}/{name} is a folder, not a blob")
    return int(found["size"]), str(found.get("etag", ""))


def open_stream(container: str, name: str) -> IO[bytes]:
    with _translated(container, name):
        stream: IO[bytes] = _filesystem(container).open(f"{container}/{name}", "rb")
    return stream


def delete(container: str, name: str) -> None:
    try:
        with _translated(container, name):
            _filesystem(container).rm(f"{container}/{name}")
    except SourceNotFound:
        pass


def append(container: str, name: str, data: bytes) -> None:
    """Add a block to an append blob, made where there is none; safe against others that do the same."""
    from azure.core import MatchConditions
    from azure.core.exceptions import ResourceExistsError, ResourceNotFoundError

    with _translated(container, name), _service(container) as service:
        blob = service.get_blob_client(container, name)
        try:
            blob.append_block(data)
        except ResourceNotFoundError:
            _make_container(service, container)
            with suppress(ResourceExistsError):
                blob.create_append_blob(match_condition=MatchConditions.IfMissing)
            blob.append_block(data)


def list_names(container: str, prefix: str) -> list[str]:
    with _translated(container, prefix):
        found = _filesystem(container).find(f"{container}/{prefix}".rstrip("/"), refresh=True)
    return sorted(name.removeprefix(f"{container}/") for name in found)


def upload(path: Path, container: str, name: str, *, overwrite: bool) -> None:
    """Copy a local file into a blob and check that storage holds all of it."""
    filesystem = _filesystem(container)
    with _translated(container, name):
        if not filesystem.exists(container):
            with _service(container) as service:
                _make_container(service, container)
        filesystem.put_file(str(path), f"{container}/{name}", overwrite=overwrite)
    stored, _ = stat(container, name)
    sent = path.stat().st_size
    if stored != sent:
        raise StorageError(f"abfs://{container}/{name} holds {stored} of {sent} uploaded bytes: try again")


def gdal_options(container: str) -> dict[str, str]:
    """The same credentials, in GDAL's words (GDAL, "/vsiaz/" in its virtual file systems page)."""
    if connection_string := os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return {"AZURE_STORAGE_CONNECTION_STRING": connection_string}
    options = {"AZURE_STORAGE_ACCOUNT": _account(container)}
    if key := os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"):
        return options | {"AZURE_STORAGE_ACCESS_KEY": key}
    if sas := os.environ.get("AZURE_STORAGE_SAS_TOKEN"):
        return options | {"AZURE_STORAGE_SAS_TOKEN": sas.removeprefix("?")}
    return options | {"AZURE_STORAGE_ACCESS_TOKEN": _credential().get_token(_STORAGE_SCOPE).token}


def endpoint(container: str) -> str:
    """The account's address, ``https://account.blob.core.windows.net`` where it is not set otherwise."""
    given = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    parts = dict(part.split("=", 1) for part in given.split(";") if "=" in part)
    account = parts.get("AccountName") or _account(container)
    suffix = parts.get("EndpointSuffix", "core.windows.net")
    return (parts.get("BlobEndpoint") or f"https://{account}.blob.{suffix}").rstrip("/")


def _account(container: str) -> str:
    zone = container.partition("-")[0]
    name = {
        "bronze": os.environ.get("BRONZE_STORAGE_ACCOUNT"),
        "silver": os.environ.get("SILVER_STORAGE_ACCOUNT"),
    }.get(zone) or os.environ.get("AZURE_STORAGE_ACCOUNT")
    if not name:
        raise InvalidParameter(
            f"abfs://{container} has no storage: set GDALTOOLS_BLOB_ROOT to a folder, or "
            "AZURE_STORAGE_CONNECTION_STRING or AZURE_STORAGE_ACCOUNT for Azure"
        )
    return name


def _filesystem(container: str) -> Any:
    if connection_string := os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return _by_connection_string(connection_string)
    return _by_account(
        _account(container),
        os.environ.get("AZURE_STORAGE_ACCOUNT_KEY"),
        os.environ.get("AZURE_STORAGE_SAS_TOKEN"),
    )


def _service(container: str) -> Any:
    """The SDK's own client, for what adlfs has no words for: conditions, and additions to a blob."""
    from azure.storage.blob import BlobServiceClient

    if connection_string := os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        return BlobServiceClient.from_connection_string(connection_string)
    credential = os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    return BlobServiceClient(endpoint(container), credential or _credential())


def _make_container(service: Any, container: str) -> None:
    """Make a container, unless it is there or somebody else makes it at this moment."""
    from azure.core.exceptions import ResourceExistsError

    with suppress(ResourceExistsError):
        service.create_container(container)


@lru_cache(maxsize=8)
def _by_connection_string(connection_string: str) -> Any:
    from adlfs import AzureBlobFileSystem

    return AzureBlobFileSystem(connection_string=connection_string)


@lru_cache(maxsize=8)
def _by_account(account: str, key: str | None, sas: str | None) -> Any:
    from adlfs import AzureBlobFileSystem

    return AzureBlobFileSystem(account_name=account, account_key=key, sas_token=sas, anon=False)


@lru_cache(maxsize=1)
def _credential() -> Any:
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


@contextmanager
def _translated(container: str, name: str) -> Iterator[None]:
    from azure.core.exceptions import AzureError

    where = f"abfs://{container}/{name}"
    try:
        yield
    except FileNotFoundError as error:
        raise SourceNotFound(f"{where} does not exist") from error
    except FileExistsError as error:
        raise TargetExists(f"{where} exists: pass overwrite=True to replace it") from error
    except AzureError as error:
        # The service's text can quote a signed URL: only the kind of error is passed on.
        raise StorageError(f"{where}: Azure answered {type(error).__name__}") from error
    except OSError as error:
        raise StorageError(f"{where}: {type(error).__name__}") from error
