"""Rules on elementwise arithmetic, each on a graph of its own: applied where it holds, and only there."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from quadloom_export.graph import SHAPE_MODES, JointGraph, propagate
from quadloom_export.passes.elementwise import (
    join_slice_gradients,
    number_before_spread,
    number_to_small_operand,
    plain_number,
    plain_power,
)
from quadloom_export.passes.simplify import apply_rules, drop_broadcast

aten = torch.ops.aten
RULES = [plain_number, plain_power, number_before_spread, number_to_small_operand, join_slice_gradients, drop_broadcast]


class Builder:
    """Builds a graph node by node on named inputs."""

    def __init__(self) -> None:
        self.graph = fx.Graph()

    def given(self, key: str, *shape: int) -> fx.Node:
        node = self.graph.placeholder(key)
        node.meta = {"phase": "forward", "layer": 0, "role": "batch", "key": key}
        node.meta |= {name: mode.from_tensor(torch.zeros(shape)) for name, mode in SHAPE_MODES.items()}
        return node

    def add(self, target, *args) -> fx.Node:
        node = self.graph.call_function(target, args)
        node.meta = {"phase": "forward", "layer": 0}
        propagate(node)
        return node

    def joint(self, result: fx.Node) -> JointGraph:
        self.graph.output((result,))
        return JointGraph(self.graph, ("y",), (), {}, layers=1, depth=0, batch_size=2)


def leaned(joint: JointGraph, inputs: dict) -> list:
    """Targets of the graph after the rules, which must have kept the function."""
    before = joint.run({}, inputs)["y"]
    apply_rules(joint.graph, RULES)
    torch.testing.assert_close(joint.run({}, inputs)["y"], before)
    return [node.target for node in joint.nodes]


def test_a_number_meets_the_small_operand_and_no_expand_remains():
    """The mean's gradient as recorded: ``(expand(s) / 4) * (2 * x)``."""
    build = Builder()
    small, x = build.given("s", 3, 1), build.given("x", 3, 4)
    spread = build.add(aten.div.Scalar, build.add(aten.expand.default, small, [-1, 4]), 4)
    joint = build.joint(build.add(aten.mul.Tensor, spread, build.add(aten.mul.Scalar, x, 2.0)))
    inputs = {"s": torch.randn(3, 1), "x": torch.randn(3, 4)}
    assert aten.expand.default not in leaned(joint, inputs)
    wide = [node for node in joint.nodes if node.meta["val"].shape == (3, 4)]
    assert len(wide) == 1


def test_a_scaled_operand_that_others_read_stays():
    build = Builder()
    small, x = build.given("s", 3, 1), build.given("x", 3, 4)
    scaled = build.add(aten.mul.Tensor, x, 2.0)
    joint = build.joint(build.add(aten.add.Tensor, build.add(aten.mul.Tensor, small, scaled), scaled))
    assert leaned(joint, {"s": torch.randn(3, 1), "x": torch.randn(3, 4)}).count(aten.mul.Tensor) == 2


@pytest.mark.parametrize(("exponent", "expected"), [(1, []), (1.0, []), (2, [aten.mul.Tensor])])
def test_small_powers_need_no_power(exponent, expected):
    build = Builder()
    joint = build.joint(build.add(aten.pow.Tensor_Scalar, build.given("x", 3, 4), exponent))
    assert leaned(joint, {"x": torch.randn(3, 4)}) == expected


def test_other_powers_stay():
    build = Builder()
    joint = build.joint(build.add(aten.pow.Tensor_Scalar, build.given("x", 3, 4), 3))
    assert leaned(joint, {"x": torch.randn(3, 4)}) == [aten.pow.Tensor_Scalar]


@settings(deadline=None)
@given(
    first_end=st.integers(1, 7), second_start=st.integers(1, 7), fill=st.sampled_from([0.0, 1.0]), swap=st.booleans()
)
def test_two_slices_over_zeros_are_joined_only_if_they_make_up_the_whole(first_end, second_start, fill, swap):
    build = Builder()
    lower, upper = build.given("a", 2, first_end), build.given("b", 2, 8 - second_start)
    base = build.add(aten.full.default, [2, 8], fill)
    parts = [
        build.add(aten.slice_scatter.default, base, lower, 1, 0, first_end),
        build.add(aten.slice_scatter.default, base, upper, 1, second_start, 2**62),
    ]
    joint = build.joint(build.add(aten.add.Tensor, *(parts[::-1] if swap else parts)))
    found = leaned(joint, {"a": torch.randn(2, first_end), "b": torch.randn(2, 8 - second_start)})
    assert (found == [aten.cat.default]) == (first_end == second_start and fill == 0.0)


def test_slices_along_different_axes_are_not_joined():
    build = Builder()
    a, b = build.given("a", 4, 8), build.given("b", 8, 4)
    base = build.add(aten.full.default, [8, 8], 0.0)
    parts = (
        build.add(aten.slice_scatter.default, base, a, 0, 0, 4),
        build.add(aten.slice_scatter.default, base, b, 1, 4, 8),
    )
    joint = build.joint(build.add(aten.add.Tensor, *parts))
    found = leaned(joint, {"a": torch.randn(4, 8), "b": torch.randn(8, 4)})
    assert aten.cat.default not in found
