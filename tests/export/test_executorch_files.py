"""A program does nothing but compute on its family's weights; ExecuTorch's own reader says what a program holds."""

import math
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quadloom_export.lowering.executorch import WEIGHTS_NAME, lower_to_executorch, save, weights_file
from quadloom_export.lowering.executorch_adamw import lower_adamw
from quadloom_export.lowering.executorch_single import single_file
from quadloom_runtime.engines.executorch_files import OPERATOR_NAMESPACES, UnsafeProgramError, check_program_files
from quadloom_runtime.errors import QuadloomError

pytest.importorskip("executorch")

Check = Callable[..., None]
LAYERS = 3


@cache
def good(bert: Any) -> tuple[bytes, bytes]:
    """A program and its weights."""
    graph = bert.member(LAYERS, LAYERS)
    return lower_to_executorch(graph).program, weights_file(graph)


@pytest.fixture
def check(bert, tmp_path: Path) -> Check:
    """``check(program, weights)``; what is not given is as it was exported."""
    program, weights = tmp_path / "train.pte", tmp_path / WEIGHTS_NAME

    def check(content: bytes | None = None, data: bytes | None = None) -> None:
        program.write_bytes(good(bert)[0] if content is None else content)
        weights.write_bytes(good(bert)[1] if data is None else data)
        check_program_files(program, weights)

    return check


def read(content: bytes) -> Any:
    from executorch.exir._serialize._program import deserialize_pte_binary

    return deserialize_pte_binary(content).program


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    """The program after `change`, written by ExecuTorch itself."""
    from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary

    file = deserialize_pte_binary(content)
    change(file.program.execution_plan[0])
    return bytes(serialize_pte_binary(file))


def tensors(plan: Any) -> list[Any]:
    return [value.val for value in plan.values if hasattr(value.val, "allocation_info")]


def external(plan: Any) -> Any:
    """The first tensor that lies in the weights file."""
    return next(
        each for each in tensors(plan) if each.extra_tensor_info and each.extra_tensor_info.fully_qualified_name
    )


def planned(plan: Any) -> Any:
    """The first tensor that lies in the arena."""
    return next(each for each in tensors(plan) if each.allocation_info is not None)


def in_program(plan: Any) -> Any:
    """The first constant that lies in the program."""
    return next(each for each in tensors(plan) if each.data_buffer_idx > 0)


def test_every_program_that_is_exported_passes(tiny, tmp_path) -> None:
    weights = tmp_path / WEIGHTS_NAME
    save(weights_file(tiny.training, tiny.evaluation), weights)
    save(lower_to_executorch(tiny.member(1, 1)).program, tmp_path / "train.pte")
    check_program_files(tmp_path / "train.pte", weights)


def test_programs_without_a_data_file_pass(bert, tmp_path) -> None:
    save(lower_adamw(100), tmp_path / "adamw.pte")
    save(single_file({"train": bert.member(1, 1)}), tmp_path / "single.pte")
    check_program_files(tmp_path / "adamw.pte", None)
    check_program_files(tmp_path / "single.pte", None)


def test_a_program_that_is_written_again_passes(bert, check: Check) -> None:
    check(changed(good(bert)[0], lambda _plan: None))


def _rename_operator(plan: Any) -> None:
    plan.operators[0].name = "custom::read_file"


def _hide_operator(plan: Any) -> None:
    plan.operators[-1].name = "atena::add"


def _add_backend(plan: Any) -> None:
    from executorch.exir.schema import BackendDelegate, BackendDelegateDataReference, DataLocation

    reference = BackendDelegateDataReference(location=DataLocation.INLINE, index=0)
    plan.delegates.append(BackendDelegate(id="QnnBackend", processed=reference, compile_specs=[]))


def _loop_forever(plan: Any) -> None:
    from executorch.exir.schema import Instruction, JumpFalseCall

    plan.chains[0].instructions.append(Instruction(JumpFalseCall(cond_value_index=0, destination_instruction=0)))


