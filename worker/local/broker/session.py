"""A session: the links of one client, their delivery ids, and the unsettled deliveries.

Source: OASIS AMQP 1.0 part 2 §2.5 and part 3 §3.4 (outcomes).
"""

from __future__ import annotations

from typing import Any
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
from worker.local.amqp.types import Described
from worker.local.broker.links import (
    Link,
    Node,
    ReceivingLink,
    SendingLink,
    Wire,
    address_of,
    attach_answer,
    parse_address,
)
from worker.local.queues.namespace import LOCK_LOST, Namespace
from worker.local.queues.peek_lock import LockNotHeld, Queue

WINDOW = 65_536  # transfers
MAX_HANDLE = 1023
_SERIAL = 1 << 32
_TRANSFER_OVERHEAD = 128  # bytes; the frame header and transfer performative with its tag take fewer
_TERMINAL = (ACCEPTED, REJECTED, RELEASED, MODIFIED)


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
        refusal = self._reason_to_refuse(node, queue)
        self.send(attach_answer(attach, refused=refusal is not None))
        if refusal is not None:
            link.detach(*refusal)
        elif isinstance(link, ReceivingLink):
            link.grant_credit()
        elif node.kind == "queue" and isinstance(link, SendingLink):
            self.namespace.add_consumer(link)

    def _reason_to_refuse(self, node: Node, queue: Queue | None) -> tuple[str, str] | None:
        if node.kind == "cbs":
            return None
        if queue is None:
            return "amqp:not-found", f"The messaging entity '{node.path}' could not be found."
        if not self.connection.is_authorized:
            return "amqp:unauthorized-access", f"No token was accepted for '{node.path}'."
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
        undeliverable_here = len(fields) > 1 and fields[1] is True
        (queue.defer if undeliverable_here else queue.abandon)(token)
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
