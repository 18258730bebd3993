"""AMQP frames: the nine performatives and SASL's as values, encoded and decoded.

Every field of a decoded performative has the type in its definition, so that later code can rely on it. A
peer's frame that does not match raises `DecodeError`.

Source: OASIS AMQP 1.0 part 2 §2.3 (framing) and §2.7 (performatives), part 5 §5.3.3 (SASL).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from worker.local.amqp.types import DecodeError, Described, Symbol, UByte, UInt, ULong, UShort, decode, encode

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"
AMQP_FRAME, SASL_FRAME = 0, 1
MIN_MAX_FRAME_SIZE = 512  # AMQP 1.0 part 2 §2.3.1

ACCEPTED, REJECTED, RELEASED, MODIFIED = ULong(0x24), ULong(0x25), ULong(0x26), ULong(0x27)


_STRING: dict[str, Any] = {"kind": str}
_UINT: dict[str, Any] = {"kind": UInt}
_USHORT: dict[str, Any] = {"kind": UShort}
_UBYTE: dict[str, Any] = {"kind": UByte}
_ULONG: dict[str, Any] = {"kind": ULong}
_ANY: dict[str, Any] = {"kind": object}
_MAP: dict[str, Any] = {"kind": dict}
_DESCRIBED: dict[str, Any] = {"kind": Described}
_BOOLEAN: dict[str, Any] = {"kind": bool}
_BINARY: dict[str, Any] = {"kind": bytes}
_SYMBOL: dict[str, Any] = {"kind": Symbol}


class Performative:
    """A frame's body: a described list whose fields are the dataclass's, in order.

    Fields at the end of the list that the broker has no use for are not defined, and not read.
    """

    code: ClassVar[int]


@dataclass(slots=True)
class Open(Performative):
    """Negotiate connection parameters."""

    code: ClassVar[int] = 0x10
    container_id: str = field(default="", metadata=_STRING)
    hostname: str | None = field(default=None, metadata=_STRING)
    max_frame_size: int = field(default=0xFFFFFFFF, metadata=_UINT)
    channel_max: int = field(default=0xFFFF, metadata=_USHORT)
    idle_time_out: int | None = field(default=None, metadata=_UINT)


@dataclass(slots=True)
class Begin(Performative):
    """Begin a session on a channel."""

    code: ClassVar[int] = 0x11
    remote_channel: int | None = field(default=None, metadata=_USHORT)
    next_outgoing_id: int = field(default=0, metadata=_UINT)
    incoming_window: int = field(default=0, metadata=_UINT)
    outgoing_window: int = field(default=0, metadata=_UINT)
    handle_max: int = field(default=0xFFFFFFFF, metadata=_UINT)


@dataclass(slots=True)
class Attach(Performative):
    """Attach a link to a session; `role` is True at the end that receives."""

    code: ClassVar[int] = 0x12
    name: str = field(default="", metadata=_STRING)
    handle: int = field(default=0, metadata=_UINT)
    role: bool = field(default=False, metadata=_BOOLEAN)
    snd_settle_mode: int = field(default=2, metadata=_UBYTE)
    rcv_settle_mode: int = field(default=0, metadata=_UBYTE)
    source: Any = field(default=None, metadata=_DESCRIBED)
    target: Any = field(default=None, metadata=_DESCRIBED)
    unsettled: dict[Any, Any] | None = field(default=None, metadata=_MAP)
    incomplete_unsettled: bool = field(default=False, metadata=_BOOLEAN)
    initial_delivery_count: int | None = field(default=None, metadata=_UINT)
    max_message_size: int | None = field(default=None, metadata=_ULONG)
    offered_capabilities: Any = field(default=None, metadata=_ANY)
    desired_capabilities: Any = field(default=None, metadata=_ANY)
    properties: dict[Any, Any] | None = field(default=None, metadata=_MAP)


@dataclass(slots=True)
class Flow(Performative):
    """Update the windows of a session and, with a handle, the credit of a link."""

    code: ClassVar[int] = 0x13
    next_incoming_id: int | None = field(default=None, metadata=_UINT)
    incoming_window: int = field(default=0, metadata=_UINT)
    next_outgoing_id: int = field(default=0, metadata=_UINT)
    outgoing_window: int = field(default=0, metadata=_UINT)
    handle: int | None = field(default=None, metadata=_UINT)
    delivery_count: int | None = field(default=None, metadata=_UINT)
    link_credit: int | None = field(default=None, metadata=_UINT)
    available: int | None = field(default=None, metadata=_UINT)
    drain: bool = field(default=False, metadata=_BOOLEAN)
    echo: bool = field(default=False, metadata=_BOOLEAN)


@dataclass(slots=True)
class Transfer(Performative):
    """Transfer a message, or a part of one; the bytes follow the performative in the frame."""

    code: ClassVar[int] = 0x14
    handle: int = field(default=0, metadata=_UINT)
    delivery_id: int | None = field(default=None, metadata=_UINT)
    delivery_tag: bytes | None = field(default=None, metadata=_BINARY)
    message_format: int | None = field(default=None, metadata=_UINT)
    settled: bool | None = field(default=None, metadata=_BOOLEAN)
    more: bool = field(default=False, metadata=_BOOLEAN)
    rcv_settle_mode: int | None = field(default=None, metadata=_UBYTE)
    state: Any = field(default=None, metadata=_DESCRIBED)
    resume: bool = field(default=False, metadata=_BOOLEAN)
    aborted: bool = field(default=False, metadata=_BOOLEAN)


@dataclass(slots=True)
class Disposition(Performative):
    """Report the state of deliveries to the other end; `role` is True when the receiver reports."""

    code: ClassVar[int] = 0x15
    role: bool = field(default=False, metadata=_BOOLEAN)
    first: int = field(default=0, metadata=_UINT)
    last: int | None = field(default=None, metadata=_UINT)
    settled: bool = field(default=False, metadata=_BOOLEAN)
    state: Any = field(default=None, metadata=_DESCRIBED)


@dataclass(slots=True)
class Detach(Performative):
    """Detach a link; `closed` also closes it."""

    code: ClassVar[int] = 0x16
    handle: int = field(default=0, metadata=_UINT)
    closed: bool = field(default=False, metadata=_BOOLEAN)
    error: Any = field(default=None, metadata=_DESCRIBED)


@dataclass(slots=True)
class End(Performative):
    """End a session."""

    code: ClassVar[int] = 0x17
    error: Any = field(default=None, metadata=_DESCRIBED)


@dataclass(slots=True)
class Close(Performative):
    """Close a connection."""

    code: ClassVar[int] = 0x18
    error: Any = field(default=None, metadata=_DESCRIBED)


@dataclass(slots=True)
class SaslMechanisms(Performative):
    """The SASL mechanisms that the server offers."""

    code: ClassVar[int] = 0x40
    mechanisms: Any = field(default=None, metadata=_ANY)


@dataclass(slots=True)
class SaslInit(Performative):
    """The client's choice of a SASL mechanism."""

    code: ClassVar[int] = 0x41
    mechanism: str = field(default=Symbol("ANONYMOUS"), metadata=_SYMBOL)


