"""The AMQP 1.0 type system: Python values to bytes and back, without loss.

`encode` writes what `decode` returned as the same AMQP type. Where Python has one type for several AMQP types
(integers, text), the value is an instance of a small subclass below. Plain ``int`` is AMQP's long, plain
``float`` its double, plain ``str`` its string.

The SDKs send neither chars nor decimals, so these are not read. Malformed bytes raise `DecodeError` and
nothing else, in time and memory proportional to their length.

Source: OASIS AMQP 1.0 part 1 (types), §1.2 (encodings) and §1.6 (primitive types).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from uuid import UUID

MAX_DEPTH = 32  # nested lists, maps, arrays and described values
MAX_EMPTY_ELEMENTS = 4096  # elements of an array whose type takes no bytes (null, true, uint0 …)


class DecodeError(ValueError):
    """The bytes are not AMQP 1.0."""


class UByte(int):
    """AMQP ubyte."""


class UShort(int):
    """AMQP ushort."""


class UInt(int):
    """AMQP uint."""


class ULong(int):
    """AMQP ulong."""


class Byte(int):
    """AMQP byte (signed)."""


class Short(int):
    """AMQP short."""


class Int(int):
    """AMQP int (32 bits)."""


class Timestamp(int):
    """AMQP timestamp: milliseconds since 1970, UTC."""


class Float(float):
    """AMQP float (32 bits)."""


class Symbol(str):
    """AMQP symbol: ASCII text from a constrained domain."""


class Array(list[Any]):
    """AMQP array: elements of one type."""


class Described(NamedTuple):
    """AMQP described value."""

    descriptor: Any
    value: Any


_FIXED: dict[int, tuple[struct.Struct, Callable[[Any], Any]]] = {
    0x50: (struct.Struct(">B"), UByte),
    0x60: (struct.Struct(">H"), UShort),
    0x70: (struct.Struct(">I"), UInt),
    0x52: (struct.Struct(">B"), UInt),
    0x80: (struct.Struct(">Q"), ULong),
    0x53: (struct.Struct(">B"), ULong),
    0x51: (struct.Struct(">b"), Byte),
    0x61: (struct.Struct(">h"), Short),
    0x71: (struct.Struct(">i"), Int),
    0x54: (struct.Struct(">b"), Int),
    0x81: (struct.Struct(">q"), int),
    0x55: (struct.Struct(">b"), int),
    0x72: (struct.Struct(">f"), Float),
    0x82: (struct.Struct(">d"), float),
    0x83: (struct.Struct(">q"), Timestamp),
    0x98: (struct.Struct("16s"), lambda raw: UUID(bytes=raw)),
}
_EMPTY: dict[int, Callable[[], Any]] = {
    0x40: lambda: None,
    0x41: lambda: True,
    0x42: lambda: False,
    0x43: lambda: UInt(0),
    0x44: lambda: ULong(0),
    0x45: list,
}
_VARIABLE: dict[int, tuple[int, Callable[[bytes], Any]]] = {
    0xA0: (1, bytes),
    0xB0: (4, bytes),
    0xA1: (1, lambda raw: raw.decode("utf-8")),
    0xB1: (4, lambda raw: raw.decode("utf-8")),
    0xA3: (1, lambda raw: Symbol(raw.decode("ascii"))),
    0xB3: (4, lambda raw: Symbol(raw.decode("ascii"))),
}
_COMPOUND_WIDTH = {0xC0: 1, 0xC1: 1, 0xE0: 1, 0xD0: 4, 0xD1: 4, 0xF0: 4}


def decode(data: bytes, offset: int = 0) -> tuple[Any, int]:
    """Decode the value that begins at `offset`.

    Returns
    -------
    tuple
        The value, and the offset of the first byte after it.

    Raises
    ------
    DecodeError
        The bytes end early, or are not an AMQP value.

    Examples
    --------
    >>> decode(encode({Symbol("operation"): "put-token"}))[0]
    {'operation': 'put-token'}
    """
    try:
        return _decode_value(data, offset, 0)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise DecodeError(f"AMQP value at byte {offset} is cut short or malformed: {error}") from error


def _decode_value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    code = data[at]
    if code == 0x00:
        return _decode_described(data, at + 1, depth + 1)
    return _decode_payload(data, at + 1, code, depth)


def _decode_described(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    _check_depth(depth)
    descriptor, at = _decode_value(data, at, depth)
    value, at = _decode_value(data, at, depth)
    return Described(descriptor, value), at


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise DecodeError(f"AMQP value is nested more than {MAX_DEPTH} deep")


def _decode_payload(data: bytes, at: int, code: int, depth: int) -> tuple[Any, int]:
    if code in _FIXED:
        packing, make = _FIXED[code]
        return make(packing.unpack_from(data, at)[0]), at + packing.size
    if code in _VARIABLE:
        width, convert = _VARIABLE[code]
        size, at = _decode_length(data, at, width)
        end = _end_of(data, at, size)
        return convert(bytes(data[at:end])), end
    if code in _EMPTY:
        return _EMPTY[code](), at
    if code in _COMPOUND_WIDTH:
        return _decode_compound(data, at, code, depth + 1)
    if code == 0x56:
        if data[at] > 1:
            raise DecodeError(f"AMQP boolean byte is {data[at]}, not 0 or 1")
        return data[at] == 1, at + 1
    raise DecodeError(f"{code:#04x} is no AMQP type code")


def _decode_length(data: bytes, at: int, width: int) -> tuple[int, int]:
    if width == 1:
        return data[at], at + 1
    return struct.unpack_from(">I", data, at)[0], at + 4


def _end_of(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise DecodeError(f"AMQP value of {size} bytes at {at} runs past the end ({len(data)})")
    return at + size


def _decode_compound(data: bytes, at: int, code: int, depth: int) -> tuple[Any, int]:
    _check_depth(depth)
    width = _COMPOUND_WIDTH[code]
    size, at = _decode_length(data, at, width)
    end = _end_of(data, at, size)
    count, at = _decode_length(data, at, width)
    value: Any
    if code in (0xE0, 0xF0):
        value, at = _decode_array(data, at, count, end, depth)
    else:
        if count > end - at:
            raise DecodeError(f"AMQP list or map of {count} elements in {end - at} bytes")
        elements = []
        for _ in range(count):
            element, at = _decode_value(data, at, depth)
            elements.append(element)
        value = elements if code in (0xC0, 0xD0) else _pair_up(elements)
    if at != end:
        raise DecodeError(f"AMQP list, map or array ends at byte {at}, its size says {end}")
    return value, end


def _pair_up(elements: list[Any]) -> dict[Any, Any]:
    if len(elements) % 2:
        raise DecodeError("AMQP map with a key but no value")
    try:
        return dict(zip(elements[::2], elements[1::2], strict=True))
    except TypeError as error:
        raise DecodeError("AMQP map with a list, map or array as a key") from error


def _decode_array(data: bytes, at: int, count: int, end: int, depth: int) -> tuple[Array, int]:
    code = data[at]
    at += 1
    descriptor = None
    described = code == 0x00
    if described:
        descriptor, at = _decode_value(data, at, depth)
        code = data[at]
        at += 1
    if code in _EMPTY and count > MAX_EMPTY_ELEMENTS:
        raise DecodeError(f"AMQP array of {count} elements that take no bytes")
    if code not in _EMPTY and count > end - at:
        raise DecodeError(f"AMQP array of {count} elements in {end - at} bytes")
    elements = Array()
    for _ in range(count):
        element, at = _decode_payload(data, at, code, depth)
        elements.append(Described(descriptor, element) if described else element)
    return elements, at


def encode(value: Any) -> bytes:
    """Encode one value as the AMQP type that corresponds to its Python type.

    Raises
    ------
    ValueError
        The number is outside the range of its AMQP type, or an array's elements are of more than one type.
    TypeError
        No AMQP type corresponds to the value's Python type.
    """
    if isinstance(value, Described):
        return b"\x00" + encode(value.descriptor) + encode(value.value)
    code, payload = _encode_payload(value)
    small = _shorten(code, payload)
    return small if small is not None else bytes((code,)) + payload


def _shorten(code: int, payload: bytes) -> bytes | None:
    """Return the compact encoding of a value, if one exists and known peers expect it; else None."""
    if code == 0x80 and payload.startswith(bytes(7)):
        return b"\x53" + payload[7:]
    if code in (0xB0, 0xB1, 0xB3) and len(payload) < 4 + 256:
        return bytes((code - 0x10, len(payload) - 4)) + payload[4:]
    if code == 0xD0 and len(payload) < 8 + 255 and payload[4:7] == bytes(3):
        return bytes((0xC0, len(payload) - 7, payload[7])) + payload[8:]
    return None


_INTEGERS: dict[type, int] = {
    UByte: 0x50,
    UShort: 0x60,
    UInt: 0x70,
    ULong: 0x80,
    Byte: 0x51,
    Short: 0x61,
    Int: 0x71,
    Timestamp: 0x83,
    int: 0x81,
}


def _encode_payload(value: Any) -> tuple[int, bytes]:
    """Return the type code of `value`'s widest encoding, and its bytes in that encoding."""
    if value is None:
        return 0x40, b""
    if isinstance(value, bool):
        return 0x56, b"\x01" if value else b"\x00"
    if isinstance(value, int):
        code = _INTEGERS.get(type(value), 0x81)
        try:
            return code, _FIXED[code][0].pack(value)
        except struct.error as error:
            raise ValueError(f"{value} does not fit AMQP's {type(value).__name__}") from error
    if isinstance(value, float):
        return (
            (0x72, struct.pack(">f", value)) if isinstance(value, Float) else (0x82, struct.pack(">d", value))
        )
    if isinstance(value, Symbol):
        return 0xB3, _sized(value.encode("ascii"))
    if isinstance(value, str):
        return 0xB1, _sized(value.encode("utf-8"))
    if isinstance(value, bytes | bytearray | memoryview):
        return 0xB0, _sized(bytes(value))
    if isinstance(value, UUID):
        return 0x98, value.bytes
    return _encode_compound(value)


def _encode_compound(value: Any) -> tuple[int, bytes]:
    if isinstance(value, Array):
        return 0xF0, _counted(len(value), _encode_array(value))
    if isinstance(value, dict):
        body = b"".join(encode(key) + encode(item) for key, item in value.items())
        return 0xD1, _counted(2 * len(value), body)
    if isinstance(value, list | tuple) and not isinstance(value, Described):
        return 0xD0, _counted(len(value), b"".join(map(encode, value)))
    raise TypeError(f"no AMQP type stands for {type(value).__name__}")


def _encode_array(elements: Iterable[Any]) -> bytes:
    constructor: bytes | None = None
    payloads = []
    for element in elements:
        prefix = b""
        if isinstance(element, Described):
            prefix = b"\x00" + encode(element.descriptor)
            element = element.value
        code, payload = _encode_payload(element)
        if constructor not in (None, prefix + bytes((code,))):
            raise ValueError("the elements of an AMQP array must be of one type")
        constructor = prefix + bytes((code,))
        payloads.append(payload)
    return (constructor or b"\x40") + b"".join(payloads)


def _sized(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


def _counted(count: int, body: bytes) -> bytes:
    return struct.pack(">II", len(body) + 4, count) + body
