"""The shared weights file: every tensor reads back, equal contents lie once."""

import itertools
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quadloom_export.lowering.weights import PAGE_BYTES, lay_out_weights, write_weights

arrays = hnp.arrays(
    st.sampled_from([np.float32, np.int64, np.bool_]), hnp.array_shapes(max_dims=2, max_side=60), fill=st.nothing()
)
tensor_sets = st.lists(hnp.arrays(np.int64, st.integers(1, 1500), elements=st.integers(0, 1)), min_size=1, max_size=8)


@given(tensor_sets)
def test_places_are_page_aligned_disjoint_and_shared_by_equal_contents(tensors):
    named = {f"t{index}": tensor for index, tensor in enumerate([*tensors, tensors[0].copy()])}
    entries, size_bytes = lay_out_weights(named)
    places = sorted({(entry.offset, entry.size_bytes) for entry in entries.values()})
    assert all(offset % PAGE_BYTES == 0 for offset, _ in places)
    assert all(a + length <= b for (a, length), (b, _) in itertools.pairwise(places))
    assert size_bytes == places[-1][0] + places[-1][1]
    for first in named:
        for second in named:
            equal = named[first].tobytes() == named[second].tobytes()
            assert (entries[first] == entries[second]) == equal


@given(st.lists(arrays, min_size=1, max_size=5))
def test_every_tensor_reads_back_from_the_file(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("weights") / "weights.bin"
    named = {f"t{index}": tensor for index, tensor in enumerate(tensors)}
    entries = write_weights(path, named)
    content = path.read_bytes()
    for name, tensor in named.items():
        stored = content[entries[name].offset : entries[name].offset + entries[name].size_bytes]
        np.testing.assert_array_equal(np.frombuffer(stored, tensor.dtype).reshape(tensor.shape), tensor)
    assert [each.name for each in Path(path.parent).iterdir()] == ["weights.bin"], "no partial file stays behind"


def test_a_transposed_tensor_is_written_in_its_own_order(tmp_path):
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3).T
    entry = write_weights(tmp_path / "weights.bin", {"t": tensor})["t"]
    content = (tmp_path / "weights.bin").read_bytes()[entry.offset :]
    np.testing.assert_array_equal(np.frombuffer(content, np.float32).reshape(3, 2), tensor)
