"""ExecuTorch's official way to a training program: its joint graph, its default memory planning.

``python -m quadloom_benchmarks.rivals.executorch_export FAMILY MODEL OUT`` does it in a process of its own.
"""

import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, fx, nn

from quadloom_benchmarks.rivals.peft_model import batch_tensors, load_peft
from quadloom_runtime.family_folder import load_manifest


def export_program(folder: Path, model: str, out: Path) -> None:
    """Write the training program of the family's model, adapter and batch shape to `out`, as upstream's examples do."""
    from executorch.exir import EdgeCompileConfig, to_edge
    from torch.export.experimental import _export_forward_backward

    manifest = load_manifest(folder)
    # The backward of PyTorch's fused attention is no core operator.
    tuned = load_peft(folder, manifest, model, attention="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package deprecates its own calls
        forward = torch.export.export(_Loss(tuned), tuple(batch_tensors(manifest).values()), strict=False)
        joint = _export_forward_backward(forward)
        _fill_empty_tensors(joint.graph)
        program = to_edge(joint, compile_config=EdgeCompileConfig(_check_ir_validity=False)).to_executorch()
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file:
        program.write_to_file(file)


def _fill_empty_tensors(graph: fx.Graph) -> None:
    """The backward of SiLU makes a tensor that it never reads, by an operator that has no kernel."""
    for node in graph.nodes:
        if node.target == torch.ops.aten.empty_permuted.default:
            node.target = torch.ops.aten.full.default
            node.args = (node.args[0], 0.0)


class _Loss(nn.Module):
    """A model whose only output is its loss."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """The loss."""
        loss: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels).loss
        return loss


if __name__ == "__main__":
    export_program(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