def _ask_for_another_tensor(plan: Any) -> None:
    external(plan).extra_tensor_info.fully_qualified_name = "somebody.elses.weight"


def _ask_for_more(plan: Any) -> None:
    external(plan).sizes[0] += 1


def _leave_the_arena(plan: Any) -> None:
    planned(plan).allocation_info.memory_offset_low = plan.non_const_buffer_sizes[1]


def _leave_the_arena_far(plan: Any) -> None:
    planned(plan).allocation_info.memory_offset_high = 1


def _take_another_arena(plan: Any) -> None:
    planned(plan).allocation_info.memory_id = 7


def _shrink_the_arena(plan: Any) -> None:
    plan.non_const_buffer_sizes[1] = 64


def _negative_shape(plan: Any) -> None:
    planned(plan).sizes[0] = -1


def _huge_shape(plan: Any) -> None:
    planned(plan).sizes[:] = [2**31 - 1] * len(planned(plan).sizes)


CHANGES = {
    _rename_operator: r"calls the operator 'custom::read_file'",
    _hide_operator: r"calls the operator 'atena::add'",
    _add_backend: r"hands work to the backend 'QnnBackend'",
    _loop_forever: r"an instruction is of the kind 4",
    _ask_for_another_tensor: r"bytes of 'somebody\.elses\.weight'; the weights hold None",
    _ask_for_more: r"it wants \d+ bytes of .*; the weights hold \d+",
    _leave_the_arena: r"lies outside the arenas",
    _leave_the_arena_far: r"lies outside the arenas",
    _take_another_arena: r"lies outside the arenas",
    _shrink_the_arena: r"lies outside the arenas",
    _negative_shape: r"the shape \[-1",
    _huge_shape: r"lies outside the arenas",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_a_program_that_asks_for_more_is_refused(bert, check: Check, change: Callable[[Any], None]) -> None:
    with pytest.raises(UnsafeProgramError, match=CHANGES[change]):
        check(changed(good(bert)[0], change))


def test_a_constant_behind_the_end_of_the_program_is_refused(bert, tmp_path) -> None:
    content = single_file({"train": bert.member(1, 0)})

    def grow(plan: Any) -> None:
        in_program(plan).sizes[0] = 10**6

    def number(plan: Any) -> None:
        in_program(plan).data_buffer_idx = 10**6

    from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary

    for change in (grow, number):
        file = deserialize_pte_binary(content)
        change(next(plan for plan in file.program.execution_plan if plan.name == "train"))
        path = tmp_path / f"{change.__name__}.pte"
        path.write_bytes(bytes(serialize_pte_binary(file)))
        with pytest.raises(UnsafeProgramError, match=r"a constant of \d+ bytes lies outside"):
            check_program_files(path, None)


@pytest.mark.parametrize("kind", ["program", "weights"])
@pytest.mark.parametrize("kept", [0, 7, 63, 64, 1000, -64])
def test_a_file_that_is_cut_is_refused_by_name(bert, check: Check, kind: str, kept: int) -> None:
    cut = good(bert)[kind == "weights"][:kept]
    with pytest.raises(UnsafeProgramError, match=r"train\.pte" if kind == "program" else r"weights\.ptd"):
        check(cut) if kind == "program" else check(None, cut)


@pytest.mark.parametrize("content", [b"<html>" * 100, b"\x00" * 5000, b"\xff" * 5000, b"\x08\x07\x12" * 100])
def test_bytes_that_are_no_program_are_refused(check: Check, content: bytes) -> None:
    with pytest.raises(UnsafeProgramError, match="does not begin like ET12"):
        check(content)
    with pytest.raises(UnsafeProgramError, match="does not begin like FT01"):
        check(None, content)


def test_the_two_kinds_of_file_are_not_mixed_up(bert, check: Check) -> None:
    program, weights = good(bert)
    with pytest.raises(UnsafeProgramError, match=r"train\.pte"):
        check(weights, weights)
    with pytest.raises(UnsafeProgramError, match=r"weights\.ptd"):
        check(program, program)


@pytest.mark.parametrize("place", [0, 16, 24, 32])
def test_headers_that_overflow_are_refused(bert, check: Check, place: int) -> None:
    content = bytearray(good(bert)[0])
    struct.pack_into("<Q" if place else "<I", content, place, 2**64 - 1 if place else 2**32 - 1)
    with pytest.raises(UnsafeProgramError):
        check(bytes(content))


def test_files_that_are_absent_are_named(bert, tmp_path) -> None:
    (tmp_path / "train.pte").write_bytes(good(bert)[0])
    with pytest.raises(QuadloomError, match=r"weights\.ptd cannot be read"):
        check_program_files(tmp_path / "train.pte", tmp_path / WEIGHTS_NAME)


@given(st.data())
@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
def test_what_passes_holds_for_everything_that_executorch_reads(bert, check: Check, data: st.DataObject) -> None:
    content = bytearray(good(bert)[0])
    (end,) = struct.unpack_from("<Q", content, 16)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, end - 4))
        content[place : place + 4] = data.draw(st.binary(min_size=4, max_size=4))
    try:
        check(bytes(content))
    except UnsafeProgramError:
        return
    try:
        program = read(bytes(content))
    except Exception:  # its reader checks nothing
        return
    for plan in program.execution_plan:
        names = [each.name for each in plan.operators]
        assert all(name.startswith(OPERATOR_NAMESPACES) or name == "executorch_prim::et_view" for name in names)
        assert not plan.delegates
        for each in tensors(plan):
            if each.allocation_info is not None and each.extra_tensor_info is None:
                offset = each.allocation_info.memory_offset_low + (each.allocation_info.memory_offset_high << 32)
                assert offset + math.prod(each.sizes) <= plan.non_const_buffer_sizes[each.allocation_info.memory_id]


