"""How much memory ONNX Runtime's arena really takes for a graph: the liveness plan plus its fragmentation.

A model of `BFCArena` (onnxruntime/core/framework/bfc_arena.cc) with the settings of `quadloom_runtime.engines.onnx`: it
extends by what is asked for, takes the smallest free chunk that fits, splits off what is left, joins free neighbours
within a region, and never gives a region back.
"""

from bisect import insort
from dataclasses import dataclass, field

from torch import fx

from quadloom_export.graph import JointGraph
from quadloom_export.liveness import lifetimes

ALIGNMENT_BYTES = 256
LARGEST_UNSPLIT_BYTES = 4096
"""`max_dead_bytes_per_chunk` of the engine."""


@dataclass(eq=False)
class _Chunk:
    region: int
    offset: int
    size: int
    free: bool = False
    before: "_Chunk | None" = None
    after: "_Chunk | None" = None


@dataclass
class Arena:
    """Simulated arena; `total_bytes` is what its regions take together."""

    total_bytes: int = 0
    _regions: int = 0
    _free: list[tuple[int, int, int, int, _Chunk]] = field(default_factory=list)

    def allocate(self, size_bytes: int) -> _Chunk:
        """Take memory for one tensor."""
        size = max(1, -(-size_bytes // ALIGNMENT_BYTES)) * ALIGNMENT_BYTES
        found = next((entry[-1] for entry in self._free if entry[0] >= size), None)
        if found is None:
            found = _Chunk(region=self._regions, offset=0, size=size)
            self._regions += 1
            self.total_bytes += size
            return found
        self._forget(found)
        if found.size >= 2 * size or found.size - size >= LARGEST_UNSPLIT_BYTES:
            rest = _Chunk(found.region, found.offset + size, found.size - size, before=found, after=found.after)
            if found.after is not None:
                found.after.before = rest
            found.after, found.size = rest, size
            self._offer(rest)
        return found

    def release(self, chunk: _Chunk) -> None:
        """Give a tensor's memory back to the arena."""
        for other in (chunk.before, chunk.after):
            if other is None or not other.free:
                continue
            self._forget(other)
            left, right = (other, chunk) if other is chunk.before else (chunk, other)
            left.size += right.size
            left.after = right.after
            if right.after is not None:
                right.after.before = left
            chunk = left
        self._offer(chunk)

    def _offer(self, chunk: _Chunk) -> None:
        chunk.free = True
        insort(self._free, self._entry(chunk), key=lambda entry: entry[:4])

    def _forget(self, chunk: _Chunk) -> None:
        chunk.free = False
        self._free.remove(self._entry(chunk))

    @staticmethod
    def _entry(chunk: _Chunk) -> tuple[int, int, int, int, _Chunk]:
        return (chunk.size, chunk.region, chunk.offset, id(chunk), chunk)


def planned_arena_bytes(joint: JointGraph, *, repeats: int = 3) -> int:
    """Size of the arena after a few training steps: later ones find the regions of earlier ones cut differently."""
    order = lifetimes(joint, in_place=False)
    arena = Arena()
    for _ in range(repeats):
        held: dict[fx.Node, _Chunk] = {}
        for made, dying in order:
            for node, size in made:
                held[node] = arena.allocate(size)
            for node in dying:
                arena.release(held.pop(node))
        for chunk in held.values():
            arena.release(chunk)
    return arena.total_bytes
