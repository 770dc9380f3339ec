"""From a Hugging Face model to a model with LoRA whose layers, adapters and head are known by name."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn

from quadloom_runtime.contract.manifest import LayerIndex, ParameterSpec, TaskKind
from quadloom_runtime.errors import QuadloomError

PEFT_TASKS: dict[TaskKind, TaskType] = {
    "sequence-classification": TaskType.SEQ_CLS,
    "causal-lm": TaskType.CAUSAL_LM,
}

# What the same projection is called in different attention implementations.
ROLES = {
    "query": ("query", "query_proj", "q_lin", "q_proj", "q"),
    "key": ("key", "key_proj", "k_lin", "k_proj", "k"),
    "value": ("value", "value_proj", "v_lin", "v_proj", "v"),
}


@dataclass(frozen=True)
class Int8Weight:
    """A matrix of (outputs, inputs) as integers, and what to multiply each output's with."""

    values: Tensor
    scale: Tensor


@dataclass(frozen=True)
class LoraModel:
    """A model with LoRA on it.

    Attributes:
        task: what it is trained for.
        module: the PEFT model in evaluation mode (dropout off).
        layer_names: module names of the transformer layers, input side first.
        parameters: the parameter table, in the order of the graph inputs.
        trainable: initial value per row of the parameter table.
        frozen: every other parameter and buffer, by its name in `module`.
        module_names: name in `module` per row of the parameter table.
        int8_weights: by canonical name, the frozen weights that are stored as integers; `frozen` has what these stand
            for.
    """

    task: TaskKind
    module: PeftModel
    layer_names: tuple[str, ...]
    parameters: tuple[ParameterSpec, ...]
    trainable: dict[str, Tensor]
    frozen: dict[str, Tensor]
    module_names: dict[str, str]
    int8_weights: dict[str, Int8Weight] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The transformer layers, input side first."""
        return tuple(self.module.get_submodule(name) for name in self.layer_names)


def find_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the transformer layers: the list of equal modules that holds most of the model's parameters.

    Raises:
        QuadloomError: no such list.
    """

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(child) for child in module}) == 1
    ]
    if not lists or size(max(lists, key=lambda item: size(item[1]))[1]) == 0:
        raise QuadloomError(
            f"the layers of {type(model).__name__} cannot be found: it holds no nn.ModuleList of equal layers",
            remedy="use a model whose layers are modules of their own in one list (BERT, MPNet, Llama ...)",
        )
    name, layers = max(lists, key=lambda item: size(item[1]))
    return tuple(f"{name}.{index}" for index in range(len(layers)))


def find_head(model: nn.Module, task: TaskKind) -> tuple[str, ...]:
    """Names of the modules that train at every depth: those with parameters outside the base model.

    The head of a language model belongs to its pretrained weights, often to the embeddings, and stays as it is.
    """
    if task == "causal-lm":
        return ()
    base = getattr(model, "base_model_prefix", "")
    return tuple(
        name for name, child in model.named_children() if name != base and any(True for _ in child.parameters())
    )


def find_targets(model: nn.Module, layer_names: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Full names of the linear modules inside the layers that `wanted` selects.

    Args:
        wanted: last name components (``query`` and ``value`` also find their other spellings), or ``all-linear``.

    Raises:
        QuadloomError: a name that selects nothing.
    """
    linear = {
        f"{layer}.{name}": name.rsplit(".", 1)[-1]
        for layer in layer_names
        for name, module in model.get_submodule(layer).named_modules()
        if isinstance(module, nn.Linear)
    }
    if wanted == ("all-linear",):
        return tuple(linear)
    selected: list[str] = []
    for word in wanted:
        leaves = [leaf for leaf in ROLES.get(word, (word,)) if leaf in linear.values()][:1]
        if not leaves:
            raise QuadloomError(
                f"no linear module named {word!r} in the layers of {type(model).__name__}",
                remedy=f"choose --target-modules from: {', '.join(sorted(set(linear.values())))}, or all-linear",
            )
        selected += [name for name, leaf in linear.items() if leaf == leaves[0]]
    return tuple(name for name in linear if name in selected)


def add_lora(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    target_modules: tuple[str, ...] = ("query", "value"),
    seed: int = 0,
    task: TaskKind = "sequence-classification",
) -> LoraModel:
    """Put LoRA on `model` (changed in place) and describe the result.

    Raises:
        QuadloomError: layers or target modules cannot be found.
    """
    layer_names = find_layers(model)
    head = find_head(model, task)
    targets = find_targets(model, layer_names, target_modules)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT computes alpha / r, whole or not
        target_modules=list(targets),
        modules_to_save=list(head) or None,
        lora_dropout=0.0,
        task_type=PEFT_TASKS[task],
    )
    peft_model = get_peft_model(model, config).eval()
    assert isinstance(peft_model, PeftModel)
    return describe(peft_model, layer_names=tuple(f"base_model.model.{name}" for name in layer_names), task=task)


def describe(model: PeftModel, *, layer_names: tuple[str, ...], task: TaskKind) -> LoraModel:
    """Build the parameter table of a PEFT model; names are the keys of its adapter file."""
    named = dict(model.named_parameters())
    by_key = {adapter_key(name): name for name, value in named.items() if value.requires_grad}
    saved = get_peft_model_state_dict(model)
    if set(saved) != set(by_key):
        raise AssertionError(f"adapter keys differ from PEFT's: {sorted(set(saved) ^ set(by_key))}")
    rows = sorted(_table_rows(named, by_key, layer_names), key=lambda row: _table_order(row.layer))
    trainable = {row.name: named[by_key[row.name]].detach() for row in rows}
    frozen = {
        name: value.detach() for name, value in [*named.items(), *model.named_buffers()] if name not in by_key.values()
    }
    return LoraModel(task, model, layer_names, tuple(rows), trainable, frozen, by_key)


def adapter_key(module_name: str) -> str:
    """Name of a trainable parameter in PEFT's adapter file."""
    return module_name.replace(".modules_to_save.default.", ".").replace(".default.", ".")


def canonical_name(module_name: str) -> str:
    """Name of a frozen tensor in the model before LoRA was put on it."""
    return module_name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", ".")


def _table_rows(
    named: dict[str, nn.Parameter], by_key: dict[str, str], layer_names: tuple[str, ...]
) -> Iterator[ParameterSpec]:
    for key, name in by_key.items():
        shape = tuple(named[name].shape)
        layer = next((index for index, layer in enumerate(layer_names) if name.startswith(f"{layer}.")), None)
        if layer is None:
            yield ParameterSpec(name=key, shape=shape, layer="head", rank=None)
        else:
            rank = shape[0] if re.search(r"\.lora_A\.", key) else shape[1]
            yield ParameterSpec(name=key, shape=shape, layer=layer, rank=rank)


def _table_order(layer: LayerIndex) -> int:
    return 1_000_000 if layer == "head" else layer
