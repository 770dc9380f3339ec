"""The depth of JSON without parsing it, against the depth of what was written."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.json_depth import is_deeper_than

VALUES = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(alphabet='"\\[]{}a')),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(alphabet='"\\[]'), inner, max_size=3)),
)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


@given(VALUES, st.integers(0, 8))
def test_the_depth_of_valid_json_is_found(value: Any, bound: int) -> None:
    assert is_deeper_than(json.dumps(value).encode(), bound) == (depth(value) > bound)


@given(st.binary(max_size=200))
def test_what_the_parser_would_nest_deeper_is_never_let_through(content: bytes) -> None:
    try:
        value = json.loads(content)
    except ValueError:
        return
    assert is_deeper_than(content, depth(value) - 1) or depth(value) == 0


@pytest.mark.parametrize("content", [b'"' * 200_000, b'\\"' * 200_000, b'"\\' * 200_000, b'["' + b"\\" * 400_001])
def test_strings_that_never_end_are_scanned_once(content: bytes) -> None:
    assert not is_deeper_than(content, 1)  # a scan that starts again at every quote would take minutes


def test_a_hundred_thousand_brackets_are_too_deep() -> None:
    assert is_deeper_than(b"[" * 100_000, 16)
