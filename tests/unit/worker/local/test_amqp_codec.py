"""AMQP values survive the codec, and malformed bytes are refused with a proper error."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.local.amqp.frames import Flow, Open, Transfer, decode_body, encode_frame
from worker.local.amqp.message import Message, decode_batch, decode_message, encode_message
from worker.local.amqp.types import (
    Array,
    Byte,
    DecodeError,
    Described,
    Float,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
    decode,
    encode,
)

FRAME_HEADER_BYTES = 8
BITS = {UByte: 8, UShort: 16, UInt: 32, ULong: 64}
SIGNED_BITS = {Byte: 8, Short: 16, Int: 32, int: 64, Timestamp: 64}
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SYMBOLS = st.text(st.characters(max_codepoint=127)).map(Symbol)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    *(st.integers(0, 2**bits - 1).map(kind) for kind, bits in BITS.items()),
    *(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(kind) for kind, bits in SIGNED_BITS.items()),
    st.floats(allow_nan=False),
    st.floats(allow_nan=False, width=32).map(Float),
    TEXT,
    SYMBOLS,
    st.binary(),
    st.uuids(),
)
ARRAYS = st.one_of(
    st.lists(kind).map(Array)
    for kind in (
        *(st.none(), st.booleans(), TEXT, SYMBOLS, st.binary(), st.uuids(), st.integers(0, 9).map(ULong)),
        *(st.lists(st.integers(0, 9)), st.dictionaries(TEXT, st.integers(0, 9))),
        st.lists(TEXT).map(lambda fields: Described(ULong(0x24), fields)),
    )
)
VALUES = st.recursive(
    SCALARS | ARRAYS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(TEXT | SYMBOLS, inner),
        st.builds(Described, st.integers(0, 2**64 - 1).map(ULong) | SYMBOLS, inner),
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """Return the value with the type of every part written out: for Python a Symbol equals a str."""
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    return type(value), value


@given(VALUES)
def test_every_value_survives_with_its_types(value: Any) -> None:
    encoded = encode(value)
    assert typed(decode(encoded)) == typed((value, len(encoded)))


@given(VALUES, st.data())
def test_a_value_cut_short_is_refused(value: Any, data: st.DataObject) -> None:
    encoded = encode(value)
    length = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DecodeError):
        decode(encoded[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_a_message_a_frame_or_refused(data: bytes) -> None:
    for read in (decode, decode_message, decode_batch, decode_body):
        with suppress(DecodeError):
            read(data)


@given(VALUES, st.data())
def test_a_value_with_one_byte_changed_is_read_or_refused(value: Any, data: st.DataObject) -> None:
    changed = bytearray(encode(value))
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DecodeError):
        decode(bytes(changed))


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40", id="an array of four billion nulls"),
        pytest.param(
            b"\xd0\x00\x00\x00\x04\xff\xff\xff\xff", id="a list of four billion elements in no bytes"
        ),
        pytest.param(b"\xc0\xff" * 200, id="lists in lists without an end"),
        pytest.param(b"\x00" * 5000, id="descriptors of descriptors without an end"),
        pytest.param(b"\xc1\x04\x02\x45\x40\x40", id="a map with a list as a key"),
        pytest.param(b"\xc1\x02\x01\x40", id="a map with a key but no value"),
        pytest.param(b"\xa1\x02\xff\xff", id="a string that is not UTF-8"),
        pytest.param(b"\x56\x02", id="a boolean that is neither"),
        pytest.param(b"\xc0\x05\x01\x40\x40\x40\x40", id="a list longer than its elements"),
        pytest.param(b"\x01", id="an unknown type"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_malformed_values_are_refused(encoded: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(encoded)


@pytest.mark.parametrize("value", [UByte(256), Int(2**31), 2**63, ULong(-1), Array([1, "a"])])
def test_values_that_no_amqp_type_holds_are_not_encoded(value: Any) -> None:
    with pytest.raises(ValueError):
        encode(value)


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"\x43", UInt(0)),
        (b"\x44", ULong(0)),
        (b"\x52\x07", UInt(7)),
        (b"\x53\x10", ULong(16)),
        (b"\x54\xff", Int(-1)),
        (b"\x55\xff", -1),
        (b"\x45", []),
        (b"\xe0\x04\x02\xa3\x00\x00", Array([Symbol(""), Symbol("")])),
    ],
)
def test_compact_encodings_are_read(encoded: bytes, value: Any) -> None:
    assert typed(decode(encoded)) == typed((value, len(encoded)))


def test_a_frame_survives_with_the_bytes_behind_it() -> None:
    transfer = Transfer(handle=3, delivery_id=7, delivery_tag=b"tag", message_format=0, more=True)
    frame = encode_frame(transfer, b"payload", channel=5)
    assert int.from_bytes(frame[:4], "big") == len(frame)
    assert decode_body(frame[FRAME_HEADER_BYTES:]) == (transfer, b"payload")


def test_omitted_fields_of_a_frame_have_their_defaults() -> None:
    body, _ = decode_body(encode(Described(ULong(0x10), ["container", None, None])))
    assert body == Open("container", max_frame_size=0xFFFFFFFF)


@pytest.mark.parametrize("credit", ["ten", -1, 2**32, True])
def test_a_frame_with_a_field_of_another_type_is_refused(credit: Any) -> None:
    flow = encode(Described(ULong(Flow.code), [None, UInt(0), UInt(0), UInt(0), UInt(0), UInt(0), credit]))
    with pytest.raises(DecodeError, match="link_credit"):
        decode_body(flow)


def test_a_message_keeps_its_body_byte_for_byte() -> None:
    body = encode(Described(ULong(0x75), b"one")) + encode(Described(ULong(0x75), b"two"))
    message = Message(properties=("id",), application_properties={"a": UInt(1)}, body=body)
    again = decode_message(encode_message(message))
    assert again == message
    assert typed(again.application_properties) == typed({"a": UInt(1)})
    assert again.message_id == "id"


def test_a_delivered_message_counts_in_its_header_and_keeps_the_rest() -> None:
    message = Message(header=(True, None, UInt(1500)), body=encode(Described(ULong(0x77), None)))
    delivered = message.delivered(delivery_count=2, annotations={Symbol("x"): 1})
    assert delivered.header == (True, None, 1500, None, 2)
    assert delivered.ttl_seconds == 1.5
    assert delivered.annotations == {"x": 1}
