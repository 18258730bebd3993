"""Service Bus's queue management over HTTPS, as far as creating, reading and updating queues.

It follows the real service's documentation (learn.microsoft.com, Service Bus's "Entities" of the REST API):
an Atom entry with a QueueDescription for a queue, an empty feed for a missing one, PUT to create, PUT with
If-Match to update.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

_ATOM = "http://www.w3.org/2005/Atom"
_QUEUE = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"


@dataclass
class Management:
    """A running endpoint.

    Attributes
    ----------
    namespace : str
        Host and port.
    queues : dict
        By name, the elements of a queue's description.
    status : int
        Status of all answers, if not 200.
    """

    namespace: str = ""
    queues: dict[str, dict[str, str]] = field(default_factory=dict)
    status: int = 200


@contextlib.contextmanager
def queue_management(certificate: tuple[Path, Path]) -> Iterator[Management]:
    """Run an endpoint on loopback that has no queues yet."""
    management = Management()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = urlsplit(self.path).path.strip("/")
            found = management.queues.get(name)
            if found is None:
                self._answer(f'<feed xmlns="{_ATOM}"><title>Publicly Listed Services</title></feed>')
            else:
                self._answer(_entry(name, found))

        def do_PUT(self) -> None:
            name = urlsplit(self.path).path.strip("/")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if management.status == 200:
                if name in management.queues and self.headers.get("If-Match") != "*":
                    self._answer("<Error><Code>409</Code><Detail>Conflict</Detail></Error>", status=409)
                    return
                described = ElementTree.fromstring(body).find(f".//{{{_QUEUE}}}QueueDescription")
                assert described is not None, body
                given = {each.tag.partition("}")[2]: each.text or "" for each in described}
                management.queues[name] = {**management.queues.get(name, {}), **given}
            self._answer(_entry(name, management.queues.get(name, {})), status=201)

        def _answer(self, text: str, *, status: int = 200) -> None:
            if management.status != 200:
                status = management.status
                text = (
                    f"<Error><Code>{status}</Code><Detail>Manage,EntityRead claims required</Detail></Error>"
                )
            content = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/atom+xml;type=entry;charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        management.namespace = f"127.0.0.1:{server.server_port}"
        try:
            yield management
        finally:
            server.shutdown()
            thread.join()


def _entry(name: str, elements: dict[str, str]) -> str:
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in elements.items())
    return (
        f'<entry xmlns="{_ATOM}"><title type="text">{name}</title><content type="application/xml">'
        f'<QueueDescription xmlns="{_QUEUE}">{inner}</QueueDescription></content></entry>'
    )
