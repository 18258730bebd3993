import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.protocol.json_text import clean_text, dumps

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=())), inner),
    max_leaves=20,
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@given(anything)
def test_what_is_written_is_json_for_everybody(value):
    text = dumps(value)
    json.loads(text, parse_constant=refuse)
    assert "\\u0000" not in text.replace("\\\\", "")
    json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
def test_ordinary_text_stays_as_it_is(text):
    assert clean_text(text) == text
    assert json.loads(dumps(text)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1: (1, 2)}, '{"1": [1, 2]}'),
        ({"size": 2**70, "ok": True}, '{"size": 1180591620717411303424, "ok": true}'),
        (b"x", "\"b'x'\""),
    ],
)
def test_what_json_has_no_form_for_gets_one(value, text):
    assert dumps(value) == text
