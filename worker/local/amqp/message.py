"""An AMQP message as the broker keeps it: decoded sections that it may change, and an unchanged encoded body.

Source: OASIS AMQP 1.0 part 3 §3.2 (message format); the ``x-opt-*`` annotations are Service Bus's
(learn.microsoft.com, "AMQP 1.0 in Azure Service Bus: protocol guide").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from worker.local.amqp.types import DecodeError, Described, Symbol, UInt, ULong, decode, encode

BATCH_FORMAT = 0x80013700  # message-format of several messages in one transfer
SCHEDULED_ENQUEUE_TIME = Symbol("x-opt-scheduled-enqueue-time")

_HEADER, _DELIVERY_ANNOTATIONS, _ANNOTATIONS, _PROPERTIES, _APPLICATION_PROPERTIES = range(0x70, 0x75)
_DATA, _SEQUENCE, _VALUE, _FOOTER = range(0x75, 0x79)
_TTL, _DELIVERY_COUNT = 2, 4  # positions in the header
_MESSAGE_ID, _REPLY_TO, _CORRELATION_ID = 0, 4, 5  # positions in the properties


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `body` holds the encoded body sections and footer, unchanged."""

    header: tuple[Any, ...] = ()
    annotations: dict[Any, Any] = field(default_factory=dict)
    properties: tuple[Any, ...] = ()
    application_properties: dict[Any, Any] = field(default_factory=dict)
    body: bytes = b""

    @property
    def message_id(self) -> Any:
        """The message id that the sender set, or None."""
        return self._property(_MESSAGE_ID)

    @property
    def reply_to(self) -> Any:
        """The address to which a request's answer goes, or None."""
        return self._property(_REPLY_TO)

    @property
    def ttl_seconds(self) -> float | None:
        """The time to live that the sender set, in seconds, or None."""
        ttl = self.header[_TTL] if len(self.header) > _TTL else None
        return ttl / 1000 if isinstance(ttl, int) else None

    @property
    def scheduled_for(self) -> float | None:
        """The time at which the sender schedules the message, in seconds since 1970, or None."""
        when = self.annotations.get(SCHEDULED_ENQUEUE_TIME)
        return when / 1000 if isinstance(when, int) else None

    @property
    def value(self) -> Any:
        """The body of a message whose body is one AMQP value, as in requests and tokens; else DecodeError."""
        for section in _sections(self.body):
            if section.descriptor == _VALUE:
                return section.value
        raise DecodeError("the message's body is not an amqp-value")

    def _property(self, position: int) -> Any:
        return self.properties[position] if len(self.properties) > position else None

    def delivered(self, *, delivery_count: int, annotations: dict[Any, Any]) -> Message:
        """Return the message for a receiver, with `delivery_count` in its header and `annotations` added."""
        header = [*self.header, *[None] * 5][:5]
        header[_DELIVERY_COUNT] = UInt(delivery_count)
        return replace(self, header=tuple(header), annotations={**self.annotations, **annotations})

    def with_application_properties(self, added: dict[str, Any]) -> Message:
        """Return the message with the application properties `added` or replaced."""
        return replace(self, application_properties={**self.application_properties, **added})


def encode_message(message: Message) -> bytes:
    """Encode a message, without delivery annotations."""
    parts = []
    if message.header:
        parts.append(_section(_HEADER, list(message.header)))
    if message.annotations:
        parts.append(_section(_ANNOTATIONS, message.annotations))
    if message.properties:
        parts.append(_section(_PROPERTIES, list(message.properties)))
    if message.application_properties:
        parts.append(_section(_APPLICATION_PROPERTIES, message.application_properties))
    return b"".join((*parts, message.body))


def decode_message(data: bytes) -> Message:
    """Decode the message in `data`.

    Raises
    ------
    DecodeError
        The bytes are not a sequence of message sections with valid contents.
    """
    found: dict[int, Any] = {}
    at = 0
    while at < len(data):
        section, end = _decode_section(data, at)
        if section.descriptor in (_DATA, _SEQUENCE, _VALUE, _FOOTER):
            list(_sections(data[at:]))  # decoded only to check that it can be
            break
        found[section.descriptor] = section.value
        at = end
    message = Message(
        header=tuple(_typed(found, _HEADER, list)),
        annotations=_typed(found, _ANNOTATIONS, dict),
        properties=tuple(_typed(found, _PROPERTIES, list)),
        application_properties=_typed(found, _APPLICATION_PROPERTIES, dict),
        body=data[at:],
    )
    if isinstance(message.message_id, list | dict | Described):
        raise DecodeError("the message id is neither a number, a text, binary nor a UUID")
    return message


def decode_batch(data: bytes) -> list[Message]:
    """Decode a transfer with `BATCH_FORMAT`: each data section of the envelope is one message.

    Raises
    ------
    DecodeError
        The envelope or one of the messages is malformed; none of them may then be accepted.
    """
    envelope = decode_message(data)
    return [decode_message(part.value) for part in _sections(envelope.body) if part.descriptor == _DATA]


def response(request: Message, application_properties: dict[str, Any], value: Any) -> bytes:
    """Encode the answer to a management or token request, correlated by the request's message id."""
    properties = [None] * _CORRELATION_ID + [request.message_id]
    return b"".join(
        (
            _section(_PROPERTIES, properties),
            _section(_APPLICATION_PROPERTIES, application_properties),
            _section(_VALUE, value),
        )
    )


def _section(descriptor: int, value: Any) -> bytes:
    return encode(Described(ULong(descriptor), value))


def _sections(data: bytes) -> Iterator[Described]:
    at = 0
    while at < len(data):
        section, at = _decode_section(data, at)
        if section.descriptor == _DATA and not isinstance(section.value, bytes):
            raise DecodeError("a data section does not hold binary")
        yield section


def _decode_section(data: bytes, at: int) -> tuple[Described, int]:
    section, end = decode(data, at)
    if not isinstance(section, Described) or section.descriptor not in range(_HEADER, _FOOTER + 1):
        raise DecodeError(f"no message section begins at byte {at}")
    return section, end


def _typed(found: dict[int, Any], descriptor: int, kind: type[Any]) -> Any:
    value = found.get(descriptor)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise DecodeError(f"message section {descriptor:#x} holds a {type(value).__name__}")
    return value
