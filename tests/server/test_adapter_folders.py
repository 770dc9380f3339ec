"""Round adapters are PEFT folders: a real PEFT model loads them and holds exactly the written tensors."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.errors import QuadloomError
from quadloom_server.adapters import AdapterFolders
from quadloom_server.family import ServedFamily, open_family
from quadloom_server.store.database import open_database


def folders(state: Path, family: ServedFamily) -> AdapterFolders:
    state.mkdir()
    return AdapterFolders(state, family, open_database(f"sqlite:///{state / 'server.db'}"))


def test_a_written_round_loads_with_peft_and_holds_the_same_tensors(
    tmp_path: Path, write_family: Callable[..., Path]
) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, num_labels=2
    )
    lora = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=["query", "value"])
    peft.get_peft_model(BertForSequenceClassification(config), lora).save_pretrained(tmp_path / "seed")
    seed = load_file(tmp_path / "seed/adapter_model.safetensors")
    table = tuple(
        ParameterSpec(name=name, shape=value.shape, layer="head", rank=None) for name, value in sorted(seed.items())
    )
    settings = json.loads((tmp_path / "seed/adapter_config.json").read_text())
    family = open_family(write_family(tmp_path / "family", parameters=table, adapter_config=settings))

    adapters = folders(tmp_path / "state", family)
    random = np.random.default_rng(1)
    written = {row.name: random.standard_normal(row.shape).astype(np.float32) for row in table}
    adapters.write(3, written)

    base = BertForSequenceClassification(config)
    model = peft.PeftModel.from_pretrained(base, str(tmp_path / "state/adapters/round-0003"))
    loaded = peft.get_peft_model_state_dict(model)
    assert loaded.keys() == written.keys()
    for name, value in written.items():
        torch.testing.assert_close(loaded[name], torch.from_numpy(value), rtol=0, atol=0)


def test_the_initial_adapter_keeps_its_hash_and_reading_gives_what_was_written(
    tmp_path: Path, family: ServedFamily
) -> None:
    adapters = folders(tmp_path / "state", family)
    adapters.write_initial()
    assert adapters.reference(0).sha256 == family.initial_adapter.sha256
    changed = {name: value + 1 for name, value in adapters.read(0).items()}
    reference = adapters.write(1, changed)
    assert reference == adapters.reference(1)
    for name, value in adapters.read(1).items():
        np.testing.assert_array_equal(value, changed[name])


def test_latest_follows_the_round_it_is_pointed_at(tmp_path: Path, family: ServedFamily) -> None:
    adapters = folders(tmp_path / "state", family)
    adapters.write_initial()
    latest = tmp_path / "state/adapters/latest"
    for number in (1, 2):
        adapters.write(number, {name: value + number for name, value in adapters.read(0).items()})
        adapters.point_latest(number)
        assert latest.resolve().name == f"round-{number:04d}"
        assert (latest / "adapter_config.json").is_file()
    assert sorted(path.name for path in latest.parent.iterdir()) == ["latest", "round-0000", "round-0001", "round-0002"]


def test_writing_a_round_again_replaces_it(tmp_path: Path, family: ServedFamily) -> None:
    adapters = folders(tmp_path / "state", family)
    adapters.write_initial()
    initial = adapters.read(0)
    first = adapters.write(1, {name: value + 1 for name, value in initial.items()})
    second = adapters.write(1, {name: value + 2 for name, value in initial.items()})
    assert first.sha256 != second.sha256
    assert adapters.reference(1) == second


def test_an_adapter_that_lost_its_tensors_is_refused_by_name(tmp_path: Path, family: ServedFamily) -> None:
    adapters = folders(tmp_path / "state", family)
    adapters.write_initial()
    parameters = adapters.read(0)
    del parameters["base_model.model.classifier.bias"]
    adapters.write(1, parameters)
    with pytest.raises(QuadloomError, match=r"classifier\.bias.*absent in the file"):
        adapters.read(1)
