import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("300MB", 300_000_000),
        ("300 mb", 300_000_000),
        ("1.5GiB", 1_610_612_736),
        ("2MiB", 2_097_152),
        ("4kB", 4000),
        ("17", 17),
        ("17B", 17),
    ],
)
def test_decimal_and_binary_units_are_told_apart(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "3XB", "0", "0.1B", "3 M B", "1e9", "nan"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(QuadloomError) as caught:
        parse_bytes(text)
    assert repr(text) in caught.value.cause


@given(st.integers(1, 10**15))
def test_a_formatted_size_reads_back_within_its_precision(size_bytes: int) -> None:
    assert parse_bytes(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=0.05)
