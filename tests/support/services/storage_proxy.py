"""A proxy between a client and Azurite that spoils chosen requests: refuses, delays, cuts or loses them.

It runs in a thread of the test's own process. GDAL cannot be its client, because GDAL holds up Python's other
threads while it waits for an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

_CODES = {
    403: "AuthorizationFailure",
    404: "BlobNotFound",
    412: "ConditionNotMet",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServerBusy",
}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]

    @property
    def operation(self) -> str:
        """Blob Storage's operation: read, properties, block, commit, put, list, delete, or other."""
        comp = self.query.get("comp", [""])[0]
        if comp:
            return {"block": "block", "blocklist": "commit" if self.method == "PUT" else "blocks"}.get(
                comp, comp
            )
        if self.query.get("restype"):
            return "container"
        return {"GET": "read", "HEAD": "properties", "PUT": "put", "DELETE": "delete"}[self.method]


@dataclass(frozen=True)
class Fault:
    """What happens to a request.

    Attributes
    ----------
    status : int
        Answer with this status, without calling Azurite.
    retry_after : int
        Seconds that the answer asks the client to wait.
    delay : float
        Seconds before the request is passed on.
    cut : str
        Close the connection: "before" Azurite is called, "after" it has answered, or "within" the body.
    """

    status: int = 0
    retry_after: int = 0
    delay: float = 0.0
    cut: str = ""


@dataclass
class _Rule:
    fault: Fault
    expected: Callable[[Request], bool]
    left: int


@dataclass
class StorageProxy:
    """A running proxy.

    Attributes
    ----------
    seen : list of Request
        Every request received.
    spoilt : list of (Request, Fault)
        The requests that met a fault.
    """

    server: tuple[str, int]
    port: int = 0
    seen: list[Request] = field(default_factory=list)
    spoilt: list[tuple[Request, Fault]] = field(default_factory=list)
    _rules: list[_Rule] = field(default_factory=list)

    def spoil(self, operation: str, fault: Fault, *, times: int = 1, skip: int = 0) -> None:
        """Apply a fault to the next `times` requests of an operation, after the first `skip` of them."""
        if skip:
            self._rules.append(_Rule(Fault(), lambda request: request.operation == operation, skip))
        self._rules.append(_Rule(fault, lambda request: request.operation == operation, times))

    def heal(self) -> None:
        """Forget the faults and the recorded requests."""
        self._rules.clear()
        self.seen.clear()
        self.spoilt.clear()

    def _fault_for(self, request: Request) -> Fault:
        self.seen.append(request)
        for rule in self._rules:
            if rule.left and rule.expected(request):
                rule.left -= 1
                if rule.fault != Fault():
                    self.spoilt.append((request, rule.fault))
                return rule.fault
        return Fault()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        request = _parsed(head)
        if request.headers.get("expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(int(request.headers.get("content-length", "0")))
        fault = self._fault_for(request)
        await asyncio.sleep(fault.delay)
        if fault.cut == "before":
            return False
        if fault.status:
            writer.write(_refusal(fault, with_body=request.method != "HEAD"))
            await writer.drain()
            return True
        answer_head, answer = await self._asked(head, body, method=request.method)
        if fault.cut == "after":
            return False
        if fault.cut == "within":
            writer.write(answer_head + answer[: len(answer) // 2])
            await writer.drain()
            return False
        writer.write(answer_head + answer)
        await writer.drain()
        return True

    async def _asked(self, head: bytes, body: bytes, *, method: str) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(*self.server, limit=1 << 20)
        try:
            writer.write(head + body)
            await writer.drain()
            answer_head = await reader.readuntil(b"\r\n\r\n")
            headers = _headers(answer_head)
            if method == "HEAD":
                return answer_head, b""
            if headers.get("transfer-encoding") == "chunked":
                return answer_head, await _chunks(reader)
            return answer_head, await reader.readexactly(int(headers.get("content-length", "0")))
        finally:
            writer.close()


@contextlib.contextmanager
def storage_proxy(connection_string: str) -> Iterator[tuple[StorageProxy, str]]:
    """Run a proxy in front of the server of a connection string; yield it and the string that leads to it."""
    address = urlsplit(connection_string.partition("BlobEndpoint=")[2].rstrip(";"))
    assert address.hostname
    assert address.port
    proxy = StorageProxy((address.hostname, address.port))
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20)
        proxy.port = server.sockets[0].getsockname()[1]
        started.set()
        await stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield proxy, connection_string.replace(f":{address.port}/", f":{proxy.port}/")
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _parsed(head: bytes) -> Request:
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
    url = urlsplit(target)
    return Request(method, url.path, parse_qs(url.query, keep_blank_values=True), _headers(head))


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name.strip().lower(): value.strip() for name, value in pairs}


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """Return a chunked body unchanged, with its framing."""
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line, 16)
        body += line + await reader.readexactly(size + 2)
        if not size:
            return body


def _refusal(fault: Fault, *, with_body: bool) -> bytes:
    code = _CODES[fault.status]
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()
    head = (
        f"HTTP/1.1 {fault.status} Injected\r\nx-ms-error-code: {code}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    if fault.retry_after:
        head += f"Retry-After: {fault.retry_after}\r\n"
    return head.encode() + b"\r\n" + (body if with_body else b"")
