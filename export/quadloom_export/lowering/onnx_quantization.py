"""How quantization is written in ONNX."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from quadloom_export.graph import val
from quadloom_export.lowering.onnx_emitter import ONNX_TYPES, OnnxEmitter
from quadloom_export.semantic_ops import SMALLEST_SCALE, smallest_stored, step_share

quadloom = torch.ops.quadloom


def _row_minimum(out: OnnxEmitter, node: fx.Node) -> str:
    smallest = out.node("ReduceMin", [out.name_of(node.args[0]), out.integers([1])], keepdims=0)  # type: ignore[arg-type]
    return out.node("Min", [smallest, _number(out, 0.0)])


def _row_scale(out: OnnxEmitter, node: fx.Node) -> str:
    source, minimum, lower_bound, levels = node.args
    largest = out.node("ReduceMax", [out.name_of(source), out.integers([1])], keepdims=0)  # type: ignore[arg-type]
    largest = out.node("Max", [largest, _number(out, SMALLEST_SCALE)])
    spread = out.node("Sub", [largest, _lowest(out, minimum, lower_bound)])
    return out.node("Mul", [spread, _number(out, step_share(levels))])  # type: ignore[arg-type]


def _zero_point(out: OnnxEmitter, node: fx.Node) -> str:
    scale, minimum, lower_bound, levels = node.args
    steps = out.node("Div", [_lowest(out, minimum, lower_bound), out.name_of(scale)])  # type: ignore[arg-type]
    shifted = out.node("Sub", [_number(out, smallest_stored(levels)), out.node("Round", [steps])])  # type: ignore[arg-type]
    return out.node("Cast", [shifted], to=ONNX_TYPES[val(node).dtype])


def _lowest(out: OnnxEmitter, minimum: object, lower_bound: object) -> str:
    return out.name_of(minimum) if isinstance(minimum, fx.Node) else _number(out, lower_bound)


def _number(out: OnnxEmitter, value: object) -> str:
    return out.constant(np.asarray(value, dtype=np.float32))


def _quantize(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("QuantizeLinear", _given(out, node), axis=0)


def _dequantize(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("DequantizeLinear", _given(out, node), axis=0)


def _quantize_fixed(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("QuantizeLinear", _with_constants(out, node))


def _dequantize_fixed(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("DequantizeLinear", _with_constants(out, node))


def _with_constants(out: OnnxEmitter, node: fx.Node) -> list[str]:
    x, scale, zero = node.args
    return [out.name_of(x), _number(out, scale), out.constant(np.asarray(zero, dtype=np.int8))]  # type: ignore[arg-type]


def _given(out: OnnxEmitter, node: fx.Node) -> list[str]:
    return [out.name_of(each) for each in node.args if isinstance(each, fx.Node)]


QUANTIZATION: dict[Any, Callable[[OnnxEmitter, fx.Node], str]] = {
    quadloom.row_minimum.default: _row_minimum,
    quadloom.row_scale.default: _row_scale,
    quadloom.zero_point.default: _zero_point,
    quadloom.quantize.default: _quantize,
    quadloom.dequantize.default: _dequantize,
    quadloom.quantize_fixed.default: _quantize_fixed,
    quadloom.dequantize_fixed.default: _dequantize_fixed,
}
