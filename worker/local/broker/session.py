"""A client's sessions and links: its deliveries, and the one-way streams between it and a node of the broker.

`ReceivingLink` accepts messages (for a queue, a management node, or ``$cbs``); `SendingLink` sends a queue's
messages, or answers. The names are from the broker's point of view.

Source: OASIS AMQP 1.0 part 2 §2.5 and §2.6, part 3 §3.4 (outcomes).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from worker.local.amqp.frames import (
    ACCEPTED,
    MODIFIED,
    REJECTED,
    RELEASED,
    Attach,
    Begin,
    Detach,
    Disposition,
    Flow,
    Performative,
    Transfer,
    amqp_error,
    encode_frame,
    outcome,
)
from worker.local.amqp.message import BATCH_FORMAT, Message, decode_batch, decode_message, encode_message
from worker.local.amqp.types import DecodeError, Described, Symbol
from worker.local.broker.management import manage, put_token
from worker.local.queues.namespace import LOCK_LOST, Namespace
from worker.local.queues.peek_lock import LockNotHeld, Queue
from worker.local.queues.stored import Stored

MAX_MESSAGE_BYTES = 256 * 1024  # Service Bus, standard tier
GRANTED_CREDIT = 1000
WINDOW = 65_536  # transfers
MAX_HANDLE = 1023
_SERIAL = 1 << 32  # counters wrap around (RFC 1982)
_SETTLED = 1  # snd-settle-mode of receive-and-delete
_TRANSFER_OVERHEAD = 128  # bytes; the frame header and transfer performative with its tag take fewer
_TERMINAL = (ACCEPTED, REJECTED, RELEASED, MODIFIED)


@dataclass(frozen=True, slots=True)
class Node:
    """The node that an address names."""

    kind: Literal["cbs", "management", "queue"]
    path: str  # the queue's; empty for $cbs


def parse_address(address: str) -> Node:
    """Return the node that `address` names, with or without ``amqps://host:port/``, in any case.

    Examples
    --------
    >>> parse_address("amqps://localhost:5672/docker-tasks/$DeadLetterQueue/$management")
    Node(kind='management', path='docker-tasks/$deadletterqueue')
    """
    path = (urlsplit(address).path if "://" in address else address).strip("/").lower()
    if path == "$cbs":
        return Node("cbs", "")
    if path.endswith("/$management"):
        return Node("management", path.removesuffix("/$management"))
    return Node("queue", path)


def address_of(terminus: Described | None) -> str:
    """Return the address in a source or target, or an empty string."""
    fields = terminus.value if terminus is not None else None
    return str(fields[0]) if isinstance(fields, list) and fields and fields[0] is not None else ""


class Wire(Protocol):
    """The part of a connection that its sessions use."""

    namespace: Namespace
    is_authorized: bool
    is_writable: bool
    max_frame_size: int

    def send_frame(self, frame: bytes) -> None:
        """Send a frame."""

    def send_answer(self, node: Node, reply_to: str, answer: bytes) -> None:
        """Send an answer on the link that the client attached for it."""


class ProtocolError(Exception):
    """The client violated AMQP; its connection is closed with `condition`."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.condition = condition


