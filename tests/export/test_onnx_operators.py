"""Each translation to ONNX, run by ONNX Runtime against PyTorch, at the recorded batch size and at others."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from quadloom_export.graph import SHAPE_MODES, JointGraph, propagate
from quadloom_export.lowering.onnx import WEIGHTS_NAME, lower_to_onnx, translate_graph, weight_tensors
from quadloom_export.lowering.weights import write_weights
from quadloom_export.passes.batch_free import TRACED_BATCH_SIZES, make_batch_free
from quadloom_export.passes.matmuls import fuse_matmuls
from quadloom_export.passes.simplify import simplify
from quadloom_runtime.errors import QuadloomError

quadloom = torch.ops.quadloom
FEATURES = 8


def stored_and_restored(x, levels):
    """Each row in its own range."""
    minimum = quadloom.row_minimum(x)
    scale = quadloom.row_scale(x, minimum, 0.0, levels)
    zero = quadloom.zero_point(scale, minimum, 0.0, levels)
    return quadloom.dequantize(quadloom.quantize(x, scale, zero), scale, zero)


def joint_graph(function, recorded_rows=4):
    """The graph of a function of one float tensor ``(batch, 8)``, through the passes that every member shares."""
    recordings = []
    for rows in TRACED_BATCH_SIZES:
        trace = make_fx(lambda x: (function(x),), core_aten_decompositions(), tracing_mode="fake")
        recorded = trace(torch.zeros(rows, FEATURES))
        for node in recorded.graph.nodes:
            node.meta |= {"phase": "forward", "layer": 0}
            if node.op == "get_attr":
                node.meta["constant"] = getattr(recorded, str(node.target))
        recordings.append(recorded.graph)
    graph = make_batch_free(*recordings)
    frozen = {node.meta["key"]: node.meta["constant"] for node in graph.nodes if "constant" in node.meta}
    joint = JointGraph(graph, ("result",), parameters=(), frozen=frozen, layers=1, depth=0, batch_size=recorded_rows)
    for node in joint.inputs:
        if node.meta.get("role") != "frozen":
            node.meta |= {"role": "batch", "key": "x"}
        for extra, (key, mode) in enumerate(SHAPE_MODES.items()):
            example = torch.zeros(recorded_rows + extra, FEATURES)
            node.meta[key] = mode.from_tensor(frozen.get(node.meta["key"], example))
    for node in joint.nodes:
        propagate(node)
    return fuse_matmuls(simplify(joint))


def run_onnx(joint, x, folder):
    weights = write_weights(folder / WEIGHTS_NAME, weight_tensors(joint))
    (folder / "graph.onnx").write_bytes(translate_graph(joint, weights).model().SerializeToString())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(folder / "graph.onnx", options)
    return session.run(None, {"x": x.numpy()})[0]


FUNCTIONS = {
    "arithmetic": lambda x: (x + 1) * x / 3 - x.pow(2) + (2 - x),
    "extremes": lambda x: torch.maximum(x, -x) + torch.minimum(x, x * 2),
    "transcendental": lambda x: x.exp() + (x.abs() + 1).log() + x.erf() + x.tanh() + (x.abs() + 1).sqrt(),
    "rounding": lambda x: x.sign() + x.ceil() + x.sigmoid() + x.relu() + (x.abs() + 1).reciprocal(),
    "comparison": lambda x: (x > 0) & (x <= 1) | (x == 0.5) | ~(x >= -1) | (x < -2) | (x != x),
    "where": lambda x: torch.where(x > 0, x, -3.0),
    "sum": lambda x: x.sum(1) + x.mean(1) + x.amax(1) - x.amin(1),
    "sum of all": lambda x: x.sum(),
    "clamp": lambda x: x.clamp(min=-0.5) + x.clamp(max=0.5) + x.clamp(-0.1, 0.1),
    "softmax": lambda x: x.softmax(1) + x.log_softmax(1),
    "layer norm": lambda x: nn.functional.layer_norm(x, (FEATURES,)),
    "gelu": lambda x: nn.functional.gelu(x) + nn.functional.gelu(x, approximate="tanh"),
    "select": lambda x: x[:, 3] + x.select(1, -1),
    "slice": lambda x: x[:, 1:7:2],
    "concatenate": lambda x: torch.cat([x, x[:, :2], x + 1], 1),
    "pad": lambda x: nn.functional.pad(x, (1, 2)) + nn.functional.pad(x.view(-1, 2, 4), (0, 1, 2, 0), value=2.0).sum(),
    "cumulative sum": lambda x: x.gt(0).long().cumsum(1),
    "argmax": lambda x: x.argmax(1),
    "gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "scatter": lambda x: torch.zeros_like(x).scatter_add(1, x.argmax(1, keepdim=True), x[:, :1]),
    "permute": lambda x: x.view(-1, 2, 4).permute(0, 2, 1).reshape(-1, 8) + x,
    "expand": lambda x: x.view(-1, 1, 8).expand(-1, 3, 8).sum(1),
    "cast": lambda x: x.long().float() + x.gt(0).float(),
    "fill": lambda x: torch.full((x.shape[0], 2), 1.5) + x[:, :2],
    "fill of the same shape": lambda x: torch.full_like(x, 2.0).cumsum(1),
    "whole numbers": lambda x: torch.ones_like(x, dtype=torch.int64).cumsum(1),
    "matrix product": lambda x: x @ x.t() @ x,
    "scaled sum of products": lambda x: x + 0.5 * (x @ x.sum(0).view(8, 1) @ x.sum(0).view(1, 8)),
    "batched product": lambda x: torch.bmm(x.view(-1, 2, 4), x.view(-1, 2, 4).transpose(1, 2) * 0.3),
    "unit interval": lambda x: quadloom.unit_interval(x.tanh()),
    "row minimum": lambda x: quadloom.row_minimum(x),
    "row scale": lambda x: quadloom.row_scale(x, quadloom.row_minimum(x), 0.0, 255),
    "row scale, never negative": lambda x: quadloom.row_scale(x.abs(), None, 0.0, 255),
    "row scale, bounded below": lambda x: quadloom.row_scale(x.clamp(min=-0.5), None, -0.5, 255),
    "zero point": lambda x: quadloom.zero_point(
        quadloom.row_scale(x, m := quadloom.row_minimum(x), 0.0, 255), m, 0.0, 255
    ),
    "zero point, bounded below": lambda x: quadloom.zero_point(
        quadloom.row_scale(x.clamp(min=-0.5), None, -0.5, 15), None, -0.5, 15
    ),
    "int8": lambda x: stored_and_restored(x, 255),
    "uint8": lambda x: stored_and_restored(x, 15),
    "int8 of a fixed scale": lambda x: quadloom.dequantize_fixed(
        quadloom.quantize_fixed(x, scale := 0.02, zero := -102), scale, zero
    ),
    "bits": lambda x: torch.bitwise_or(
        torch.bitwise_left_shift(whole := (x * 9).abs().to(torch.uint8), 3),
        torch.bitwise_and(torch.bitwise_right_shift(whole, 2), 5),
    ).float(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_translation_computes_what_pytorch_computes(tmp_path, name):
    joint = joint_graph(FUNCTIONS[name])
    for rows in (4, 1, 6):
        x = torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(rows))
        expected = FUNCTIONS[name](x)
        found = run_onnx(joint, x, tmp_path)
        assert found.dtype == expected.numpy().dtype
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_an_operator_without_a_translation_is_named():
    with pytest.raises(QuadloomError, match=r"aten\.cosh\.default in layer 0 has no ONNX translation"):
        lower_to_onnx(joint_graph(torch.cosh), {})
