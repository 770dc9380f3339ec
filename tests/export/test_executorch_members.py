"""What an ExecuTorch program holds: its arena, its method and the names of its weights."""

from functools import cache
from pathlib import Path

import pytest

from quadloom_export.liveness import plan_memory
from quadloom_export.lowering.executorch import (
    METHOD,
    ExecutorchMember,
    lower_to_executorch,
    save,
    weights_file,
)

pytest.importorskip("executorch")

LAYERS = 3


@cache
def lowered(tiny, depth: int, quantized_layers: int) -> ExecutorchMember:
    return lower_to_executorch(tiny.member(depth, quantized_layers))


@cache
def weights(tiny) -> Path:
    path = tiny.folder / "weights.ptd"
    save(weights_file(tiny.training, tiny.evaluation), path)
    return path


def program_of(member: ExecutorchMember):
    """The schema's own reading of a program."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    return deserialize_pte_binary(member.program).program


def external_names(member: ExecutorchMember) -> set[str]:
    (plan,) = program_of(member).execution_plan
    tensors = [value.val for value in plan.values if hasattr(value.val, "extra_tensor_info")]
    infos = [tensor.extra_tensor_info for tensor in tensors if tensor.extra_tensor_info is not None]
    return {info.fully_qualified_name for info in infos if info.fully_qualified_name}


def names_in_weights_file(path: Path) -> set[str]:
    from executorch.exir._serialize._cord import Cord
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorConfig, FlatTensorSerializer

    return set(FlatTensorSerializer(FlatTensorConfig()).deserialize(Cord(path.read_bytes())).named_data)


@pytest.mark.parametrize("quantized_layers", [0, LAYERS])
def test_the_arena_in_the_file_is_the_plan_and_close_to_what_is_alive_at_once(bert, quantized_layers):
    member = lowered(bert, LAYERS, quantized_layers)
    (method,) = program_of(member).execution_plan
    assert method.non_const_buffer_sizes == [0, member.arena_bytes]
    assert member.arena_lower_bound_bytes <= member.arena_bytes <= 1.01 * member.arena_lower_bound_bytes
    plan = plan_memory(bert.member(LAYERS, quantized_layers))
    # The other plan knows neither ExecuTorch nor what the lowering expands quantization to: zero points as float32,
    # which is a share of a tensor in groups as small as these.
    assert member.arena_bytes == pytest.approx(plan.peak_bytes, rel=0.02)


def test_all_programs_have_one_method_and_take_their_weights_by_canonical_name_from_one_file(bert):
    stored = names_in_weights_file(weights(bert))
    assert stored == set(bert.training.inputs_of("frozen")) | set(bert.evaluation.inputs_of("frozen"))
    for member in (lowered(bert, LAYERS, 0), lowered(bert, LAYERS, LAYERS)):
        (plan,) = program_of(member).execution_plan
        assert plan.name == METHOD
        used = external_names(member)
        assert used <= stored
        assert {"bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight"} <= used
