"""The rule for access over HTTP: clients that show WORKER_API_TOKEN or, without one, only this machine.

A program sends the token as ``Authorization: Bearer TOKEN``. A browser sends it once, in a form, and then
uses a cookie that is derived from the token and expires after 12 hours. A form is acted on only when one of
this worker's own pages sent it.
"""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import ip_address
from urllib.parse import urlsplit

from aiohttp import web

COOKIE = "gdaltools-status"
COOKIE_SECONDS = 12 * 3600

# Headers that a proxy adds: the peer's address is then the proxy's and does not identify the client.
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip")


def shows_token(request: web.Request, token: str) -> bool:
    """Return whether the request's Authorization header holds `token`; the comparison takes constant time."""
    shown = request.headers.get("Authorization", "").encode()
    return hmac.compare_digest(shown, f"Bearer {token}".encode())


@dataclass(frozen=True)
class Access:
    """The access rule of one worker; without a token only requests from this machine are allowed."""

    token: str | None = field(default=None, repr=False)
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def allows(self, request: web.Request) -> bool:
        """Return whether `request` may see more than the open paths."""
        if self.token is None:
            return _is_of_this_machine(request)
        return shows_token(request, self.token) or self._is_ticket(request.cookies.get(COOKIE, ""))

    def is_token(self, shown: str) -> bool:
        """Return whether `shown` is the token."""
        return self.token is not None and hmac.compare_digest(shown.encode(), self.token.encode())

    def ticket(self) -> str:
        """Return a cookie value for a client that has shown the token; it does not reveal the token."""
        return self._ticket(int(time.time()) + COOKIE_SECONDS)

    @property
    def form_key(self) -> str:
        """The secret field in this worker's own forms, which no other page knows."""
        return hmac.new(self._secret, b"form", sha256).hexdigest()

    def trusts_form(self, request: web.Request, form_key: str) -> bool:
        """Return whether a page of this worker sent the form, by the browser's headers and by `form_key`."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if site is not None and site != "same-origin":
            return False
        if site is None and origin is not None and urlsplit(origin).netloc != request.host:
            return False
        return hmac.compare_digest(form_key.encode(), self.form_key.encode())

    def _ticket(self, ends: int) -> str:
        assert self.token is not None
        return f"{ends}.{hmac.new(self.token.encode(), f'status until {ends}'.encode(), sha256).hexdigest()}"

    def _is_ticket(self, shown: str) -> bool:
        ends = shown.partition(".")[0]
        if not (ends.isascii() and ends.isdecimal() and len(ends) < 12 and int(ends) > time.time()):
            return False
        return hmac.compare_digest(shown.encode(), self._ticket(int(ends)).encode())


def _is_of_this_machine(request: web.Request) -> bool:
    """Return whether peer and Host header are both loopback, and no proxy is in between.

    The Host header is checked because any site can point a DNS name at this machine.
    """
    if any(name in request.headers for name in _FORWARDED):
        return False
    return _is_loopback(request.remote) and _is_loopback(urlsplit(f"//{request.host}").hostname)


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False
