"""The reader of untrusted FlatBuffers, against buffers that the flatbuffers package writes."""

import flatbuffers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadloom_runtime.engines.flatbuffer import Table, root


def table_of(builder: flatbuffers.Builder, fields: dict[int, int], *, count: int = 4) -> int:
    """A table whose fields are offsets."""
    builder.StartObject(count)
    for index, offset in fields.items():
        builder.PrependUOffsetTRelativeSlot(index, offset, 0)
    return int(builder.EndObject())


def vector_of(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def finished(builder: flatbuffers.Builder, place: int) -> memoryview:
    builder.Finish(place)
    return memoryview(bytes(builder.Output()))


@given(st.text(max_size=20), st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20), st.integers(0, 2**64 - 1))
def test_what_was_written_is_read(text: str, numbers: list[int], number: int) -> None:
    builder = flatbuffers.Builder()
    string = builder.CreateString(text)
    builder.StartVector(4, len(numbers), 4)
    for each in reversed(numbers):
        builder.PrependInt32(each)
    vector = builder.EndVector()
    inner = table_of(builder, {0: string})
    inners = vector_of(builder, [inner, inner])
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(0, string, 0)
    builder.PrependUOffsetTRelativeSlot(1, vector, 0)
    builder.PrependUOffsetTRelativeSlot(2, inners, 0)
    builder.PrependUint64Slot(3, number, 0)
    found = root(finished(builder, builder.EndObject()))
    assert (found.text(0), found.numbers(1, "<i"), found.number(3, "<Q")) == (text, numbers, number)
    assert [each.text(0) for each in found.tables(2)] == [text, text]
    assert (found.table(4), found.number(4, "<Q", 7), found.text(4), list(found.tables(4))) == (None, 7, "", [])


def test_a_buffer_that_names_the_same_table_over_and_over_is_given_up_soon() -> None:
    """Four vectors in each other, of a thousand offsets to the same table: a trillion tables in 16 kB."""
    builder = flatbuffers.Builder()
    place = table_of(builder, {})
    for _ in range(4):
        place = table_of(builder, {0: vector_of(builder, [place] * 1000)})

    def walk(table: Table) -> None:
        for each in table.tables(0):
            walk(each)

    with pytest.raises(ValueError, match="over and over"):
        walk(root(finished(builder, place)))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        table = root(memoryview(content))
        for index in range(4):
            table.number(index, "<Q")
            table.text(index)
            table.numbers(index, "<q")
            for each in table.tables(index):
                each.text(0)
    except ValueError:
        return
