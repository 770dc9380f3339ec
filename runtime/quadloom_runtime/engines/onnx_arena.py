"""Run an ONNX graph in one buffer that the exporter laid out, instead of in ONNX Runtime's allocator.

Every large tensor of the graph is also an output of it, and each output is bound to its place in the buffer; tensors
that are never alive at once share places. So a step takes the memory that was planned for it, on every platform that
can bind outputs. That is sound only in the planned order of execution: a first run, of a batch of one, is profiled, and
a graph that runs in another order is refused.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from quadloom_runtime.contract.manifest import Count, Sha256, Text, Value
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.strict_json import parse_strict_json

METADATA_KEY: Final = "quadloom.arena"
ALIGNMENT_BYTES: Final = 64
LARGEST_TABLE_BYTES: Final = 16 << 20
DEEPEST_TABLE: Final = 4
"""The table, its list of tensors, a tensor, its shape."""
ORDER_ONLY_SUFFIX: Final = "/order"
"""Ends the names of nodes that are there for the order of the others; when they run themselves makes no difference."""
FETCH_AGAIN: Final = "check the family with `quadloom inspect DIR --verify`, and fetch it again"
NODE_TYPES: Final[Mapping[str, Any]] = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
Dtype = Literal["float32", "int64", "int32", "int8", "uint8", "bool"]
Dimension = Annotated[int, Field(ge=-(2**31), le=2**31)]


class PlacedTensor(Value):
    """One tensor in the arena.

    Attributes:
        shape: sizes; a negative one is per example of the batch.
        offset: its first byte for a batch of the size that the arena is planned for.
    """

    name: Text
    dtype: Dtype
    shape: tuple[Dimension, ...] = Field(max_length=8)
    offset: Count

    @model_validator(mode="after")
    def _grows_as_the_batch_does(self) -> "PlacedTensor":
        if sum(size < 0 for size in self.shape) > 1:
            raise ValueError(f"the tensor {self.name!r} grows faster than the batch")
        return self

    def shape_at(self, batch_size: int) -> tuple[int, ...]:
        """Its shape in a batch of so many examples."""
        return tuple(-size * batch_size if size < 0 else size for size in self.shape)

    def size_bytes(self, batch_size: int) -> int:
        """Its bytes in a batch of so many examples."""
        elements = 1
        for size in self.shape_at(batch_size):
            elements *= size
        return elements * np.dtype(self.dtype).itemsize


class ArenaTable(Value):
    """Where the tensors of one graph lie.

    Attributes:
        batch_size: examples that the offsets are for.
        size_bytes: size of the arena for such a batch.
        order_sha256: digest of the planned order of execution, see `order_digest`.
    """

    batch_size: int = Field(ge=1, le=65_536)
    size_bytes: Count
    order_sha256: Sha256
    tensors: tuple[PlacedTensor, ...]

    @model_validator(mode="after")
    def _inside(self) -> "ArenaTable":
        for each in self.tensors:
            if each.offset % ALIGNMENT_BYTES or each.offset + each.size_bytes(self.batch_size) > self.size_bytes:
                raise ValueError(f"the tensor {each.name!r} does not lie in the arena of {self.size_bytes} bytes")
        return self

    def to_json(self) -> str:
        """Compact text, a list per tensor: it travels with every graph."""
        rows = [[each.name, each.dtype, list(each.shape), each.offset] for each in self.tensors]
        fields = self.model_dump(mode="json") | {"tensors": rows}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "ArenaTable":
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else, or a tensor lies outside of the arena.
        """
        fields = parse_strict_json(text.encode(), largest_bytes=LARGEST_TABLE_BYTES, deepest=DEEPEST_TABLE)
        names = tuple(PlacedTensor.model_fields)
        try:
            rows = [dict(zip(names, row, strict=True)) for row in fields["tensors"]]
            return cls.model_validate(fields | {"tensors": rows})
        except (KeyError, TypeError) as error:
            raise ValueError(f"no table of an arena: {error}") from None


def order_digest(names: Iterable[str]) -> str:
    """Digest of an order of execution, given the names of the nodes; those that only serve the order do not count."""
    counted = "\n".join(name for name in names if not name.endswith(ORDER_ONLY_SUFFIX))
    return hashlib.sha256(counted.encode()).hexdigest()


