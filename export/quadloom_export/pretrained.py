"""Load a model as PyTorch runs it: float32, attention in plain operators, dropout off."""

import struct
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quadloom_runtime.contract.manifest import TaskSpec
from quadloom_runtime.errors import MissingExtraError, QuadloomError

GGUF_SUFFIX = ".gguf"


def load_model(source: str, task: TaskSpec, *, seed: int = 0) -> nn.Module:
    """Load the model of a task from a hub id, a folder, or the ``.gguf`` file of a language model.

    Raises:
        QuadloomError: nothing there that transformers can load.
    """
    if task.num_labels is None:
        return load_language_model(source)
    return load_classifier(source, num_labels=task.num_labels, seed=seed)


def load_classifier(source: str, *, num_labels: int, seed: int = 0) -> nn.Module:
    """Load a sequence classifier from a hub id or a folder; a head that the checkpoint lacks is drawn from `seed`.

    Raises:
        QuadloomError: nothing there that transformers can load.
    """
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    return _load(AutoModelForSequenceClassification, source, "sequence-classification model", num_labels=num_labels)


def load_language_model(source: str) -> nn.Module:
    """Load a causal language model from a hub id, a folder or a ``.gguf`` file, which is dequantized.

    Raises:
        QuadloomError: nothing there that transformers can load.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, source, "causal language model")


def source_arguments(source: str) -> dict[str, str]:
    """How ``from_pretrained`` wants to be told of `source`: a file of weights is named beside its folder."""
    if source.endswith(GGUF_SUFFIX):
        path = Path(source)
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    return {"pretrained_model_name_or_path": source}


def _load(kind: Any, source: str, what: str, **options: Any) -> nn.Module:
    try:
        model: nn.Module = kind.from_pretrained(
            **source_arguments(source), attn_implementation="eager", dtype=torch.float32, **options
        )
    except ImportError as error:
        if "gguf" not in str(error):
            raise
        raise MissingExtraError(package="gguf", extra="gguf") from None
    except (OSError, ValueError, KeyError, struct.error) as error:
        place = "folder" if Path(source).exists() else "hub id or folder"
        raise QuadloomError(
            f"cannot load a {what} from the {place} {source!r}: {str(error).splitlines()[0]}",
            remedy="name a folder with config.json and weights, a hub id that this machine can reach, or a .gguf file",
        ) from error
    return model.eval()
