"""A model's forward in ONNX, for ONNX Runtime's own tool to differentiate.

``python -m quadloom_benchmarks.rivals.ort_forward FAMILY MODEL OUT`` does it in a process of its own.
"""

import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from quadloom_benchmarks.rivals.peft_model import batch_tensors, load_peft
from quadloom_runtime.family_folder import load_manifest

INPUTS = ("input_ids", "attention_mask")
OPSET = 16
"""The last one without LayerNormalization, whose operator the gradient builder refuses as PyTorch writes it; from the
elementary operators ONNX Runtime makes that of its own."""


def export_forward(folder: Path, model: str, out: Path) -> None:
    """Write the logits of the family's model and adapter, one row per label, to `out`."""
    manifest = load_manifest(folder)
    tuned = load_peft(folder, manifest, model, attention="eager")
    wrapped = _Logits(tuned, next_token=manifest.task.num_labels is None).eval()
    batch = batch_tensors(manifest)
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapped,
            tuple(batch[name] for name in INPUTS),
            out,
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            input_names=list(INPUTS),
            output_names=["logits"],
        )


class _Logits(nn.Module):
    """Logits as a loss wants them: of a language model, those of every token that has a next one, in one list."""

    def __init__(self, model: PeftModel, *, next_token: bool) -> None:
        super().__init__()
        self.model = model
        self._next_token = next_token

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits[:, :-1].flatten(0, 1) if self._next_token else logits


if __name__ == "__main__":
    export_forward(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
