"""A client's TCP connection: it splits bytes into frames and passes them to sessions.

Whatever a client sends, only its own connection is affected.

Source: OASIS AMQP 1.0 part 2 §2.2–2.4, part 5 §5.3 (SASL).
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque

from worker.local.amqp.frames import (
    AMQP_FRAME,
    AMQP_HEADER,
    MIN_MAX_FRAME_SIZE,
    SASL_FRAME,
    SASL_HEADER,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Performative,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Transfer,
    amqp_error,
    decode_body,
    encode_frame,
)
from worker.local.amqp.types import Array, DecodeError, Symbol
from worker.local.broker.session import Node, ProtocolError, SendingLink, Session
from worker.local.queues.namespace import Namespace
from worker.local.queues.peek_lock import Queue

MAX_FRAME_SIZE = 65_536  # bytes, as the service advertises
MAX_SESSIONS = 256
CONTAINER_ID = "gdaltools-development-broker"
_MECHANISMS = ("MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL")
_MIN_HEARTBEAT_SECONDS = 0.1

_LOGGER = logging.getLogger(__name__)


class Connection(asyncio.Protocol):
    """The connection of one client."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.is_authorized = False
        self.is_writable = True
        self.max_frame_size = MIN_MAX_FRAME_SIZE
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._sessions: dict[int, Session] = {}
        self._ended: set[int] = set()  # channels on which the Python SDK still detaches links after end
        self._is_past_header = False
        self._is_open = False
        self._is_closing = False
        self._heartbeat: asyncio.TimerHandle | None = None
        self._delayed: deque[tuple[float, bytes]] = deque()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the connection with the namespace."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.namespace.peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything; locks on delivered messages last until they expire."""
        self._is_closing = True
        self.is_writable = False
        self.namespace.peers.discard(self)
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        for session in self._sessions.values():
            session.end()
        self._sessions.clear()
        self._delayed.clear()

    def pause_writing(self) -> None:
        """Stop delivering to a client that does not read."""
        self.is_writable = False

    def resume_writing(self) -> None:
        """Resume delivering."""
        self.is_writable = not self._is_closing
        self.namespace.wake()

    def data_received(self, data: bytes) -> None:
        """Process the client's frames; a protocol violation closes this connection."""
        self._buffer += data
        try:
            while not self._is_closing and self._consume():
                pass
        except ProtocolError as error:
            self._fail(error.condition, str(error))
        except DecodeError as error:
            self._fail("amqp:decode-error", str(error))
        self.namespace.wake()

    # Peer

    def drop(self) -> None:
        """Abort the connection without a close frame."""
        self._is_closing, self.is_writable = True, False
        if self._transport is not None:
            self._transport.abort()

    def detach_links(self, queue: Queue | None, condition: str) -> int:
        """Close the links to `queue` (None: to every queue) with an error; return how many.

        Management links stay attached.
        """
        links = [
            link
            for session in self._sessions.values()
            for link in session.links.values()
            if link.node.kind == "queue" and not link.is_detached and queue in (None, link.bound_queue)
        ]
        for link in links:
            link.detach(condition, "The link was detached by the broker.")
        return len(links)

    # Sending

    def send_frame(self, frame: bytes) -> None:
        """Send a frame, after the reply delay if one is set; frames stay in order."""
        if self._is_closing:
            return
        if not self.namespace.reply_delay and not self._delayed:
            self._write(frame)
            return
        loop = asyncio.get_running_loop()
        due = loop.time() + self.namespace.reply_delay
        self._delayed.append((max(due, self._delayed[-1][0]) if self._delayed else due, frame))
        loop.call_at(self._delayed[-1][0], self._send_delayed)

    def send_answer(self, node: Node, reply_to: str, answer: bytes) -> None:
        """Send an answer on the link that the client attached for it; drop it when there is none."""
        links = [
            link
            for session in self._sessions.values()
            for link in session.links.values()
            if isinstance(link, SendingLink) and link.node == node and not link.is_detached
        ]
        links.sort(key=lambda link: link.reply_address == reply_to)
        if links:
            links[-1].send_answer(answer)

    def _send_delayed(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._delayed and self._delayed[0][0] <= now + 0.001:
            self._write(self._delayed.popleft()[1])

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _send_heartbeat(self, interval: float) -> None:
        self.send_frame(struct.pack(">IBBH", 8, 2, AMQP_FRAME, 0))
        self._heartbeat = asyncio.get_running_loop().call_later(interval, self._send_heartbeat, interval)

    def _fail(self, condition: str, description: str) -> None:
        _LOGGER.warning("closing a connection: %s: %s", condition, description)
        if self._is_open:
            self.send_frame(encode_frame(Close(amqp_error(condition, description))))
        self._is_closing = True
        if self._transport is not None:
            self._transport.close()

    # Receiving

    def _consume(self) -> bool:
        """Process one header or frame from the buffer; return False when none is complete."""
        if len(self._buffer) < 8:
            return False
        if not self._is_past_header and self._buffer[:4] == b"AMQP":
            self._on_header(bytes(self._buffer[:8]))
            del self._buffer[:8]
            return True
        size, offset, kind, channel = struct.unpack_from(">IBBH", self._buffer)
        if not 8 <= 4 * offset <= size <= MAX_FRAME_SIZE or kind not in (AMQP_FRAME, SASL_FRAME):
            raise ProtocolError("amqp:connection:framing-error", f"frame of {size} bytes, type {kind}")
        if len(self._buffer) < size:
            return False
        content = bytes(self._buffer[4 * offset : size])
        del self._buffer[:size]
        if content:
            self._on_frame(kind, channel, *decode_body(content))
        return True

    def _on_header(self, header: bytes) -> None:
        if header == SASL_HEADER:
            mechanisms = Array(Symbol(each) for each in _MECHANISMS)
            self._write(SASL_HEADER + encode_frame(SaslMechanisms(mechanisms), sasl=True))
        elif header == AMQP_HEADER:
            self._is_past_header = True
            self._write(AMQP_HEADER)
        else:
            self._write(AMQP_HEADER)
            raise ProtocolError("amqp:connection:framing-error", f"{header!r} is not AMQP 1.0")

    def _on_frame(self, kind: int, channel: int, body: Performative, payload: bytes) -> None:
        if kind == SASL_FRAME:
            if isinstance(body, SaslInit) and not self._is_past_header:
                self._write(encode_frame(SaslOutcome(0), sasl=True))
                return
            raise ProtocolError("amqp:not-allowed", f"{type(body).__name__} is out of place")
        if isinstance(body, Open):
            self._on_open(body)
        elif not self._is_open:
            raise ProtocolError("amqp:not-allowed", "the first frame of a connection is open")
        elif isinstance(body, Close):
            self._on_close()
        elif isinstance(body, Begin):
            self._on_begin(channel, body)
        elif isinstance(body, End):
            session = self._get_session(channel)
            del self._sessions[channel]
            self._ended.add(channel)
            session.end()
            session.send(End())
        elif channel not in self._ended:
            self._on_session_frame(self._get_session(channel), body, payload)

    def _on_open(self, body: Open) -> None:
        if self._is_open or not self._is_past_header:
            raise ProtocolError("amqp:not-allowed", "open is out of place")
        if body.max_frame_size < MIN_MAX_FRAME_SIZE:
            raise ProtocolError("amqp:invalid-field", f"max-frame-size {body.max_frame_size} is below 512")
        self._is_open = True
        self.max_frame_size = min(body.max_frame_size, MAX_FRAME_SIZE)
        self.send_frame(
            encode_frame(Open(CONTAINER_ID, max_frame_size=MAX_FRAME_SIZE, channel_max=MAX_SESSIONS - 1))
        )
        if body.idle_time_out:
            self._send_heartbeat(max(body.idle_time_out / 2000, _MIN_HEARTBEAT_SECONDS))

    def _on_close(self) -> None:
        self.send_frame(encode_frame(Close()))
        self._is_closing = True
        if self._transport is not None:
            self._transport.close()

    def _on_begin(self, channel: int, body: Begin) -> None:
        if channel in self._sessions or len(self._sessions) >= MAX_SESSIONS:
            raise ProtocolError("amqp:not-allowed", f"channel {channel} is in use, or there are too many")
        self._ended.discard(channel)
        self._sessions[channel] = Session(self, channel, body)

    def _get_session(self, channel: int) -> Session:
        session = self._sessions.get(channel)
        if session is None:
            raise ProtocolError("amqp:not-allowed", f"no session is begun on channel {channel}")
        return session

    def _on_session_frame(self, session: Session, body: Performative, payload: bytes) -> None:
        if isinstance(body, Attach):
            session.on_attach(body)
        elif isinstance(body, Detach):
            session.on_detach(body)
        elif isinstance(body, Flow):
            session.on_flow(body)
        elif isinstance(body, Transfer):
            session.on_transfer(body, payload)
        elif isinstance(body, Disposition):
            session.on_disposition(body)
        else:
            raise ProtocolError("amqp:not-allowed", f"{type(body).__name__} is out of place")
