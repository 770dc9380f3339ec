"""The graph value that every pass takes and gives.

A joint graph is an FX graph in execution order, forward before backward, that is a pure function of (trainable tensors,
batch, frozen tensors). Every input is a placeholder; every node carries

| meta key | what |
|---|---|
| ``val`` | fake tensor at the family's batch size |
| ``twin`` | fake tensor at batch size + 1: where the two shapes differ is the batch dimension |
| ``phase`` | ``forward`` or ``backward`` |
| ``layer`` | index of the transformer layer, ``embeddings`` or ``head`` |
| ``role``, ``key`` | of placeholders: ``parameter``, ``batch`` or ``frozen``, and its name |
| ``table`` | of frozen placeholders: whether it is a buffer, which the model computes with and nobody trained |

No argument of any node depends on the batch size, so the same graph serves every batch size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from quadloom_runtime.contract.manifest import ParameterSpec

# All graphs share two fake modes, so that nodes may be copied between graphs.
SHAPE_MODES = {"val": FakeTensorMode(), "twin": FakeTensorMode()}


@dataclass(frozen=True)
class JointGraph:
    """One training (or evaluation) graph.

    Attributes:
        graph: nodes in execution order; the output node's argument is a tuple in the order of `outputs`.
        outputs: names of the outputs; gradients are ``gradient.<parameter name>``.
        parameters: the parameter table.
        frozen: value per frozen placeholder key.
        layers: number of transformer layers.
        depth: how many of them are trained.
        batch_size: rows for which ``meta["val"]`` holds.
        quantized_layers: how many of the trained layers have a quantized stash.
        row_chunks: shares in which each layer processes its rows where it is wide, from the input on; empty for one.
    """

    graph: fx.Graph
    outputs: tuple[str, ...]
    parameters: tuple[ParameterSpec, ...]
    frozen: Mapping[str, Tensor]
    layers: int
    depth: int
    batch_size: int
    quantized_layers: int = 0
    row_chunks: tuple[int, ...] = ()

    def copy(self, **changes: Any) -> "JointGraph":
        """A graph that may be edited without touching this one."""
        graph = fx.Graph()
        result = graph.graph_copy(self.graph, {})
        graph.output(result)
        return replace(self, graph=graph, **changes)

    @property
    def nodes(self) -> list[fx.Node]:
        """Nodes that compute, in order."""
        return [node for node in self.graph.nodes if node.op == "call_function"]

    @property
    def inputs(self) -> list[fx.Node]:
        """Placeholders, in order."""
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    def inputs_of(self, role: str) -> dict[str, fx.Node]:
        """Placeholders of one role by key."""
        return {node.meta["key"]: node for node in self.inputs if node.meta["role"] == role}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the frozen tensors that the graph reads."""
        return sum(self.frozen[key].nbytes for key in self.inputs_of("frozen"))

    @property
    def results(self) -> dict[str, fx.Node]:
        """Output name -> node."""
        return dict(zip(self.outputs, self.graph.output_node().args[0], strict=True))  # type: ignore[arg-type]

    @property
    def results_bytes(self) -> int:
        """Bytes of all results, which an engine hands out as copies."""
        return sum(size_bytes(node) for node in self.results.values())

    def run(self, parameters: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Execute in PyTorch; the reference for every lowering. Works for any batch size."""
        values: dict[fx.Node, Any] = {}
        sources: dict[str, Mapping[str, Tensor]] = {"parameter": parameters, "batch": batch, "frozen": self.frozen}
        with torch.no_grad():
            for node in self.inputs:
                values[node] = sources[node.meta["role"]][node.meta["key"]]
            for node in self.nodes:
                values[node] = evaluate(node.target, node.args, node.kwargs, values.__getitem__)
        return {name: values[node] for name, node in self.results.items()}


def evaluate(target: Any, args: Any, kwargs: Any, value_of: Callable[[fx.Node], Any]) -> Any:
    """Call `target` with every node among the arguments replaced by its value."""
    return target(*fx.node.map_arg(args, value_of), **fx.node.map_arg(kwargs, value_of))


def val(node: fx.Node) -> Tensor:
    """The fake tensor of a node."""
    return node.meta["val"]  # type: ignore[no-any-return]


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape at the family's batch size."""
    return tuple(val(node).shape)


def size_bytes(node: fx.Node) -> int:
    """Bytes of the node's tensor at the family's batch size."""
    return val(node).numel() * val(node).element_size()


def batch_free_shape(node: fx.Node) -> list[int]:
    """Shape with -1 in place of the batch dimension."""
    return [-1 if a != b else a for a, b in zip(val(node).shape, node.meta["twin"].shape, strict=True)]


def batch_axis(node: fx.Node) -> int | None:
    """The dimension that grows with the batch, None if there is none."""
    shape = batch_free_shape(node)
    return shape.index(-1) if -1 in shape else None


def propagate(node: fx.Node) -> None:
    """Compute ``val`` and ``twin`` of a node from its inputs."""
    for key, mode in SHAPE_MODES.items():
        with mode:
            values = {each: each.meta[key] for each in node.all_input_nodes}
            node.meta[key] = evaluate(node.target, node.args, node.kwargs, values.__getitem__)


def emit(
    graph: fx.Graph, target: Any, args: tuple[Any, ...], *, like: fx.Node, kwargs: dict[str, Any] | None = None
) -> fx.Node:
    """Add a node at the graph's insertion point, with the tags of `like` and shapes of its own."""
    node = graph.call_function(target, args, kwargs or {})
    node.meta = {"phase": like.meta["phase"], "layer": like.meta["layer"]}
    propagate(node)
    return node


def remove_dead(graph: fx.Graph) -> None:
    """Drop every node and every frozen input that no output needs (batch and parameter inputs stay)."""
    for node in reversed(list(graph.nodes)):
        kept = node.op == "output" or (node.op == "placeholder" and node.meta.get("role") != "frozen")
        if not node.users and not kept:
            graph.erase_node(node)
