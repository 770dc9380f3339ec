"""Untrusted JSON is read as every reader would, or not at all."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.strict_json import parse_strict_json

VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=5)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=10,
)


def parse(content: bytes, *, largest_bytes: int = 10_000, deepest: int = 20) -> Any:
    return parse_strict_json(content, largest_bytes=largest_bytes, deepest=deepest)


@given(VALUES)
def test_ordinary_json_is_read_as_it_was_written(value: Any) -> None:
    assert parse(json.dumps(value).encode(), deepest=100) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode(), deepest=100) == value


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": 1, "a": 2}', "it names 'a' twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "it names 'b' twice"),
        (b"NaN", "holds NaN"),
        (b'{"a": [-Infinity]}', "holds -Infinity"),
        (b"1e999", "holds 1e999"),
        (b"1" * 5000, "integer string conversion"),
        (b'"\\ud800"', "surrogates not allowed"),
        (b'"\xff"', "invalid start byte"),
        ("\ufeff{}".encode(), "BOM"),
        (json.dumps("x" * 10_000).encode(), "more than 10000 bytes"),
        (b"[" * 21 + b"]" * 21, "deeper than 20 levels"),
        (b"[" * 9000, "deeper than 20 levels"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
        (b"'a'", "Expecting value"),
    ],
)
def test_what_two_readers_might_read_differently_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(content)


@given(st.binary(max_size=100) | st.text(alphabet='{}[]",:0123456789eE+-.\\ntrufals', max_size=60).map(str.encode))
def test_any_bytes_give_a_value_or_a_clear_refusal(content: bytes) -> None:
    try:
        value = parse(content)
    except ValueError:
        return
    assert value == json.loads(content)
    assert not isinstance(value, float) or math.isfinite(value)
