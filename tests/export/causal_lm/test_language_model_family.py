"""Exporting a family of a causal language model, up to an adapter that PEFT loads."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from quadloom_export.calibration import SENTENCES
from quadloom_export.family import export_family
from quadloom_export.settings import FamilySettings
from quadloom_runtime.cli import main
from quadloom_runtime.data import Example, batches, encode
from quadloom_runtime.engines.select import open_evaluation_engine
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import altered_files, load_manifest
from quadloom_runtime.family_table import family_table

LENGTH = 16
SETTINGS = FamilySettings(
    task="causal-lm", depths=(1, 2), rank=4, alpha=8.0, batch_size=4, sequence_length=LENGTH, group_size=16
)


@pytest.fixture(scope="module")
def family(language_model_folder, tmp_path_factory):
    """A complete family, exported as a person does: its folder and its manifest."""
    folder = tmp_path_factory.mktemp("family")
    words = ["export", str(language_model_folder), "--task", "causal-lm", "--depths", "1,2", "--out", str(folder)]
    words += ["--rank", "4", "--alpha", "8", "--batch-size", "4", "--sequence-length", str(LENGTH)]
    assert main([*words, "--group-size", "16"]) == 0
    return folder, load_manifest(folder)


def test_a_family_states_its_task_and_members_are_exact_or_close(family):
    folder, manifest = family
    assert altered_files(folder, manifest) == []
    assert (manifest.task.kind, manifest.task.num_labels) == ("causal-lm", None)
    assert [each.key.label for each in manifest.members] == [
        "d01-q00-r03",
        "d01-q01-r03",
        "d02-q00-r03",
        "d02-q01-r03",
        "d02-q02-r03",
    ]
    for member in manifest.members:
        assert 0 < member.gradient_error.relative_l2 <= (0.02 if member.key.quantized_layers else 1e-5)
        labels = next(each for each in member.inputs if each.name == "labels")
        assert labels.shape == (None, LENGTH)
    assert "causal-lm; LoRA rank 4" in family_table(manifest)


def test_the_adapter_in_peft_has_the_loss_of_the_evaluation_graph_on_text(family, language_model_folder, tmp_path):
    folder, manifest = family
    generator = torch.Generator().manual_seed(0)
    adapter = load_file(folder / "adapter/adapter_model.safetensors")
    adapter = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in adapter.items()}
    (tmp_path / "adapter_config.json").write_bytes((folder / "adapter/adapter_config.json").read_bytes())
    save_file(adapter, tmp_path / "adapter_model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(language_model_folder)
    tuned = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    texts = [sentence[:length] for sentence, length in zip(SENTENCES, (12, 40, 8, 60), strict=False)]
    tokens = AutoTokenizer.from_pretrained(language_model_folder)(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    assert int((mask == 0).sum()) > 0, "some text is short"
    expected = tuned(input_ids=ids, attention_mask=mask, labels=ids.where(mask == 1, -100)).loss.item()

    examples = [Example(text, None) for text in texts]
    tokenizer = folder / "tokenizer/tokenizer.json"
    (batch,) = batches(encode(examples, tokenizer, sequence_length=LENGTH, task="causal-lm"), batch_size=4)
    parameters = {name: value.numpy() for name, value in adapter.items()}
    found = open_evaluation_engine(folder, manifest).evaluate(parameters, batch)
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.examples == int((mask[:, 1:] == 1).sum())


def test_weights_are_the_checkpoint_and_no_second_copy_of_the_embeddings(family, language_model_folder):
    checkpoint = language_model_folder / "model.safetensors"
    tensors = len(load_file(checkpoint)) + 10
    assert family[1].format_spec("onnx").weights.size_bytes <= checkpoint.stat().st_size + 4096 * tensors


def test_depth_zero_is_refused_because_nothing_would_train(language_model_folder, tmp_path):
    with pytest.raises(QuadloomError, match=r"depth 0 is outside 1\.\.3") as caught:
        export_family(str(language_model_folder), tmp_path, replace(SETTINGS, depths=(0, 1)))
    assert "1-3" in caught.value.remedy


def test_a_model_without_a_linear_vocabulary_head_is_refused_by_name(language_model_folder, tmp_path, monkeypatch):
    load = AutoModelForCausalLM.from_pretrained

    def with_two_heads(*arguments, **options):
        model = load(*arguments, **options)
        model.lm_head = torch.nn.Sequential(model.lm_head)
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", with_two_heads)
    with pytest.raises(QuadloomError, match="the head of LlamaForCausalLM is Sequential"):
        export_family(str(language_model_folder), tmp_path, SETTINGS)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all, but longer than a header is"])
def test_a_gguf_file_that_is_none_is_refused_by_its_path(tmp_path, content):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(QuadloomError, match=r"model\.gguf|'quadloom\[gguf\]'"):
        export_family(str(path), tmp_path / "family", SETTINGS)


def test_calibration_text_has_rows_of_different_lengths(family):
    """A graph that is right on full rows alone would pass otherwise."""
    from tests.export.causal_lm.conftest import random_language_model
    from tokenizers import Tokenizer

    from quadloom_export.calibration import calibrate
    from quadloom_export.model import add_lora

    tokenizer = Tokenizer.from_file(str(family[0] / "tokenizer/tokenizer.json"))
    tokenizer.enable_truncation(32)
    tokenizer.enable_padding(length=400, pad_id=0, pad_token="[PAD]")
    tokenizer.no_truncation()
    model = add_lora(random_language_model("llama"), rank=4, alpha=8.0, task="causal-lm")
    batch = calibrate(model, tokenizer, batch_size=4, num_labels=None).batch
    assert len(set(batch.attention_mask.sum(axis=1).tolist())) == 4
    np.testing.assert_array_equal(batch.labels, np.where(batch.attention_mask == 1, batch.input_ids, -100))
