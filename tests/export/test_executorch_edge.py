"""The edge dialect in one walk, run by the plain runtime, against PyTorch eager."""

import pytest
import torch
from torch import Tensor, nn

from quadloom_export.lowering.executorch import ArenaPlanner, assemble, save
from quadloom_export.lowering.executorch_edge import to_edge_dialect
from quadloom_runtime.engines.executorch_method import ExecutorchMethod

pytest.importorskip("executorch")


class NumbersAndViews(nn.Module):
    """Numbers on either side of what is no commutative operator, and views that the runtime does not have."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return 1 - x, x - 1, 2 + x, 3 * x, x / 4, x.unsqueeze(0) * 2


def lowered(module: nn.Module, example: Tensor) -> bytes:
    exported = torch.export.export(module, (example,), strict=False)
    return bytes(assemble({"forward": exported}, {"forward": ArenaPlanner()}, weights_tag=None).buffer)


def test_numbers_and_views_mean_the_same_to_the_runtime(tmp_path):
    x = torch.arange(6.0).reshape(2, 3)
    save(lowered(NumbersAndViews(), x), tmp_path / "a.pte")
    method = ExecutorchMethod(tmp_path / "a.pte", None, method="forward", threads=1, label="a")
    for found, expected in zip(method([x.numpy()]), NumbersAndViews()(x), strict=True):
        assert torch.equal(torch.from_numpy(found), expected)


def test_a_number_for_an_operator_that_takes_none_is_an_error_at_export():
    graph = torch.fx.Graph()
    graph.output(graph.call_function(torch.ops.aten.maximum.default, (graph.placeholder("x"), 1.0)))
    with pytest.raises(ValueError, match=r"maximum.*was given numbers for tensors"):
        to_edge_dialect(graph)
