"""An account's credentials as GDAL options, with an identity's token that stays valid in open datasets.

GDAL keeps the token that a dataset was opened with, but reads the file that GDAL_HTTP_HEADER_FILE names
before each request (GDAL, "Networking options"). So the token is in a file that only this user can read, in
a folder that is removed with the process, and a thread replaces the token before it expires.
"""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

from gdaltools.runtime.scratch import locked_folder, release
from gdaltools.storage.azure import accounts
from gdaltools.storage.azure.accounts import Account
from gdaltools.storage.azure.retries import described, with_retries

_SCOPE = "https://storage.azure.com/.default"
# When asked, azure-identity gets a new token from five minutes before the old one expires.
_LONGEST_PAUSE_SECONDS, _SHORTEST_PAUSE_SECONDS = 60.0, 0.2
_PART_OF_A_LIFE = 10
# Variables that name the trusted certificates, for the SDK, adlfs and curl.
_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")

log = logging.getLogger(__name__)


def gdal_options(account: Account) -> dict[str, str]:
    """Return GDAL's configuration for an account (GDAL, "/vsiaz/" in its virtual file systems page).

    Raises
    ------
    StorageDenied
        There is no identity to sign in with.
    """
    trusted = next(filter(None, map(os.environ.get, _AUTHORITIES)), None)
    options = {"GDAL_CURL_CA_BUNDLE": trusted} if trusted else {}
    if account.connection_string:
        return options | {"AZURE_STORAGE_CONNECTION_STRING": account.connection_string}
    options |= {"AZURE_STORAGE_ACCOUNT": account.name, "AZURE_STORAGE_CONNECTION_STRING": ""}
    if not account.endpoint.endswith(f"//{account.name}.blob.core.windows.net"):
        options["CPL_AZURE_ENDPOINT"] = account.endpoint
    if account.key:
        return options | {"AZURE_STORAGE_ACCESS_KEY": account.key}
    if account.sas:
        return options | {"AZURE_STORAGE_SAS_TOKEN": account.sas}
    return options | {
        # The header file authorizes the requests instead.
        "AZURE_NO_SIGN_REQUEST": "YES",
        "AZURE_STORAGE_ACCESS_TOKEN": "",
        "GDAL_HTTP_HEADER_FILE": str(_token_file.path()),
    }


class TokenFile:
    """The file with the token of this process's identity, created on first use."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._folder: Path | None = None
        self._held: IO[str] | None = None
        self._written = ""

    def path(self) -> Path:
        """Return the path of the token's file; the token is valid, and stays so."""
        with self._lock:
            token = with_retries(lambda: accounts.identity().get_token(_SCOPE), where="the storage account")
            if self._folder is None:
                self._folder, self._held = locked_folder(Path(tempfile.gettempdir()))
                self._folder.chmod(0o700)
                self._ended = threading.Event()
                thread = threading.Thread(
                    target=self._renew, args=(self._ended, token), name="token", daemon=True
                )
                thread.start()
                atexit.register(self.close)
            return self._write(self._folder, token.token)

    def close(self) -> None:
        """Remove the file and stop renewing the token; a later `path` creates a new file."""
        if os.getpid() != self._process:
            return  # a child of the process that owns it
        with self._lock:
            self._ended.set()
            folder, self._folder, self._written = self._folder, None, ""
            if folder is not None:
                release(folder)
            if self._held is not None:
                self._held.close()

    def _write(self, folder: Path, token: str) -> Path:
        path, new = folder / "header", folder / "new"
        if token != self._written:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
                stream.write(f"Authorization: Bearer {token}\n")
            new.replace(path)
            self._written = token
        return path

    def _renew(self, ended: threading.Event, token: Any) -> None:
        from azure.core.exceptions import AzureError

        while not ended.wait(_pause(token.expires_on - time.time())):
            with self._lock:
                if self._folder is None or ended.is_set():
                    return
                try:
                    token = accounts.identity().get_token(_SCOPE)
                    self._write(self._folder, token.token)
                except (AzureError, OSError) as error:
                    log.warning("the identity's token is not renewed: %s", described(error))


def _pause(left_seconds: float) -> float:
    """Return the seconds to wait before a token with `left_seconds` of validity is requested again."""
    return min(max(left_seconds / _PART_OF_A_LIFE, _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)


_token_file = TokenFile()


def close() -> None:
    """Forget the identity's token, as at the end of the process."""
    _token_file.close()


def _after_fork() -> None:
    """Give a child process a token file of its own, as it has no thread that renews the parent's."""
    global _token_file
    _token_file = TokenFile()


os.register_at_fork(after_in_child=_after_fork)
