"""How each graph operator is written in ONNX: opset 21 and, for transposed batched products, `com.microsoft`."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from quadloom_export.graph import shape_of, val
from quadloom_export.lowering.onnx_emitter import ONNX_TYPES, OnnxEmitter, attributes_of
from quadloom_export.lowering.onnx_quantization import QUANTIZATION
from quadloom_runtime.errors import QuadloomError

aten = torch.ops.aten
quadloom = torch.ops.quadloom
Translator = Callable[[OnnxEmitter, fx.Node], str]
TRANSLATORS: dict[Any, Translator] = dict(QUANTIZATION)


def translate(out: OnnxEmitter, node: fx.Node) -> None:
    """Append the ONNX nodes for one graph node.

    Raises:
        QuadloomError: no translation is known.
    """
    if node.target is operator.getitem:
        return  # named by the operator that has several outputs
    translator = TRANSLATORS.get(node.target)
    if translator is None:
        raise QuadloomError(
            f"operator {node.target} in layer {node.meta['layer']} has no ONNX translation",
            remedy="report the model, or add a translator in export/quadloom_export/lowering/onnx_operators.py",
        )
    name = translator(out, node)
    if name:
        out.bind(node, name)


def _register(*targets: Any) -> Callable[[Translator], Translator]:
    def add(function: Translator) -> Translator:
        TRANSLATORS.update(dict.fromkeys(targets, function))
        return function

    return add


def _elementwise(onnx_operator: str) -> Translator:
    def convert(out: OnnxEmitter, node: fx.Node) -> str:
        if node.kwargs.get("alpha", 1) != 1:
            raise QuadloomError(f"{node.target} with alpha is not translated", remedy="report the model")
        return out.node(onnx_operator, [out.value(each, val(node).dtype) for each in node.args])

    return convert


def _comparison(onnx_operator: str) -> Translator:
    def convert(out: OnnxEmitter, node: fx.Node) -> str:
        a, b = node.args[:2]
        dtype = val(a).dtype if not isinstance(b, fx.Node) else torch.promote_types(val(a).dtype, val(b).dtype)  # type: ignore[arg-type]
        return out.node(onnx_operator, [out.value(a, dtype), out.value(b, dtype)])

    return convert


def _logical(onnx_operator: str) -> Translator:
    def convert(out: OnnxEmitter, node: fx.Node) -> str:
        if val(node).dtype != torch.bool:
            raise QuadloomError(f"{node.target} on {val(node).dtype} is not translated", remedy="report the model")
        return out.node(onnx_operator, [out.value(each, torch.bool) for each in node.args])

    return convert


def _reduction(onnx_operator: str) -> Translator:
    def convert(out: OnnxEmitter, node: fx.Node) -> str:
        axes, keepdim = attributes_of(node, {"dim": None, "keepdim": False})
        source = out.value(node.args[0], val(node).dtype)
        inputs = (
            [source, out.integers([axes] if isinstance(axes, int) else axes)] if axes not in (None, []) else [source]
        )
        return out.node(onnx_operator, inputs, keepdims=int(keepdim))

    return convert


for _targets, _name in {
    (aten.add.Tensor, aten.add.Scalar): "Add",
    (aten.sub.Tensor, aten.sub.Scalar): "Sub",
    (aten.mul.Tensor, aten.mul.Scalar): "Mul",
    (aten.div.Tensor, aten.div.Scalar): "Div",
    (aten.pow.Tensor_Scalar,): "Pow",
    (aten.maximum.default,): "Max",
    (aten.minimum.default,): "Min",
    (aten.neg.default,): "Neg",
    (aten.exp.default,): "Exp",
    (aten.log.default,): "Log",
    (aten.erf.default,): "Erf",
    (aten.tanh.default,): "Tanh",
    (aten.sqrt.default,): "Sqrt",
    (aten.abs.default,): "Abs",
    (aten.sign.default,): "Sign",
    (aten.ceil.default,): "Ceil",
    (aten.sigmoid.default,): "Sigmoid",
    (aten.relu.default,): "Relu",
    (aten.reciprocal.default,): "Reciprocal",
}.items():
    _register(*_targets)(_elementwise(_name))
for _targets, _name in {
    (aten.eq.Tensor, aten.eq.Scalar): "Equal",
    (aten.lt.Tensor, aten.lt.Scalar): "Less",
    (aten.le.Tensor, aten.le.Scalar): "LessOrEqual",
    (aten.gt.Tensor, aten.gt.Scalar): "Greater",
    (aten.ge.Tensor, aten.ge.Scalar): "GreaterOrEqual",
}.items():
    _register(*_targets)(_comparison(_name))
for _targets, _name in {
    (aten.logical_and.default,): "And",
    (aten.logical_or.default,): "Or",
    (aten.bitwise_not.default, aten.logical_not.default): "Not",
}.items():
    _register(*_targets)(_logical(_name))
for _target, _name in {
    aten.sum.dim_IntList: "ReduceSum",
    aten.mean.dim: "ReduceMean",
    aten.amax.default: "ReduceMax",
    aten.amin.default: "ReduceMin",
}.items():
    _register(_target)(_reduction(_name))


@_register(aten.ne.Tensor, aten.ne.Scalar)
def _not_equal(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("Not", [_comparison("Equal")(out, node)])


@_register(quadloom.gemm.default)
def _gemm(out: OnnxEmitter, node: fx.Node) -> str:
    a, b, bias, transpose_a, transpose_b, alpha = node.args
    inputs = [out.name_of(each) for each in (a, b, bias) if isinstance(each, fx.Node)]
    return out.node("Gemm", inputs, alpha=float(alpha), transA=int(transpose_a), transB=int(transpose_b))  # type: ignore[arg-type]


@_register(quadloom.batched_matmul.default)
def _batched_matmul(out: OnnxEmitter, node: fx.Node) -> str:
    a, b, transpose_a, transpose_b, alpha = node.args
    inputs = [out.name_of(a), out.name_of(b)]  # type: ignore[arg-type]
    if not transpose_a and not transpose_b and alpha == 1.0:
        return out.node("MatMul", inputs)
    flags = {"transA": int(transpose_a), "transB": int(transpose_b)}  # type: ignore[arg-type]
    return out.node("FusedMatMul", inputs, domain="com.microsoft", alpha=float(alpha), **flags)  # type: ignore[arg-type]


@_register(aten.reshape.default)
def _reshape(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("Reshape", [out.name_of(node.args[0]), out.integers(node.args[1])])  # type: ignore[arg-type]


@_register(aten.permute.default)
def _permute(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("Transpose", [out.name_of(node.args[0])], perm=list(node.args[1]))  # type: ignore[arg-type]


@_register(aten.expand.default)
def _expand(out: OnnxEmitter, node: fx.Node) -> str:
    # ONNX keeps a dimension where 1 is asked for.
    sizes = [1 if size == -1 else size for size in node.args[1]]  # type: ignore[union-attr]
    return out.node("Expand", [out.name_of(node.args[0]), out.integers(sizes)])  # type: ignore[arg-type]


@_register(quadloom.batch_tile.default)
def _batch_tile(out: OnnxEmitter, node: fx.Node) -> str:
    source, reference, repeats, axis = node.args
    return out.node("Tile", [out.name_of(source), out.batch_shape(reference, repeats, axis)])  # type: ignore[arg-type]


@_register(quadloom.batch_full.default)
def _batch_full(out: OnnxEmitter, node: fx.Node) -> str:
    reference, shape, axis, fill = node.args
    scalar = out.constant(np.asarray(fill, dtype=np.float32))
    return out.node("Expand", [scalar, out.batch_shape(reference, shape, axis)])  # type: ignore[arg-type]


@_register(aten.full.default, aten.full_like.default, aten.scalar_tensor.default)
def _full(out: OnnxEmitter, node: fx.Node) -> str:
    fill = node.args[0] if node.target == aten.scalar_tensor.default else node.args[1]
    scalar = out.value(fill, val(node).dtype)
    return out.node("Expand", [scalar, out.integers(shape_of(node))]) if shape_of(node) else scalar


@_register(aten.rsqrt.default)
def _rsqrt(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("Reciprocal", [out.node("Sqrt", [out.name_of(node.args[0])])])  # type: ignore[arg-type]


@_register(aten._to_copy.default)
def _cast(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("Cast", [out.name_of(node.args[0])], to=ONNX_TYPES[val(node).dtype])  # type: ignore[arg-type]


@_register(aten.bitwise_and.Tensor, aten.bitwise_and.Scalar, aten.bitwise_or.Tensor)
def _bitwise(out: OnnxEmitter, node: fx.Node) -> str:
    dtype, name = val(node).dtype, "Or" if node.target == aten.bitwise_or.Tensor else "And"
    return out.node(name if dtype == torch.bool else f"Bitwise{name}", [out.value(each, dtype) for each in node.args])


@_register(aten.bitwise_left_shift.Tensor_Scalar, aten.bitwise_right_shift.Tensor_Scalar)
def _shift(out: OnnxEmitter, node: fx.Node) -> str:
    direction = "LEFT" if node.target == aten.bitwise_left_shift.Tensor_Scalar else "RIGHT"
    operands = [out.value(each, val(node).dtype) for each in node.args]
    return out.node("BitShift", operands, direction=direction)


@_register(aten.where.self)
def _where(out: OnnxEmitter, node: fx.Node) -> str:
    condition, a, b = node.args
    dtype = val(node).dtype
    return out.node("Where", [out.value(condition, torch.bool), out.value(a, dtype), out.value(b, dtype)])


@_register(aten.clamp.default)
def _clamp(out: OnnxEmitter, node: fx.Node) -> str:
    low, high = attributes_of(node, {"min": None, "max": None})
    bounds = ["" if each is None else out.value(each, val(node).dtype) for each in (low, high)]
    return out.node("Clip", [out.value(node.args[0], val(node).dtype), *bounds])


@_register(aten._softmax.default, aten._log_softmax.default)
def _softmax(out: OnnxEmitter, node: fx.Node) -> str:
    name = "Softmax" if node.target == aten._softmax.default else "LogSoftmax"
    return out.node(name, [out.name_of(node.args[0])], axis=node.args[1])  # type: ignore[arg-type]


@_register(aten.native_layer_norm.default)
def _layer_norm(out: OnnxEmitter, node: fx.Node) -> str:
    x, normalized_shape, weight, bias, epsilon = node.args
    ones = np.ones(normalized_shape, dtype=np.float32)  # type: ignore[arg-type]
    scale = out.name_of(weight) if isinstance(weight, fx.Node) else out.constant(ones)
    inputs = [out.name_of(x), scale] + ([out.name_of(bias)] if isinstance(bias, fx.Node) else [])  # type: ignore[arg-type]
    read = {int(user.args[1]): user for user in node.users}  # type: ignore[arg-type]
    names = [f"{node.name}.{i}" if i in read else "" for i in range(max(read) + 1)]
    names[0] = names[0] or f"{node.name}.0"
    out.node("LayerNormalization", inputs, outputs=names, axis=-len(normalized_shape), epsilon=epsilon)  # type: ignore[arg-type]
    for index, user in read.items():
        out.bind(user, names[index])
    return ""


@_register(aten.embedding.default)
def _embedding(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("Gather", [out.name_of(node.args[0]), out.name_of(node.args[1])])  # type: ignore[arg-type]


@_register(aten.gelu.default)
def _gelu(out: OnnxEmitter, node: fx.Node) -> str:
    return out.node("Gelu", [out.name_of(node.args[0])], approximate=node.kwargs.get("approximate", "none"))  # type: ignore[arg-type]


@_register(quadloom.unit_interval.default)
def _unit_interval(out: OnnxEmitter, node: fx.Node) -> str:
    # clip(0.5 x + 0.5, 0, 1) in one operator; the clip does nothing on [-1, 1].
    return out.node("HardSigmoid", [out.name_of(node.args[0])], alpha=0.5, beta=0.5)  # type: ignore[arg-type]


@_register(aten.select.int)
def _select(out: OnnxEmitter, node: fx.Node) -> str:
    source, axis, index = node.args
    return out.node("Gather", [out.name_of(source), out.constant(np.asarray(index, dtype=np.int64))], axis=axis)  # type: ignore[arg-type]


@_register(aten.slice.Tensor)
def _slice(out: OnnxEmitter, node: fx.Node) -> str:
    axis, start, end, step = attributes_of(node, {"dim": 0, "start": 0, "end": 2**62, "step": 1})
    bounds = [out.integers([each]) for each in (start or 0, 2**62 if end is None else end, axis, step)]
    return out.node("Slice", [out.name_of(node.args[0]), *bounds])  # type: ignore[arg-type]


@_register(aten.constant_pad_nd.default)
def _pad(out: OnnxEmitter, node: fx.Node) -> str:
    # PyTorch names the last dimension first, ONNX all starts before all ends.
    around, (fill,) = list(node.args[1]), attributes_of(node, {"pad": None, "value": 0.0})[1:]  # type: ignore[arg-type]
    untouched = [0] * (val(node).dim() - len(around) // 2)
    starts, ends = ([*untouched, *around[side::2][::-1]] for side in (0, 1))
    value = out.constant(np.asarray(fill, dtype=np.float32))
    return out.node("Pad", [out.name_of(node.args[0]), out.integers([*starts, *ends]), value])  # type: ignore[arg-type]


@_register(aten.cat.default)
def _concat(out: OnnxEmitter, node: fx.Node) -> str:
    (axis,) = attributes_of(node, {"dim": 0})
    return out.node("Concat", [out.value(each, val(node).dtype) for each in node.args[0]], axis=axis)  # type: ignore[union-attr]


@_register(aten.cumsum.default)
def _cumsum(out: OnnxEmitter, node: fx.Node) -> str:
    axis = out.constant(np.asarray(node.args[1], dtype=np.int64))
    return out.node("CumSum", [out.value(node.args[0], val(node).dtype), axis])


@_register(aten.argmax.default)
def _argmax(out: OnnxEmitter, node: fx.Node) -> str:
    axis, keepdim = attributes_of(node, {"dim": None, "keepdim": False})
    return out.node("ArgMax", [out.name_of(node.args[0])], axis=axis, keepdims=int(keepdim))  # type: ignore[arg-type]


@_register(aten.gather.default)
def _gather(out: OnnxEmitter, node: fx.Node) -> str:
    source, axis, index = node.args[:3]
    return out.node("GatherElements", [out.name_of(source), out.name_of(index)], axis=axis)  # type: ignore[arg-type]


@_register(aten.scatter_add.default)
def _scatter_add(out: OnnxEmitter, node: fx.Node) -> str:
    source, axis, index, updates = node.args
    inputs = [out.name_of(each) for each in (source, index, updates)]  # type: ignore[arg-type]
    return out.node("ScatterElements", inputs, axis=axis, reduction="add")
