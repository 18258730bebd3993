"""Links: one-way streams of messages between a client and a node of the broker.

`ReceivingLink` accepts messages (for a queue, a management node, or ``$cbs``); `SendingLink` sends a queue's
messages, or answers. The names are from the broker's point of view.

Source: OASIS AMQP 1.0 part 2 §2.6.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import urlsplit
from uuid import UUID

from worker.local.amqp.frames import (
    ACCEPTED,
    REJECTED,
    Attach,
    Detach,
    Flow,
    Performative,
    Transfer,
    amqp_error,
    outcome,
)
from worker.local.amqp.message import BATCH_FORMAT, Message, decode_batch, decode_message, encode_message
from worker.local.amqp.types import DecodeError, Described, Symbol
from worker.local.broker.management import manage, put_token
from worker.local.queues.namespace import Namespace
from worker.local.queues.peek_lock import Queue
from worker.local.queues.stored import Stored

MAX_MESSAGE_BYTES = 256 * 1024  # Service Bus, standard tier
GRANTED_CREDIT = 1000
_SERIAL = 1 << 32  # counters wrap around (RFC 1982)
_SETTLED = 1  # snd-settle-mode of receive-and-delete


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
    """The part of a connection that sessions and links use."""

    namespace: Namespace
    is_authorized: bool
    is_writable: bool
    max_frame_size: int

    def send_frame(self, frame: bytes) -> None:
        """Send a frame."""

    def send_answer(self, node: Node, reply_to: str, answer: bytes) -> None:
        """Send an answer on the link that the client attached for it."""


class Sender(Protocol):
    """The part of a session that its links use."""

    @property
    def connection(self) -> Wire:
        """The session's connection."""

    @property
    def namespace(self) -> Namespace:
        """The broker's queues."""

    def can_send(self) -> bool:
        """Return whether the client accepts another transfer."""

    def send(self, body: Performative) -> None:
        """Send a frame of the session."""

    def send_flow(self, flow: Flow) -> None:
        """Send a flow frame."""

    def settle_incoming(self, delivery_id: int, state: Described) -> None:
        """Send the client the outcome of a message that it sent."""

    def send_message(self, link: SendingLink, data: bytes, token: UUID | None) -> None:
        """Send a message on a link."""

    def forget_deliveries(self, link: SendingLink) -> None:
        """Ignore the client's dispositions for the link's deliveries from now on."""


class Link:
    """The common part of both kinds of links: name, handle and detaching."""

    def __init__(self, session: Sender, attach: Attach, node: Node, queue: Queue | None) -> None:
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

    def __init__(self, session: Sender, attach: Attach, node: Node, queue: Queue | None) -> None:
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

    def __init__(self, session: Sender, attach: Attach, node: Node, queue: Queue | None) -> None:
        super().__init__(session, attach, node, queue)
        self.deletes = attach.snd_settle_mode == _SETTLED
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
        """Send a message that was locked (or removed) for this link."""
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
