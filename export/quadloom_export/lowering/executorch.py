"""Lower a joint graph to an ExecuTorch program that runs on the plain runtime in the order of the graph.

A program has one method, ``forward``: parameters and batch tensors in, in the order of the graph's placeholders, and
the graph's outputs out, all at the family's batch size. Frozen tensors lie in `WEIGHTS_NAME`, one file for all.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from quadloom_export.graph import JointGraph, emit, evaluate, remove_dead, shape_of, val
from quadloom_export.lowering.arena import Tenancy, lower_bound_bytes, plan_arena
from quadloom_export.lowering.executorch_columns import with_groups_as_columns
from quadloom_export.lowering.executorch_edge import to_edge_dialect
from quadloom_export.lowering.executorch_in_place import overwritten
from quadloom_export.lowering.executorch_kernels import Kernels, PortableKernels, run_on_shapes
from quadloom_export.lowering.executorch_operators import translations
from quadloom_runtime.contract.manifest import ExecutorchBackend, TensorSpec
from quadloom_runtime.errors import MissingExtraError

aten = torch.ops.aten
quadloom = torch.ops.quadloom

WEIGHTS_NAME = "weights.ptd"
WEIGHTS_TAG = "weights"
METHOD = "forward"
WEIGHT_ALIGNMENT_BYTES = 128
OVERREAD_BYTES = 128
"""XNNPACK's kernels may read (and ignore) this much beyond a tensor, so beyond the last one of the arena, too."""


@dataclass(frozen=True)
class ExecutorchMember:
    """A lowered graph.

    Attributes:
        program: content of the ``.pte`` file.
        arena_bytes: what the runtime allocates for the method: every tensor that is neither a weight nor an input.
        arena_lower_bound_bytes: the most bytes alive at once; no arena is smaller.
    """

    program: bytes
    arena_bytes: int
    arena_lower_bound_bytes: int


def lower_to_executorch(joint: JointGraph, *, backend: ExecutorchBackend = "portable") -> ExecutorchMember:
    """Translate a finished graph.

    Args:
        backend: who computes what the portable kernels are slow at; matrix products are the portable library's.

    Raises:
        MissingExtraError: executorch is not installed.
    """
    planner = ArenaPlanner()
    program = assemble({METHOD: exported(joint, backend=backend)}, {METHOD: planner}, weights_tag=WEIGHTS_TAG)
    (plan,) = program.executorch_program.execution_plan
    return ExecutorchMember(
        program=bytes(program.buffer),
        arena_bytes=sum(plan.non_const_buffer_sizes),
        arena_lower_bound_bytes=planner.lower_bound_bytes,
    )


def exported(joint: JointGraph, *, backend: ExecutorchBackend = "portable") -> ExportedProgram:
    """A graph in PyTorch's form of export, its operators translated."""
    joint = _with_distribution_functions(joint)
    if backend == "xnnpack":
        joint = with_groups_as_columns(joint)
    given = [node for node in joint.inputs if node.meta["role"] != "frozen"]
    examples = tuple(torch.zeros(shape_of(node), dtype=val(node).dtype) for node in given)
    with torch.no_grad():
        return torch.export.export(_translated(joint, examples, backend), examples, strict=False)


def assemble(
    methods: Mapping[str, ExportedProgram], planners: Mapping[str, "ArenaPlanner"], *, weights_tag: str | None
) -> Any:
    """One program of several methods, each with an arena of its own; equal constants are stored once.

    Args:
        methods: what each method computes; rewritten in place.
        planners: one per method, to be asked afterwards.
        weights_tag: the data file that holds the weights, None to keep them in the program.

    Raises:
        MissingExtraError: executorch is not installed.
    """
    try:
        from executorch.exir import EdgeCompileConfig, EdgeProgramManager, ExecutorchBackendConfig
        from executorch.exir.passes.memory_planning_pass import MemoryPlanningPass
    except ModuleNotFoundError:
        raise MissingExtraError(package="executorch", extra="executorch") from None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package deprecates its own calls
        for method in methods.values():
            to_edge_dialect(method.graph)
        # Linear is no core operator, yet it has the fastest kernel; every tensor is contiguous.
        compile_config = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
        # Inputs stay where the caller has them; outputs are the arena's, until the next step.
        memory = {
            name: MemoryPlanningPass(planner, alloc_graph_input=False, alloc_graph_output=True)
            for name, planner in planners.items()
        }
        config = ExecutorchBackendConfig(
            memory_planning_pass=memory,
            external_constants=False if weights_tag is None else partial(_file_of, weights_tag),
        )
        return EdgeProgramManager(dict(methods), compile_config=compile_config).to_executorch(config)


class ArenaPlanner:
    """The memory planning algorithm that ExecuTorch calls; writes an offset into every tensor's specification."""

    def __init__(self) -> None:
        self.lower_bound_bytes = 0

    def __call__(self, alignment: int, specs: Any, graph_module: Any, graph_signature: Any, padding: int) -> list[int]:  # noqa: ARG002
        """Sizes of the runtime's buffers; the first is reserved for constants."""
        over = overwritten(graph_module)
        places: dict[int, list[Any]] = defaultdict(list)
        for spec in specs:
            places[id(over.get(id(spec), spec))].append(spec)
        tenancies = [
            Tenancy(
                min(spec.lifetime[0] for spec in tenants),
                max(spec.lifetime[1] for spec in tenants),
                tenants[0].realign(alignment),
            )
            for tenants in places.values()
        ]
        self.lower_bound_bytes = lower_bound_bytes(tenancies)
        arena = plan_arena(tenancies)
        for tenants, offset in zip(places.values(), arena.offsets, strict=True):
            for spec in tenants:
                spec.mem_id, spec.mem_obj_id, spec.mem_offset = 1, 1, offset
        return [0, arena.size_bytes + OVERREAD_BYTES + padding]


