"""Which storage account a container is in, and its credentials for the SDK and adlfs; `gdal` has GDAL's.

Credentials, in order of precedence: AZURE_STORAGE_CONNECTION_STRING; AZURE_STORAGE_ACCOUNT_KEY or
AZURE_STORAGE_SAS_TOKEN with the account's name; else azure-identity's DefaultAzureCredential, which supports
a Web App's managed identity (AZURE_CLIENT_ID selects a user-assigned one). The account is
BRONZE_STORAGE_ACCOUNT for ``bronze-*`` containers, SILVER_STORAGE_ACCOUNT for ``silver-*``, else
AZURE_STORAGE_ACCOUNT. AZURE_STORAGE_BLOB_ENDPOINT sets an address other than the public cloud's.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gdaltools.errors import InvalidParameter
from gdaltools.runtime.text import redacted

_CONNECT_SECONDS, _READ_SECONDS = 10, 60


@dataclass(frozen=True)
class Account:
    """A storage account and its credentials; without any, the process's identity is used."""

    name: str
    endpoint: str
    connection_string: str | None = field(default=None, repr=False)
    key: str | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)


def account_of(container: str) -> Account:
    """Return the account that the environment names for a container.

    Raises
    ------
    InvalidParameter
        The environment names no account.
    """
    if connection_string := os.environ.get("AZURE_STORAGE_CONNECTION_STRING"):
        parts = _parts(connection_string)
        name = parts.get("AccountName", "")
        suffix = parts.get("EndpointSuffix", "core.windows.net")
        address = parts.get("BlobEndpoint") or f"https://{name}.blob.{suffix}"
        return Account(name, address.rstrip("/"), connection_string=connection_string)
    name = _account_name(container)
    address = os.environ.get("AZURE_STORAGE_BLOB_ENDPOINT") or f"https://{name}.blob.core.windows.net"
    key = os.environ.get("AZURE_STORAGE_ACCOUNT_KEY") or None
    sas = (os.environ.get("AZURE_STORAGE_SAS_TOKEN") or "").removeprefix("?") or None
    return Account(name, address.rstrip("/"), key=key, sas=None if key else sas)


def _account_name(container: str) -> str:
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


def _parts(connection_string: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in connection_string.split(";") if "=" in part)


@lru_cache(maxsize=8)
def service(account: Account) -> Any:
    """Return the SDK's client of an account, without retries: `gdaltools.storage.azure.retries` has those."""
    from azure.core.credentials import AzureSasCredential
    from azure.storage.blob import BlobServiceClient

    options: dict[str, Any] = {
        "retry_total": 0,
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
    }
    # At level DEBUG urllib3 logs every URL, including its signature.
    logging.getLogger("urllib3.connectionpool").addFilter(_without_secrets)
    if account.connection_string:
        return BlobServiceClient.from_connection_string(account.connection_string, **options)
    credential: Any = identity()
    if account.key:
        credential = {"account_name": account.name, "account_key": account.key}
    elif account.sas:
        credential = AzureSasCredential(account.sas)
    return BlobServiceClient(account.endpoint, credential, **options)


@lru_cache(maxsize=8)
def filesystem(account: Account) -> Any:
    """Return the account as an fsspec filesystem, by adlfs."""
    from adlfs import AzureBlobFileSystem

    if account.connection_string:
        return AzureBlobFileSystem(connection_string=account.connection_string)
    host = None
    if not account.endpoint.endswith(f"//{account.name}.blob.core.windows.net"):
        host = account.endpoint.partition("://")[2]
    return AzureBlobFileSystem(
        account_name=account.name,
        account_host=host,
        account_key=account.key,
        sas_token=account.sas,
        anon=False,
    )


@lru_cache(maxsize=1)
def identity() -> Any:
    """Return the process's identity; it caches its tokens, and gets new ones before they expire."""
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _without_secrets(record: logging.LogRecord) -> bool:
    record.msg, record.args = redacted(record.getMessage()), ()
    return True