@cache
def delegating(bert: Any) -> bytes:
    """A program that hands work to XNNPACK."""
    return lower_to_executorch(bert.member(1, 0), backend="xnnpack").program


def test_a_program_may_hand_work_to_the_backend_that_its_family_states_and_to_no_other(bert, tmp_path: Path) -> None:
    program, weights = tmp_path / "train.pte", tmp_path / WEIGHTS_NAME
    program.write_bytes(delegating(bert))
    weights.write_bytes(weights_file(bert.member(1, 0)))
    check_program_files(program, weights, backend="xnnpack")
    with pytest.raises(UnsafeProgramError, match="hands work to the backend 'XnnpackBackend'"):
        check_program_files(program, weights, backend="portable")
    program.write_bytes(changed(good(bert)[0], _add_backend))
    weights.write_bytes(good(bert)[1])
    with pytest.raises(UnsafeProgramError, match="hands work to the backend 'QnnBackend'"):
        check_program_files(program, weights, backend="xnnpack")


def _beyond_all_data(plan: Any) -> None:
    plan.delegates[0].processed.index = 10**6


def _call_of_nobody(plan: Any) -> None:
    calls = [each.instr_args for each in plan.chains[0].instructions if hasattr(each.instr_args, "delegate_index")]
    calls[0].delegate_index = len(plan.delegates)


@pytest.mark.parametrize(
    ("change", "problem"), [(_beyond_all_data, "work of a delegate lies at"), (_call_of_nobody, "no call of a kernel")]
)
def test_a_delegate_without_its_data_is_refused(
    bert, tmp_path: Path, change: Callable[[Any], None], problem: str
) -> None:
    program, weights = tmp_path / "train.pte", tmp_path / WEIGHTS_NAME
    program.write_bytes(_with_delegates_changed(delegating(bert), change))
    weights.write_bytes(weights_file(bert.member(1, 0)))
    with pytest.raises(UnsafeProgramError, match=problem):
        check_program_files(program, weights, backend="xnnpack")


def _with_delegates_changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    """As `changed`; the pieces of work stay in the program, since its writer would move them by their places."""
    from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary

    file = deserialize_pte_binary(content)
    change(file.program.execution_plan[0])
    return bytes(serialize_pte_binary(file, extract_delegate_segments=False))