class BoundGraph:
    """A graph in its arena. The arena is allocated by the first run and stays until the object goes.

    Args:
        session: of ONNX Runtime, created with its profiler running (see `profiling`).
        results: outputs that a caller wants.

    Raises:
        QuadloomError: a result has no place, or the graph does not run in the order that it was planned for.
        MemoryError: the arena cannot be allocated.
        Exception: ONNX Runtime's own, where it cannot run the graph.
    """

    def __init__(self, session: Any, table: ArenaTable, results: list[str], *, graph: Path) -> None:
        self._session, self._table, self._results = session, table, set(results)
        self._arena: NDArray[np.uint8] | None = None
        self._binding: Any = None
        self._places: dict[str, NDArray[Any]] = {}
        self._batch_size = 0
        without = sorted(self._results - {each.name for each in table.tensors})
        if without:
            raise QuadloomError(f"the graph {graph} has no places for its results {without!r:.200}", remedy=FETCH_AGAIN)
        self._check_order(graph)

    def run(self, feeds: Mapping[str, NDArray[Any]], *, batch_size: int) -> dict[str, NDArray[Any]]:
        """Run the graph; the results are copies.

        Raises:
            MemoryError: the arena cannot be allocated.
            Exception: ONNX Runtime's own, which have no base of their own.
        """
        if batch_size != self._batch_size:
            self._bind_outputs(batch_size)
        self._binding.clear_binding_inputs()
        for name, value in feeds.items():
            _bind_input(self._binding, name, value)
        self._session.run_with_iobinding(self._binding)
        return {name: place.copy() for name, place in self._places.items() if name in self._results}

    def _bind_outputs(self, batch_size: int) -> None:
        # Every tensor grows at most as the batch does, so offsets that many times as large keep them apart.
        factor = -(-batch_size // self._table.batch_size)
        wanted = factor * self._table.size_bytes + ALIGNMENT_BYTES
        self._batch_size = 0  # until every output is bound
        if self._arena is None or self._arena.nbytes < wanted:
            self._binding, self._places, self._arena = None, {}, None
            self._arena = np.empty(wanted, dtype=np.uint8)
        start = -self._arena.ctypes.data % ALIGNMENT_BYTES
        self._binding = self._session.io_binding()
        for each in self._table.tensors:
            offset = start + factor * each.offset
            place = self._arena[offset : offset + each.size_bytes(batch_size)]
            self._places[each.name] = place.view(each.dtype).reshape(each.shape_at(batch_size))
            self._binding.bind_output(
                each.name, "cpu", 0, np.dtype(each.dtype).type, each.shape_at(batch_size), place.ctypes.data
            )
        self._batch_size = batch_size

    def _check_order(self, graph: Path) -> None:
        feeds = {each.name: _zeros(each) for each in self._session.get_inputs()}
        self.run(feeds, batch_size=1)
        self._batch_size, self._binding, self._places, self._arena = 0, None, {}, None
        if order_digest(_profiled_nodes(self._session)) != self._table.order_sha256:
            import onnxruntime

            raise QuadloomError(
                f"onnxruntime {onnxruntime.__version__} does not run {graph} in the order that it was planned for",
                remedy="install a version of onnxruntime from 1.19 to 1.31, and report this one",
            )


def profiling(options: Any) -> tempfile.TemporaryDirectory[str]:
    """Let sessions of these options record what they run, in the folder that is returned."""
    folder = tempfile.TemporaryDirectory(prefix="quadloom-profile-")
    options.enable_profiling = True
    options.profile_file_prefix = f"{folder.name}/run"
    return folder


def _profiled_nodes(session: Any) -> Iterator[str]:
    """Names of the nodes that have run since the session was created, in order; ends its profile."""
    # Line by line: the whole profile as Python objects would take more memory than the run.
    with Path(session.end_profiling()).open(encoding="utf-8") as profile:
        for line in profile:
            found = re.search(r'"name" ?: ?"([^"]+)_kernel_time"', line)
            if found:
                yield found[1]


def _zeros(value: Any) -> NDArray[Any]:
    shape = [size if isinstance(size, int) else 1 for size in value.shape]
    return np.zeros(shape, dtype=NODE_TYPES[value.type])


def _bind_input(binding: Any, name: str, value: NDArray[Any]) -> None:
    binding.bind_input(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)


def arena_table(session: Any, graph: Path) -> ArenaTable:
    """The table that a graph carries.

    Raises:
        QuadloomError: it carries none, or what it carries is no table.
    """
    try:
        return ArenaTable.from_json(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "null"))
    except ValueError as error:
        raise QuadloomError(
            f"the graph {graph} carries no sound table of its memory: {error!s:.500}",
            remedy=FETCH_AGAIN,
        ) from None
