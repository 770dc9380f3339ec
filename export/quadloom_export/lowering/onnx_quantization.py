"""How quantization is written in ONNX."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from quadloom_export.graph import shape_of
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
    return out.node("Cast", [shifted], to=ONNX_TYPES[torch.int8])


def _lowest(out: OnnxEmitter, minimum: object, lower_bound: object) -> str:
    return out.name_of(minimum) if isinstance(minimum, fx.Node) else _number(out, lower_bound)


def _number(out: OnnxEmitter, value: object) -> str:
    return out.constant(np.asarray(value, dtype=np.float32))


def _quantize(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("QuantizeLinear", _given(out, node), axis=0)


def _dequantize(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("DequantizeLinear", _given(out, node), axis=0)


def _given(out: OnnxEmitter, node: fx.Node) -> list[str]:
    return [out.name_of(each) for each in node.args if isinstance(each, fx.Node)]


def _pack_int4(out: OnnxEmitter, node: fx.Node) -> str:
    # Bytes and shifts rather than the INT4 type: every ONNX Runtime since 1.19 has these kernels.
    values = out.node("Cast", [out.name_of(node.args[0])], to=ONNX_TYPES[torch.uint8])  # type: ignore[arg-type]
    half = shape_of(node)[1]
    columns = [out.integers([each]) for each in (0, half, 2 * half, 1)]
    low = out.node("Slice", [values, columns[0], columns[1], columns[3]])
    high = out.node("Slice", [values, columns[1], columns[2], columns[3]])
    high = out.node("BitShift", [high, out.constant(np.asarray(4, dtype=np.uint8))], direction="LEFT")
    return out.node("BitwiseOr", [low, high])


def _unpack_int4(out: OnnxEmitter, node: fx.Node) -> str:
    packed = out.name_of(node.args[0])  # type: ignore[arg-type]
    low = out.node("BitwiseAnd", [packed, out.constant(np.asarray(15, dtype=np.uint8))])
    high = out.node("BitShift", [packed, out.constant(np.asarray(4, dtype=np.uint8))], direction="RIGHT")
    return out.node("Cast", [out.node("Concat", [low, high], axis=1)], to=ONNX_TYPES[torch.int8])


QUANTIZATION: dict[Any, Callable[[OnnxEmitter, fx.Node], str]] = {
    quadloom.row_minimum.default: _row_minimum,
    quadloom.row_scale.default: _row_scale,
    quadloom.zero_point.default: _zero_point,
    quadloom.quantize.default: _quantize,
    quadloom.dequantize.default: _dequantize,
    quadloom.pack_int4.default: _pack_int4,
    quadloom.unpack_int4.default: _unpack_int4,
}