def weights_file(*graphs: JointGraph) -> bytes:
    """Content of the file with every frozen tensor that any of the graphs reads; equal contents are stored once.

    Raises:
        MissingExtraError: executorch is not installed.
    """
    try:
        from executorch.exir._serialize.data_serializer import DataEntry, DataPayload
        from executorch.exir.tensor import dim_order_from_stride, scalar_type_enum
        from executorch.exir.tensor_layout import TensorLayout
        from executorch.extension.flat_tensor.serialize.serialize import FlatTensorConfig, FlatTensorSerializer
    except ModuleNotFoundError:
        raise MissingExtraError(package="executorch", extra="executorch") from None
    contents: dict[bytes, int] = {}
    entries = {}
    for key, value in _frozen_of(graphs).items():
        content = value.detach().contiguous().numpy().tobytes()
        layout = TensorLayout(
            scalar_type_enum(value.dtype), list(value.shape), list(dim_order_from_stride(value.contiguous().stride()))
        )
        entries[key] = DataEntry(contents.setdefault(content, len(contents)), WEIGHT_ALIGNMENT_BYTES, layout)
    serializer = FlatTensorSerializer(FlatTensorConfig())
    return bytes(serializer.serialize(DataPayload(buffers=list(contents), named_data=entries)))


def save(content: bytes, path: Path) -> None:
    """Write a file under its final name only when complete."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(content)
    temporary.replace(path)


def input_specs(joint: JointGraph) -> tuple[TensorSpec, ...]:
    """Inputs that a caller gives, in order, at the static batch size."""
    return tuple(_spec(node.meta["key"], node) for node in joint.inputs if node.meta["role"] != "frozen")


def output_specs(joint: JointGraph) -> tuple[TensorSpec, ...]:
    """Outputs in order, at the static batch size."""
    return tuple(_spec(name, node) for name, node in joint.results.items())


def _with_distribution_functions(joint: JointGraph) -> JointGraph:
    """An equal graph that has the normal distribution function where it was written with the error function."""
    result = joint.copy()
    for node in result.nodes:
        error = node.args[0] if node.target == quadloom.unit_interval.default else None
        if isinstance(error, fx.Node) and error.target == aten.erf.default:
            with result.graph.inserting_before(node):
                node.replace_all_uses_with(emit(result.graph, quadloom.normal_cdf.default, error.args, like=node))
    remove_dead(result.graph)
    return result


def _translated(joint: JointGraph, examples: tuple[Tensor, ...], backend: ExecutorchBackend) -> "_Translated":
    module = _Translated(joint, _kernels(backend))
    run_on_shapes(module, examples)
    module.kernels.make_ready()
    return module


def _kernels(backend: ExecutorchBackend) -> Kernels:
    if backend == "portable":
        return PortableKernels()
    from quadloom_export.lowering.executorch_xnnpack import XnnpackKernels

    return XnnpackKernels()


def _file_of(weights_tag: str, constant: fx.Node) -> str | None:
    """Where a constant lies; None: in the program. A view of a tensor that lies elsewhere cannot be described."""
    is_viewed = any("view" in str(user.target) for user in constant.users)
    belongs_to_kernels = constant.name.startswith("b_kernels_")
    return None if is_viewed or belongs_to_kernels else weights_tag


class _Translated(nn.Module):
    """The graph as a module whose buffers are the frozen tensors under their canonical names."""

    def __init__(self, joint: JointGraph, kernels: Kernels) -> None:
        super().__init__()
        self._joint = joint
        self.kernels = kernels
        self._operators = translations(kernels)
        for key, value in _frozen_of([joint]).items():
            *path, name = key.split(".")
            owner: nn.Module = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_buffer(name, value.detach())

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Run node by node."""
        values: dict[fx.Node, Any] = {}
        remaining = iter(given)
        for node in self._joint.inputs:
            frozen = node.meta["role"] == "frozen"
            values[node] = self.get_buffer(node.meta["key"]) if frozen else next(remaining)
        for node in self._joint.nodes:
            target = self._operators.get(node.target, node.target)
            values[node] = evaluate(target, node.args, node.kwargs, values.__getitem__)
        return tuple(values[node] for node in self._joint.results.values())


def _frozen_of(graphs: Iterable[JointGraph]) -> Mapping[str, Tensor]:
    """Value per frozen tensor; scales of rows as columns, since a view of one could not lie in the weights file."""
    return {
        key: graph.frozen[key].unsqueeze(1) if _is_scale(node) else graph.frozen[key]
        for graph in graphs
        for key, node in graph.inputs_of("frozen").items()
    }


def _is_scale(node: fx.Node) -> bool:
    return any(user.target == quadloom.dequantize.default and user.args[1] is node for user in node.users)


def _spec(name: str, node: fx.Node) -> TensorSpec:
    dtype = str(val(node).dtype).removeprefix("torch.")
    return TensorSpec(name=name, dtype=dtype, shape=shape_of(node))  # type: ignore[arg-type]
