"""The family that a benchmark measures: an exported one, or the 12-layer MiniLM shape with random weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from quadloom_runtime.contract.manifest import ExecutorchBackend, FamilyManifest, Format
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import MANIFEST_NAME, load_manifest
from quadloom_runtime.member_names import MemberName, parse_member_name

VOCABULARY = 30522
Bits = int | Literal["auto"]
"""Of a stash, as in `FamilySettings`."""


@dataclass(frozen=True)
class BenchmarkFamily:
    """A family folder, its manifest, and the model that it was exported from."""

    folder: Path
    manifest: FamilyManifest
    model: str

    @classmethod
    def load(cls, folder: Path) -> "BenchmarkFamily":
        """An exported family whose model still lies where it was exported from."""
        manifest = load_manifest(folder)
        return cls(folder, manifest, manifest.model.source)

    @property
    def shape(self) -> str:
        """What a step's memory and time depend on, for headings."""
        batch, names = self.manifest.batch, self.manifest.lora.target_modules
        targets = sorted({name.rsplit(".", 1)[-1] for name in names})
        return (
            f"batch {batch.batch_size}, sequence {batch.sequence_length}, {self.manifest.model.layers} layers, "
            f"LoRA on {', '.join(targets)}"
        )


def parts(batch_size: int, accumulation: int) -> str:
    """Name of a step that is made in several batches: ``2 x 8``."""
    return f"{accumulation} x {batch_size}"


def parse_members(text: str) -> tuple[MemberName, ...]:
    """``"12,0 12,12,30"`` -> member names.

    Raises:
        QuadloomError: not a list of depth,quantized layers, each with or without a recompute percent.
    """
    try:
        names = tuple(parse_member_name(word) for word in text.split())
        if any(name.format is not None for name in names):
            raise ValueError("formats are those of --formats")
        return names
    except ValueError as error:
        raise QuadloomError(f"--members {text!r}: {error}", remedy='write e.g. --members "12,0 12,12,30"') from None


def export_random_family(
    *,
    work: Path,
    layers: int,
    batch_size: int,
    sequence_length: int,
    target_modules: tuple[str, ...],
    members: tuple[MemberName, ...],
    member_format: Format,
    executorch_backend: ExecutorchBackend | None,
    recompute: float,
    bits: Bits,
    error_budget: float | None,
) -> BenchmarkFamily:
    """Export (once) a random model of MiniLM's shape into `work`, in one format and at one recompute share.

    Args:
        error_budget: of chosen bits; None for the usual one.
    """
    from quadloom_export.family import export_family
    from quadloom_export.provenance import exporter_sha256
    from quadloom_export.settings import FamilySettings

    name = f"minilm-{layers}-layers-batch-{batch_size}-length-{sequence_length}"
    model = work / name / "model"
    if not (model / "config.json").exists():
        write_random_model(model, layers=layers)
    settings = FamilySettings(
        depths=tuple(sorted({name.depth for name in members})),
        quantized=tuple(sorted({name.quantized_layers for name in members})),
        formats=(member_format,),
        executorch_backend=executorch_backend or "xnnpack",
        batch_size=batch_size,
        sequence_length=sequence_length,
        target_modules=target_modules,
        recompute=(recompute,),
        bits=bits,
        error_budget=error_budget,
    )
    point = f"recompute-{recompute:g}" if recompute else None
    stash = None if bits == 8 else f"bits-{bits}" if error_budget is None else f"bits-{bits}-{error_budget:g}"
    label = "-".join(f"{name.depth}.{name.quantized_layers}" for name in members)
    words = ("family", member_format, executorch_backend, *target_modules, point, stash, label)
    out = work / name / "-".join(filter(None, words))
    # The folder's name says all settings: what the same code made there need not be made again.
    if (out / MANIFEST_NAME).exists():
        earlier = load_manifest(out)
        if earlier.exporter_sha256 == exporter_sha256() and not earlier.missing:
            return BenchmarkFamily(out, earlier, str(model))
    manifest = export_family(str(model), out, settings, replace=True)
    return BenchmarkFamily(out, manifest, str(model))


def write_random_model(folder: Path, *, layers: int) -> None:
    """A BERT of MiniLM's shape (hidden 384, 12 heads, intermediate 1536) with random weights and a toy tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    letters = [chr(code) for code in range(33, 127)]
    words = ["[PAD]", "[UNK]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # The constructor is untyped in transformers.
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)


def random_batch(manifest: FamilyManifest, *, seed: int = 0) -> Batch:
    """A full batch of random tokens."""
    generator = np.random.default_rng(seed)
    shape = (manifest.batch.batch_size, manifest.batch.sequence_length)
    ids = generator.integers(1, 1000, shape)
    classes = manifest.task.num_labels
    labels = ids if classes is None else generator.integers(0, classes, shape[0])
    return Batch(ids, np.ones_like(ids), np.zeros_like(ids), labels)
