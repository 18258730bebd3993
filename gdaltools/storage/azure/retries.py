"""Retry a request for as long as that may help, and translate its error into ours.

A request is retried after a broken connection, no answer in time, too many requests (429) or a server error
(408, 500, 502, 503, 504). The wait between two attempts is a random part of a growing time, so that many
clients do not retry together, and never less than the ``Retry-After`` of the server. All attempts at a
request share one budget of time: GDALTOOLS_STORAGE_RETRY_SECONDS, 120 by default.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from gdaltools.errors import (
    GdalToolsError,
    InvalidParameter,
    SourceArchived,
    SourceChanged,
    SourceNotFound,
    StorageDenied,
    StorageError,
    TargetExists,
)
from gdaltools.runtime import interruption

_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.25, 20.0
_BUDGET_SECONDS = 120.0

log = logging.getLogger(__name__)
Result = TypeVar("Result")


class Incomplete(Exception):
    """A response that ended before its announced length."""


def with_retries(request: Callable[[], Result], *, where: str) -> Result:
    """Return what `request` returns, as soon as an attempt succeeds.

    Raises
    ------
    SourceNotFound
        404: there is no such blob or container.
    SourceChanged
        412: the blob is no longer the requested version.
    TargetExists
        409 for a blob that was to be new.
    SourceArchived
        409 for a blob in the archive tier.
    StorageDenied
        401 or 403, or no identity to sign in with.
    StorageError
        Anything else, or the budget is used up.
    """
    from azure.core.exceptions import AzureError

    began, attempt = time.monotonic(), 0
    while True:
        interruption.check()
        try:
            return request()
        except (AzureError, Incomplete) as error:
            attempt += 1
            spent = time.monotonic() - began
            wait = _wait(error, attempt)
            failed = None
            if wait is None or spent + wait > budget_seconds():
                failed = translated(error, where, attempts=attempt, seconds=spent)
            else:
                log.info("%s: %s; again in %.1f s", where, described(error), wait)
        # Outside the handler, so that ours does not hold Azure's error, which may contain a signed URL.
        if failed is not None:
            raise failed
        time.sleep(wait or 0.0)


def budget_seconds() -> float:
    """Return the seconds for which a request is retried.

    Raises
    ------
    InvalidParameter
        The environment's value is not a number.
    """
    text = os.environ.get("GDALTOOLS_STORAGE_RETRY_SECONDS")
    if not text:
        return _BUDGET_SECONDS
    try:
        return float(text)
    except ValueError:
        raise InvalidParameter(f"GDALTOOLS_STORAGE_RETRY_SECONDS {text!r} is not a number") from None


def _wait(error: Exception, attempt: int) -> float | None:
    """Return the seconds until the next attempt; None if another attempt would fail alike."""
    if not is_passing(error):
        return None
    growing = min(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1), _LONGEST_WAIT_SECONDS)
    return _asked_for(error) + random.uniform(growing / 2, growing)


def is_passing(error: Exception) -> bool:
    """Return whether the same request can succeed later."""
    from azure.core.exceptions import (
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
        ServiceResponseError,
    )

    if isinstance(error, Incomplete | ServiceRequestError | ServiceResponseError):
        return True
    if isinstance(error, ClientAuthenticationError):
        return False
    # Without a status: the body of a successful response broke off.
    return isinstance(error, HttpResponseError) and (error.status_code or 503) in {*_PASSING, 200, 206}


def _asked_for(error: Exception) -> float:
    response = getattr(error, "response", None)
    headers: Any = getattr(response, "headers", None) or {}
    try:
        if milliseconds := headers.get("x-ms-retry-after-ms"):
            return float(milliseconds) / 1000
        return max(0.0, float(headers.get("Retry-After") or 0))
    except ValueError:
        return 0.0  # a date, which Azure does not send


def translated(error: Exception, where: str, *, attempts: int = 1, seconds: float = 0.0) -> GdalToolsError:
    """Return our error for one of the SDK's; never with its text, which can quote a signed URL."""
    from azure.core.exceptions import ClientAuthenticationError

    status, code = getattr(error, "status_code", None), _code(error)
    if isinstance(error, ClientAuthenticationError) or status in (401, 403):
        return StorageDenied(
            f"{where}: access denied ({described(error)}): "
            "check the account's key, SAS token or the identity's role"
        )
    if status == 404:
        return SourceNotFound(f"{where} does not exist")
    if status == 412:
        return SourceChanged(f"{where} was replaced by somebody else meanwhile: start again")
    if status == 409 and code == "BlobAlreadyExists":
        return TargetExists(f"{where} exists: pass overwrite=True to replace it")
    if status == 409 and code == "BlobArchived":
        return SourceArchived(
            f"{where} is in the archive tier: set its tier to hot or cool, and wait until Azure has moved it"
        )
    tried = f" after {attempts} attempts in {seconds:.0f} s" if attempts > 1 else ""
    return StorageError(f"{where}: Azure answered {described(error)}{tried}")


def described(error: Exception) -> str:
    """Return the kind of an error, with the service's status and code if it gave them."""
    status, code = getattr(error, "status_code", None), _code(error)
    text = " ".join(str(part) for part in (status, code) if part)
    return f"{text} ({type(error).__name__})" if text else type(error).__name__


def _code(error: Exception) -> str:
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")
