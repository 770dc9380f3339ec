"""The model of ONNX Runtime's arena."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from quadloom_export.lowering.ort_allocator import ALIGNMENT_BYTES, Arena

MB = 1 << 20


def test_a_freed_chunk_serves_a_smaller_tensor_and_its_rest_the_next() -> None:
    arena = Arena()
    first = arena.allocate(4 * MB)
    arena.release(first)
    held = [arena.allocate(MB), arena.allocate(3 * MB)]
    assert arena.total_bytes == 4 * MB
    for chunk in held:
        arena.release(chunk)
    arena.allocate(4 * MB)  # the two parts have joined again
    assert arena.total_bytes == 4 * MB


def test_neighbouring_regions_do_not_join() -> None:
    arena = Arena()
    chunks = [arena.allocate(2 * MB), arena.allocate(2 * MB)]
    for chunk in chunks:
        arena.release(chunk)
    arena.allocate(4 * MB)
    assert arena.total_bytes == 8 * MB


def test_the_smallest_chunk_that_fits_is_taken() -> None:
    arena = Arena()
    large, small = arena.allocate(8 * MB), arena.allocate(2 * MB)
    arena.release(large)
    arena.release(small)
    arena.allocate(2 * MB)
    arena.allocate(8 * MB)  # the large chunk was left whole
    assert arena.total_bytes == 10 * MB


@given(st.lists(st.tuples(st.integers(1, 50_000), st.booleans()), max_size=60))
def test_live_tensors_never_overlap_and_fit_the_arena(operations: list[tuple[int, bool]]) -> None:
    arena = Arena()
    live = []
    for size, release_oldest in operations:
        if release_oldest and live:
            arena.release(live.pop(0))
        live.append(arena.allocate(size))
        assert live[-1].size >= size
        assert live[-1].size % ALIGNMENT_BYTES == 0
        ranges = sorted((chunk.region, chunk.offset, chunk.offset + chunk.size) for chunk in live)
        for (region, _, end), (next_region, start, _) in pairwise(ranges):
            assert region != next_region or end <= start
        assert sum(chunk.size for chunk in live) <= arena.total_bytes
