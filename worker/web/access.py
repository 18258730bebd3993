"""Who is answered: programs and people of this machine, or whoever shows WORKER_API_TOKEN.

A program shows the token as ``Authorization: Bearer TOKEN``; a browser once, in a form, and from then on a
cookie that is made from it and ends after some hours. What a form asks for is done only where the form is a
page of this worker's own.
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

# What a proxy in front of us adds: then the nearest address is the proxy's, and says nothing.
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip")


def shows_token(request: web.Request, token: str) -> bool:
    """Whether a request has the token in its header."""
    shown = request.headers.get("Authorization", "").encode()
    return hmac.compare_digest(shown, f"Bearer {token}".encode())


@dataclass(frozen=True)
class Access:
    """The rule for one worker; without a token only this machine is answered."""

    token: str | None = field(default=None, repr=False)
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def allows(self, request: web.Request) -> bool:
        """Whether a request may see what is not for everybody."""
        if self.token is None:
            return _is_of_this_machine(request)
        return shows_token(request, self.token) or self._is_ticket(request.cookies.get(COOKIE, ""))

    def is_token(self, shown: str) -> bool:
        """Whether it is the token."""
        return self.token is not None and hmac.compare_digest(shown.encode(), self.token.encode())

    def ticket(self) -> str:
        """A cookie's value for somebody who has shown the token; the token cannot be had from it."""
        return self._ticket(int(time.time()) + COOKIE_SECONDS)

    @property
    def form_key(self) -> str:
        """What this worker's own forms carry, and no other page knows."""
        return hmac.new(self._secret, b"form", sha256).hexdigest()

    def trusts_form(self, request: web.Request, form_key: str) -> bool:
        """Whether a form was sent by a page of ours: by what the browser says of it, and by its key."""
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
    """A name of its own besides, as any site can have one that leads a browser to this machine."""
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
