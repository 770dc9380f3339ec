"""Reads untrusted FlatBuffers: every place is checked before it is read, and the work is bounded.

A buffer may name the same table a million times, so bounded places are not enough: the number of tables that are handed
out is limited by the size of the buffer.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

OFFSET: Final = "<I"
SHORT: Final = "<H"
WORK_PER_BYTE = 4


@dataclass
class _Work:
    """How many tables and elements may still be read."""

    left: int


@dataclass(frozen=True)
class Table:
    """One table; fields are numbered as in the schema, a union counting twice (its type, then its value).

    Every method raises ValueError where the buffer is not well-formed.
    """

    data: memoryview
    place: int
    work: _Work = field(repr=False)

    def number(self, index: int, form: str, default: int = 0) -> int:
        """A scalar field; `form` is a format of `struct`."""
        place = self._field(index)
        return default if place is None else _read(self.data, place, form)

    def table(self, index: int) -> "Table | None":
        """A table within."""
        place = self._field(index)
        return None if place is None else self._at(place)

    def tables(self, index: int) -> Iterator["Table"]:
        """A vector of tables."""
        start, count = self._vector(index, 4)
        return (self._at(start + 4 * each) for each in range(count))

    def numbers(self, index: int, form: str) -> list[int]:
        """A vector of scalars."""
        size = struct.calcsize(form)
        start, count = self._vector(index, size)
        self._spend(count)
        return [_read(self.data, start + size * each, form) for each in range(count)]

    def text(self, index: int) -> str:
        """A string, empty where there is none."""
        start, count = self._vector(index, 1)
        self._spend(count)
        return bytes(self.data[start : start + count]).decode("utf-8")

    def _field(self, index: int) -> int | None:
        table = self.place - _read(self.data, self.place, "<i")
        if 4 + 2 * index >= _read(self.data, table, SHORT):
            return None
        offset = _read(self.data, table + 4 + 2 * index, SHORT)
        return self.place + offset if offset else None

    def _vector(self, index: int, element_bytes: int) -> tuple[int, int]:
        place = self._field(index)
        if place is None:
            return 0, 0
        start = place + _read(self.data, place, OFFSET)
        count = _read(self.data, start, OFFSET)
        if start + 4 + count * element_bytes > len(self.data):
            raise ValueError(f"a vector of {count} elements ends behind the buffer")
        return start + 4, count

    def _at(self, place: int) -> "Table":
        self._spend(1)
        return Table(self.data, place + _read(self.data, place, OFFSET), self.work)

    def _spend(self, amount: int) -> None:
        self.work.left -= amount
        if self.work.left < 0:
            raise ValueError("it names the same parts over and over")


def root(data: memoryview) -> Table:
    """The root table of a buffer.

    Raises:
        ValueError: there is none.
    """
    return Table(data, _read(data, 0, OFFSET), _Work(WORK_PER_BYTE * len(data)))


def _read(data: memoryview, place: int, form: str) -> int:
    if not 0 <= place <= len(data) - struct.calcsize(form):
        raise ValueError(f"it points to byte {place}, outside its {len(data)} bytes")
    return int(struct.unpack_from(form, data, place)[0])