class Session:
    """One session of a connection."""

    def __init__(self, connection: Wire, channel: int, begin: Begin) -> None:
        self.connection = connection
        self.namespace: Namespace = connection.namespace
        self.channel = channel
        self.links: dict[int, Link] = {}
        self._next_outgoing_id = 0
        self._next_incoming_id = begin.next_outgoing_id
        self._remote_window = begin.incoming_window
        self._next_delivery_id = 0
        self._unsettled: dict[int, tuple[SendingLink, UUID]] = {}
        self.send(
            Begin(
                remote_channel=channel,
                next_outgoing_id=0,
                incoming_window=WINDOW,
                outgoing_window=WINDOW,
                handle_max=MAX_HANDLE,
            )
        )

    # Frames from the client

    def on_attach(self, attach: Attach) -> None:
        """Attach a link, or refuse it as AMQP prescribes: attach, then detach with the reason."""
        if attach.handle > MAX_HANDLE or attach.handle in self.links:
            raise ProtocolError("amqp:session:handle-in-use", f"handle {attach.handle} cannot be attached")
        node = parse_address(address_of(attach.source if attach.role else attach.target))
        queue = self.namespace.find_queue(node.path) if node.kind != "cbs" else None
        link = (SendingLink if attach.role else ReceivingLink)(self, attach, node, queue)
        self.links[attach.handle] = link
        refusal = self._reason_to_refuse(attach, node, queue)
        self.send(attach_answer(attach, refused=refusal is not None))
        if refusal is not None:
            link.detach(*refusal)
        elif isinstance(link, ReceivingLink):
            link.grant_credit()
        elif node.kind == "queue" and isinstance(link, SendingLink):
            self.namespace.add_consumer(link)

    def _reason_to_refuse(self, attach: Attach, node: Node, queue: Queue | None) -> tuple[str, str] | None:
        if node.kind == "cbs":
            return None
        if queue is None:
            return "amqp:not-found", f"The messaging entity '{node.path}' could not be found."
        if not self.connection.is_authorized:
            return "amqp:unauthorized-access", f"No token was accepted for '{node.path}'."
        if node.kind == "queue" and attach.role and attach.snd_settle_mode == _SETTLED:
            return "amqp:not-implemented", "Messages are received by peek-lock alone."
        return None

    def on_detach(self, detach: Detach) -> None:
        """Detach a link."""
        link = self.links.pop(detach.handle, None)
        if link is None:
            raise ProtocolError("amqp:session:unattached-handle", f"handle {detach.handle} is not attached")
        if not link.is_detached:
            link.is_detached = True
            link.on_closed()
            self.send(Detach(detach.handle, detach.closed))

    def on_flow(self, flow: Flow) -> None:
        """Apply the session's window and a link's credit."""
        next_incoming_id = flow.next_incoming_id or 0
        window = (next_incoming_id + flow.incoming_window - self._next_outgoing_id) % _SERIAL
        self._remote_window = window if window < _SERIAL // 2 else 0
        link = self._get_link(flow.handle) if flow.handle is not None else None
        if isinstance(link, SendingLink):
            link.on_flow(flow)
            self.namespace.wake()
            link.finish_flow(flow)
        elif flow.echo:
            self.send_flow(Flow())

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Pass a message, or a part of one, to its link."""
        self._next_incoming_id = (self._next_incoming_id + 1) % _SERIAL
        if self._next_incoming_id % (WINDOW // 4) == 0:
            self.send_flow(Flow())
        link = self._get_link(transfer.handle)
        if isinstance(link, ReceivingLink) and not link.is_detached:
            link.on_transfer(transfer, payload)

    def on_disposition(self, disposition: Disposition) -> None:
        """Settle deliveries as the client requests; confirm those that it has not settled itself."""
        if not disposition.role:
            return
        last = disposition.last if disposition.last is not None else disposition.first
        span = (last - disposition.first) % _SERIAL
        for delivery_id in [each for each in self._unsettled if (each - disposition.first) % _SERIAL <= span]:
            state = self._settle(delivery_id, disposition)
            if state is not None and not disposition.settled:
                self.send(Disposition(False, delivery_id, delivery_id, True, state))

    def end(self) -> None:
        """Close all links."""
        for link in self.links.values():
            link.is_detached = True
            link.on_closed()
        self.links.clear()

    def _get_link(self, handle: int) -> Link:
        link = self.links.get(handle)
        if link is None:
            raise ProtocolError("amqp:session:unattached-handle", f"handle {handle} is not attached")
        return link

    def _settle(self, delivery_id: int, disposition: Disposition) -> Described | None:
        state = disposition.state
        if state is None and disposition.settled:
            state = outcome(RELEASED)
        if state is None or state.descriptor not in _TERMINAL:
            return None
        link, token = self._unsettled.pop(delivery_id)
        condition = self.namespace.take_fault("settle", link.queue)
        if condition is not None:
            return outcome(REJECTED, amqp_error(condition, "fault injected"))
        try:
            return _apply(link.queue, token, state)
        except LockNotHeld as error:
            return outcome(REJECTED, amqp_error(LOCK_LOST, str(error)))

    # Frames from the broker

    def can_send(self) -> bool:
        """Return whether the client accepts another transfer."""
        return self._remote_window > 0 and self.connection.is_writable

    def send(self, body: Performative) -> None:
        """Send a frame of this session."""
        self.connection.send_frame(encode_frame(body, channel=self.channel))

    def send_flow(self, flow: Flow) -> None:
        """Send a flow frame, with the session's windows filled in."""
        flow.next_incoming_id = self._next_incoming_id
        flow.incoming_window = WINDOW
        flow.next_outgoing_id = self._next_outgoing_id
        flow.outgoing_window = WINDOW
        self.send(flow)

    def settle_incoming(self, delivery_id: int, state: Described) -> None:
        """Send the client the outcome of a message that it sent."""
        self.send(Disposition(True, delivery_id, delivery_id, True, state))

    def send_message(self, link: SendingLink, data: bytes, token: UUID | None) -> None:
        """Send a message in as many frames as it needs; with a lock token it stays unsettled.

        The delivery tag is the token's little-endian bytes, as the SDKs read it.
        """
        delivery_id = self._next_delivery_id
        self._next_delivery_id = (delivery_id + 1) % _SERIAL
        if token is not None:
            self._unsettled[delivery_id] = (link, token)
        tag = token.bytes_le if token is not None else delivery_id.to_bytes(4, "big")
        room = self.connection.max_frame_size - _TRANSFER_OVERHEAD
        for start in range(0, max(1, len(data)), room):
            transfer = Transfer(
                handle=link.handle,
                delivery_id=delivery_id,
                delivery_tag=tag,
                message_format=0,
                settled=token is None,
                more=start + room < len(data),
            )
            frame = encode_frame(transfer, data[start : start + room], channel=self.channel)
            self.connection.send_frame(frame)
            self._next_outgoing_id = (self._next_outgoing_id + 1) % _SERIAL
            self._remote_window = max(0, self._remote_window - 1)

    def forget_deliveries(self, link: SendingLink) -> None:
        """Ignore the client's dispositions for a link's deliveries from now on; their locks run on."""
        gone = [delivery_id for delivery_id, (owner, _) in self._unsettled.items() if owner is link]
        for delivery_id in gone:
            del self._unsettled[delivery_id]