@dataclass(slots=True)
class SaslOutcome(Performative):
    """The outcome of authentication; `outcome` 0 means success."""

    code: ClassVar[int] = 0x44
    outcome: int = field(default=0, metadata=_UBYTE)


_BY_CODE: dict[int, type[Performative]] = {
    kind.code: kind
    for kind in (
        *(Open, Begin, Attach, Flow, Transfer, Disposition, Detach, End, Close),
        *(SaslMechanisms, SaslInit, SaslOutcome),
    )
}
_UNSIGNED_LIMIT = {UByte: 1 << 8, UShort: 1 << 16, UInt: 1 << 32, ULong: 1 << 64}


def amqp_error(condition: str, description: str | None = None) -> Described:
    """Return an AMQP error (part 2 §2.8.14) with all three fields, because the Python SDK indexes them."""
    return Described(ULong(0x1D), [Symbol(condition), description, None])


def outcome(code: ULong, *values: Any) -> Described:
    """Return a delivery's outcome (part 3 §3.4), e.g. ``outcome(ACCEPTED)``."""
    return Described(code, list(values))


def encode_frame(body: Performative, payload: bytes = b"", *, channel: int = 0, sasl: bool = False) -> bytes:
    """Encode one frame, header included."""
    values = []
    for item in fields(body):  # type: ignore[arg-type]
        value, kind = getattr(body, item.name), item.metadata["kind"]
        values.append(kind(value) if value is not None and kind in _UNSIGNED_LIMIT else value)
    while values and values[-1] is None:
        values.pop()
    content = encode(Described(ULong(body.code), values)) + payload
    return struct.pack(">IBBH", len(content) + 8, 2, SASL_FRAME if sasl else AMQP_FRAME, channel) + content


def decode_body(content: bytes) -> tuple[Performative, bytes]:
    """Decode a frame's body; return the performative and the bytes after it.

    Raises
    ------
    DecodeError
        The body is not a performative, or a field does not have the type in its definition.
    """
    value, end = decode(content)
    if not isinstance(value, Described) or not isinstance(value.value, list):
        raise DecodeError("a frame's body is not a described list")
    kind = _BY_CODE.get(value.descriptor) if isinstance(value.descriptor, int) else None
    if kind is None:
        raise DecodeError(f"no performative has the descriptor {value.descriptor!r}")
    definition = fields(kind)  # type: ignore[arg-type]
    if len(value.value) > len(definition):
        value = value._replace(value=value.value[: len(definition)])
    values = {
        item.name: _checked(kind, item.name, item.metadata["kind"], element)
        for item, element in zip(definition, value.value, strict=False)
        if element is not None
    }
    return kind(**values), content[end:]


def _checked(kind: type[Performative], name: str, expected: Any, value: Any) -> Any:
    if expected in _UNSIGNED_LIMIT:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _UNSIGNED_LIMIT[expected]:
            return int(value)
    elif expected is object or isinstance(value, expected):
        return value
    raise DecodeError(f"{kind.__name__}.{name} is {value!r:.80}")
