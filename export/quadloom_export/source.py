"""What a family is exported from: the model with its adapter, and the tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass

from tokenizers import Tokenizer

from quadloom_export.model import LoraModel, add_lora, find_layers
from quadloom_export.pretrained import load_model
from quadloom_export.settings import FamilySettings, check_sequence_length
from quadloom_export.tokenizer import load_tokenizer
from quadloom_export.weight_only import with_int8_weights
from quadloom_runtime.contract.manifest import ModelSpec

Progress = Callable[[str], None]
"""Takes a line for whoever watches."""


@dataclass(frozen=True)
class Source:
    """A loaded model.

    Attributes:
        model: with adapter and head, as it is traced.
        unrounded: the same before its weights were rounded to INT8; `model` itself if they are not.
        description: for the manifest.
    """

    model: LoraModel
    unrounded: LoraModel
    tokenizer: Tokenizer
    description: ModelSpec

    @property
    def rounded(self) -> bool:
        """Whether the frozen weights are not those that were loaded."""
        return self.model is not self.unrounded


def load_source(source: str, settings: FamilySettings, progress: Progress) -> Source:
    """Load a hub id or folder, and add the adapter of the settings.

    Raises:
        QuadloomError: it cannot be loaded, or the settings do not fit it.
    """
    progress(f"loading {source}")
    base = load_model(source, settings.task_spec, seed=settings.seed)
    check_sequence_length(base, settings.sequence_length)
    tokenizer = load_tokenizer(source, sequence_length=settings.sequence_length)
    description = ModelSpec(
        source=source,
        architecture=type(base).__name__,
        layers=len(find_layers(base)),
        parameters=sum(value.numel() for value in base.parameters()),
    )
    model = add_lora(
        base,
        rank=settings.rank,
        alpha=settings.alpha,
        target_modules=settings.target_modules,
        seed=settings.seed,
        task=settings.task,
    )
    return Source(with_int8_weights(model) if settings.weights == "int8" else model, model, tokenizer, description)