def _apply(queue: Queue, token: UUID, state: Described) -> Described:
    """Settle a message; return the outcome that the client reads as success: its own, without an error."""
    fields = state.value if isinstance(state.value, list) else []
    if state.descriptor == ACCEPTED:
        queue.complete(token)
    elif state.descriptor == RELEASED:
        queue.release(token)
    elif state.descriptor == MODIFIED:
        if len(fields) > 1 and fields[1] is True:  # undeliverable-here
            return outcome(REJECTED, amqp_error("amqp:not-implemented", "No message is deferred here."))
        queue.abandon(token)
    else:
        queue.dead_letter(token, *_reason_and_description(fields[0] if fields else None))
        return outcome(REJECTED)
    return state


def _reason_and_description(error: Any) -> tuple[str | None, str | None]:
    fields = [*error.value, None, None, None] if isinstance(error, Described) and error.value else [None] * 3
    info = fields[2] if isinstance(fields[2], dict) else {}
    reason = info.get("DeadLetterReason")
    description = info.get("DeadLetterErrorDescription", fields[1])
    return (
        str(reason) if reason is not None else None,
        str(description) if description is not None else None,
    )


class Link:
    """The common part of both kinds of links: name, handle and detaching."""

    def __init__(self, session: Session, attach: Attach, node: Node, queue: Queue | None) -> None:
        self.session = session
        self.handle = attach.handle
        self.name = attach.name
        self.node = node
        self.bound_queue = queue
        self.is_detached = False

    def detach(self, condition: str, description: str) -> None:
        """Close the link with an error; what the client still sends on it is ignored."""
        self.is_detached = True
        self.on_closed()
        self.session.send(Detach(self.handle, True, amqp_error(condition, description)))

    def on_closed(self) -> None:
        """Release what the link holds."""


class ReceivingLink(Link):
    """A link on which a client sends."""

    def __init__(self, session: Session, attach: Attach, node: Node, queue: Queue | None) -> None:
        super().__init__(session, attach, node, queue)
        self._delivery_count = attach.initial_delivery_count or 0
        self._credit = GRANTED_CREDIT
        self._first: Transfer | None = None
        self._parts = bytearray()
        self._too_large = False

    def grant_credit(self) -> None:
        """Permit the client to send."""
        self.session.send_flow(
            Flow(handle=self.handle, delivery_count=self._delivery_count, link_credit=self._credit)
        )

    def on_transfer(self, transfer: Transfer, payload: bytes) -> None:
        """Accept a message, or a part of one."""
        if transfer.aborted:
            self._forget_parts()
            return
        self._first = self._first or transfer
        self._too_large = self._too_large or len(self._parts) + len(payload) > MAX_MESSAGE_BYTES
        if not self._too_large:
            self._parts += payload
        if transfer.more:
            return
        first, data, too_large = self._first, bytes(self._parts), self._too_large
        self._forget_parts()
        self._count_delivery()
        if too_large:
            reason = f"a message is at most {MAX_MESSAGE_BYTES} bytes"
            state = outcome(REJECTED, amqp_error("amqp:link:message-size-exceeded", reason))
        else:
            state = self._take_in(first, data)
        if first.delivery_id is not None and not (first.settled or transfer.settled):
            self.session.settle_incoming(first.delivery_id, state)

    def _forget_parts(self) -> None:
        self._first, self._too_large = None, False
        self._parts.clear()

    def _count_delivery(self) -> None:
        self._delivery_count = (self._delivery_count + 1) % _SERIAL
        self._credit -= 1
        if self._credit <= GRANTED_CREDIT // 2:
            self._credit = GRANTED_CREDIT
            self.grant_credit()

    def _take_in(self, transfer: Transfer, data: bytes) -> Described:
        try:
            if self.node.kind == "queue":
                return self._enqueue(
                    decode_batch(data) if transfer.message_format == BATCH_FORMAT else [data]
                )
            self._answer(decode_message(data))
        except DecodeError as error:
            return outcome(REJECTED, amqp_error("amqp:decode-error", str(error)))
        return outcome(ACCEPTED)

    def _enqueue(self, messages: list[Message] | list[bytes]) -> Described:
        assert self.bound_queue is not None
        decoded = [decode_message(each) if isinstance(each, bytes) else each for each in messages]
        condition = self.session.namespace.take_fault("send", self.bound_queue)
        if condition is not None:
            return outcome(REJECTED, amqp_error(condition, "fault injected"))
        self.bound_queue.send(*decoded)
        return outcome(ACCEPTED)

    def _answer(self, request: Message) -> None:
        if self.bound_queue is None:
            accepted, answer = put_token(self.session.namespace, request)
            self.session.connection.is_authorized |= accepted
        else:
            answer = manage(self.session.namespace, self.bound_queue, request)
        self.session.connection.send_answer(self.node, str(request.reply_to or ""), answer)


