"""A loopback imitation of App Service's managed identity endpoint, which azure-identity calls in a Web App.

Azurite and the development broker check a token's audience, issuer and expiry, but not its signature.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TENANT = "11111111-2222-3333-4444-555555555555"


@dataclass
class Endpoint:
    """A running endpoint.

    Attributes
    ----------
    environment : dict of str
        The variables that App Service would set.
    lifetime : float
        Seconds that a token is valid; negative for an expired token.
    refresh_in : int or None
        Seconds after which the answer asks for a refresh; azure-identity's own rule is five minutes before
        the end, but not within half a minute of the last request.
    delay : float
        Seconds before an answer.
    status : int
        HTTP status of the answers.
    tokens : dict of str
        By resource, tokens to return instead of new ones.
    asked : list of dict
        The queries received.
    given : list of str
        The tokens returned.
    """

    environment: dict[str, str] = field(default_factory=dict)
    lifetime: float = 3600.0
    refresh_in: int | None = None
    delay: float = 0.0
    status: int = 200
    tokens: dict[str, str] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    given: list[str] = field(default_factory=list)

    def resources(self) -> list[str]:
        """Return the resources that tokens were requested for."""
        return [query["resource"] for query in self.asked]


@contextlib.contextmanager
def identity_endpoint(*, secret: str = "header-secret") -> Iterator[Endpoint]:
    """Run an endpoint that authenticates callers by a secret header."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            endpoint.asked.append(query)
            time.sleep(endpoint.delay)
            status = endpoint.status if self.headers["X-IDENTITY-HEADER"] == secret else 401
            expires = int(time.time() + endpoint.lifetime)
            answer: dict[str, Any] = {"statusCode": status, "message": "injected"}
            if status == 200:
                given = endpoint.tokens.get(query["resource"]) or token(query["resource"], expires)
                endpoint.given.append(given)
                answer = {
                    "access_token": given,
                    "expires_on": str(expires),
                    "resource": query["resource"],
                    "token_type": "Bearer",
                    "client_id": query.get("client_id", "system"),
                }
                if endpoint.refresh_in is not None:
                    answer["refresh_in"] = str(endpoint.refresh_in)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/msi/token"
        endpoint.environment = {"IDENTITY_ENDPOINT": address, "IDENTITY_HEADER": secret}
        try:
            yield endpoint
        finally:
            server.shutdown()
            thread.join()


def token(audience: str, expires: float) -> str:
    """Return a JWT for an audience that expires at the time `expires`."""
    claims = {
        "aud": audience.removesuffix("/.default"),
        "iss": f"https://sts.windows.net/{TENANT}/",
        "tid": TENANT,
        "nbf": int(expires) - 7200,
        "iat": int(expires) - 7200,
        "exp": int(expires),
    }
    parts = [_encoded({"alg": "HS256", "typ": "JWT"}), _encoded(claims)]
    signed = ".".join(parts)
    signature = hmac.new(b"test", signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_text(signature)}"


def claims_of(text: str) -> dict[str, Any]:
    """Return the claims of a JWT."""
    middle = text.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return decoded


def _encoded(value: dict[str, Any]) -> str:
    return _text(json.dumps(value).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