class SendingLink(Link):
    """A link on which a client receives: a queue's messages, or the answers of a request-response node."""

    def __init__(self, session: Session, attach: Attach, node: Node, queue: Queue | None) -> None:
        super().__init__(session, attach, node, queue)
        self.reply_address = address_of(attach.target)
        self._delivery_count = 0
        self._credit = 0
        self._answers: deque[bytes] = deque()

    @property
    def queue(self) -> Queue:
        """The queue whose messages this link sends."""
        assert self.bound_queue is not None
        return self.bound_queue

    def is_ready(self) -> bool:
        """Return whether the client has granted credit and accepts another transfer."""
        return self._credit > 0 and not self.is_detached and self.session.can_send()

    def deliver(self, stored: Stored) -> None:
        """Send a message that was locked for this link."""
        token = stored.lock_token
        self._use_credit()
        self.session.send_message(self, encode_message(stored.to_wire()), token)

    def send_answer(self, answer: bytes) -> None:
        """Send an answer as soon as there is credit for it."""
        self._answers.append(answer)
        self._send_answers()

    def on_flow(self, flow: Flow) -> None:
        """Apply the client's credit; `finish_flow` answers after messages have been sent."""
        if flow.link_credit is not None:
            limit = (flow.delivery_count or 0) + flow.link_credit
            credit = (limit - self._delivery_count) % _SERIAL
            self._credit = credit if credit < _SERIAL // 2 else 0
        self._send_answers()

    def finish_flow(self, flow: Flow) -> None:
        """Use up the remaining credit of a drain, and echo if the client requested it."""
        if flow.drain:
            self._delivery_count = (self._delivery_count + self._credit) % _SERIAL
            self._credit = 0
        if (flow.drain or flow.echo) and not self.is_detached:
            self.session.send_flow(
                Flow(
                    handle=self.handle,
                    delivery_count=self._delivery_count,
                    link_credit=self._credit,
                    available=0,
                    drain=flow.drain,
                )
            )

    def on_closed(self) -> None:
        """Stop consuming; locks on delivered messages last until they expire."""
        if self.node.kind == "queue" and self.bound_queue is not None:
            self.session.namespace.remove_consumer(self)
        self.session.forget_deliveries(self)
        self._answers.clear()

    def _send_answers(self) -> None:
        while self._answers and self._credit > 0 and not self.is_detached:
            self._use_credit()
            self.session.send_message(self, self._answers.popleft(), None)

    def _use_credit(self) -> None:
        self._credit -= 1
        self._delivery_count = (self._delivery_count + 1) % _SERIAL


def attach_answer(attach: Attach, *, refused: bool) -> Attach:
    """Return the broker's half of an attach; a refusal names no node at the broker's end (part 2 §2.6.3)."""
    return Attach(
        name=attach.name,
        handle=attach.handle,
        role=not attach.role,
        snd_settle_mode=attach.snd_settle_mode,
        rcv_settle_mode=attach.rcv_settle_mode,
        source=None if refused and attach.role else attach.source,
        target=None if refused and not attach.role else attach.target,
        initial_delivery_count=0 if attach.role else None,
        max_message_size=MAX_MESSAGE_BYTES,
        properties={Symbol("com.microsoft:max-message-batch-size"): MAX_MESSAGE_BYTES},
    )
