"""Exporting a family folder: complete, resumable, refusing, and readable by PEFT."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from quadloom_export import pipeline
from quadloom_export.calibration import SENTENCES
from quadloom_export.family import export_family
from quadloom_export.settings import FamilySettings
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.select import open_evaluation_engine, open_training_engine
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import altered_files, load_manifest

LAYERS = 2
SETTINGS = FamilySettings(rank=4, alpha=8.0, batch_size=8, sequence_length=16, group_size=16)
KEYS = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]


class StopMidwayError(Exception):
    """What the progress callback raises to stop an export midway."""


@pytest.fixture(scope="module")
def source(make_model_folder):
    return make_model_folder("bert", layers=LAYERS)


@pytest.fixture(scope="module")
def family(source, tmp_path_factory):
    """A complete family: its folder and its manifest. Tests must not change it."""
    folder = tmp_path_factory.mktemp("family")
    return folder, export_family(str(source), folder, SETTINGS)


def labels(members):
    return [(each.key.depth, each.key.quantized_layers) for each in members]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop_after(members):
    """A progress callback that interrupts once so many members are written."""

    def progress(line):
        if line.startswith(f"[{members}/"):
            raise StopMidwayError

    return progress


def test_a_family_holds_every_depth_and_every_number_of_quantized_layers(family):
    folder, manifest = family
    assert labels(manifest.members) == KEYS
    assert manifest.missing == ()
    assert altered_files(folder, manifest) == []
    assert load_manifest(folder) == manifest


def test_nothing_but_the_family_lies_in_the_folder(family):
    folder, manifest = family
    assert set(contents(folder)) - {"adapter/README.md"} == {"family.json", *(blob.path for blob in manifest.blobs())}


def test_unquantized_members_are_exact_and_quantized_ones_close(family):
    for member in family[1].members:
        error = member.gradient_error
        assert error.relative_l2 <= (0.02 if member.key.quantized_layers else 1e-5)
        assert error.worst_cosine >= 0.999
        assert (error.worst_tensor is None) == (member.key.depth == 0)
        assert (member.quantized_elements > 0) == (member.key.quantized_layers > 0)
        assert (member.stash_bytes_after < member.stash_bytes_before) == (member.key.quantized_layers > 0)


def test_the_stated_gradient_error_is_against_pytorch_not_against_itself(family):
    """An unquantized member differs from PyTorch by rounding, never by nothing."""
    errors = [each.gradient_error.relative_l2 for each in family[1].members if each.key.depth]
    assert all(error > 0 for error in errors)


def test_all_graphs_read_one_weights_file_and_carry_no_weights_themselves(family):
    folder, manifest = family
    for blob in [each.graph for each in (*manifest.members, *manifest.evaluation)]:
        graph = onnx.load(folder / blob.path, load_external_data=False).graph
        outside = [tensor for tensor in graph.initializer if tensor.external_data]
        places = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
        assert places == {"weights.bin"}
        inline = sum(tensor.ByteSize() for tensor in graph.initializer if not tensor.external_data)
        assert inline < 16_000
        assert blob.size_bytes < 60_000 * (LAYERS + 1), "graphs grow with layers, not with weights"


def test_weights_lie_in_the_file_once(family, source):
    """The file is at most the model's own checkpoint, the frozen copy of the head and padding to pages."""
    checkpoint = (source / "model.safetensors").stat().st_size
    tensors = len(load_file(source / "model.safetensors"))
    assert family[1].format_spec("onnx").weights.size_bytes <= checkpoint + 4096 * (tensors + 20)


def test_inputs_and_outputs_in_the_manifest_are_those_of_the_graph(family):
    folder, manifest = family
    for member in manifest.members:
        graph = onnx.load(folder / member.graph.path, load_external_data=False).graph
        assert [each.name for each in graph.input] == [each.name for each in member.inputs]
        # Behind them come the tensors that have a place in the arena.
        assert [each.name for each in graph.output][: len(member.outputs)] == [each.name for each in member.outputs]
        trained = [row.name for row in manifest.trained_parameters(member.key.depth)]
        gradients = [each.name for each in member.outputs if each.name.startswith("gradient.")]
        assert gradients == [f"gradient.{name}" for name in trained]


def test_the_model_is_traced_once_for_all_members(source, tmp_path, monkeypatch):
    calls = []
    traced = pipeline.trace_training
    monkeypatch.setattr(pipeline, "trace_training", lambda *a, **k: calls.append(1) or traced(*a, **k))
    export_family(str(source), tmp_path, replace(SETTINGS, quantized=(0,)))
    assert len(calls) == 1


def test_an_interrupted_export_says_what_is_missing_and_continues(source, tmp_path, family):
    with pytest.raises(StopMidwayError):
        export_family(str(source), tmp_path, SETTINGS, progress=stop_after(3))
    partial = load_manifest(tmp_path)
    assert labels(partial.members) == KEYS[:3]
    assert [(key.depth, key.quantized_layers) for key in partial.missing] == KEYS[3:]
    assert altered_files(tmp_path, partial) == []
    written = {each.graph.path: (tmp_path / each.graph.path).stat().st_mtime_ns for each in partial.members}
    lines = []
    export_family(str(source), tmp_path, SETTINGS, progress=lines.append)
    assert {path: (tmp_path / path).stat().st_mtime_ns for path in written} == written, "finished members were redone"
    assert sum(line.startswith("[") for line in lines) == 3
    assert contents(tmp_path) == contents(family[0])


def test_an_altered_member_is_exported_again_and_only_it(source, tmp_path, family):
    shutil.copytree(family[0], tmp_path, dirs_exist_ok=True)
    broken = tmp_path / family[1].members[2].graph.path
    broken.write_bytes(broken.read_bytes()[:-1])
    lines = []
    export_family(str(source), tmp_path, SETTINGS, progress=lines.append)
    assert next(line for line in lines if line.startswith("[")).startswith("[6/6] d01-q01-r03")
    assert sum(line.startswith("[") for line in lines) == 1
    assert contents(tmp_path) == contents(family[0])


def test_a_later_export_may_add_members(source, tmp_path):
    shallow = replace(SETTINGS, depths=(0, 1))
    export_family(str(source), tmp_path, shallow)
    manifest = export_family(str(source), tmp_path, SETTINGS)
    assert labels(manifest.members) == KEYS


@pytest.mark.parametrize("change", [{"rank": 2}, {"batch_size": 4}, {"bits": 4}, {"seed": 1}], ids=str)
def test_a_folder_with_another_family_is_refused_and_left_intact(source, tmp_path, family, change):
    shutil.copytree(family[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(QuadloomError, match="other settings or other weights") as caught:
        export_family(str(source), tmp_path, replace(SETTINGS, **change))
    assert str(tmp_path) in caught.value.cause
    assert "--out" in caught.value.remedy
    assert contents(tmp_path) == contents(family[0])


def test_another_family_is_replaced_only_when_asked_to(source, tmp_path, family):
    shutil.copytree(family[0], tmp_path, dirs_exist_ok=True)
    other = replace(SETTINGS, rank=2, quantized=(0,))
    manifest = export_family(str(source), tmp_path, other, replace=True)
    assert altered_files(tmp_path, manifest) == []
    assert set(contents(tmp_path)) - {"adapter/README.md"} == {"family.json", *(each.path for each in manifest.blobs())}
    lines = []
    assert export_family(str(source), tmp_path, other, replace=True, progress=lines.append) == manifest
    assert not [line for line in lines if line.startswith("[")], "the same family is kept"


def test_members_of_another_version_of_the_exporter_are_not_taken_over(source, tmp_path, family, monkeypatch):
    shutil.copytree(family[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("quadloom_export.family_manifest.exporter_sha256", lambda: "1" * 64)
    with pytest.raises(QuadloomError, match="another version of the exporter"):
        export_family(str(source), tmp_path, SETTINGS)


def test_a_killed_export_continues_in_another_process_with_the_same_bytes(source, tmp_path, family):
    """Sets are ordered by a hash that changes from process to process; none of it may reach the files."""
    words = [sys.executable, "-c", "from quadloom_runtime.cli import main; raise SystemExit(main())", "export"]
    words += [str(source), "--out", str(tmp_path), "--rank", "4", "--alpha", "8", "--batch-size", "8"]
    words += ["--sequence-length", "16", "--group-size", "16"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        words, env={**environment, "PYTHONHASHSEED": "1"}, stdout=subprocess.PIPE, text=True
    ) as first:
        for line in first.stdout:
            if line.startswith("[1/6]"):
                first.send_signal(signal.SIGINT)
                break
        first.communicate(timeout=60)
    assert first.returncode == 130
    assert load_manifest(tmp_path).missing
    second = subprocess.run(
        words, env={**environment, "PYTHONHASHSEED": "2"}, capture_output=True, text=True, timeout=120, check=False
    )
    assert second.returncode == 0, second.stderr
    assert "[1/6]" not in second.stdout, "the finished member was exported again"
    assert "6 members in" in second.stdout
    assert contents(tmp_path) == contents(family[0])


def test_an_adapter_loads_with_peft_and_gives_the_logits_of_the_evaluation_graph(family, source, tmp_path):
    folder, manifest = family
    generator = torch.Generator().manual_seed(0)
    adapter = load_file(folder / "adapter/adapter_model.safetensors")
    adapter = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in adapter.items()}
    (tmp_path / "adapter_config.json").write_bytes((folder / "adapter/adapter_config.json").read_bytes())
    save_file(adapter, tmp_path / "adapter_model.safetensors")

    base = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    model = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    texts = list(SENTENCES[:8])
    encoded = AutoTokenizer.from_pretrained(source)(
        texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt"
    )
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    expected = model(input_ids=ids, attention_mask=mask).logits.detach().numpy()

    batch = Batch(ids.numpy(), mask.numpy(), np.zeros_like(ids.numpy()), np.zeros(8, np.int64))
    parameters = {name: value.numpy() for name, value in adapter.items()}
    found = open_evaluation_engine(folder, manifest).evaluate(parameters, batch)
    np.testing.assert_allclose(found.logits, expected, atol=1e-4)
    assert np.ptp(expected) > 1e-2, "logits that differ, or the comparison says nothing"


def test_the_stored_tokenizer_makes_batches_that_a_member_accepts(family, source):
    from tokenizers import Tokenizer

    folder, manifest = family
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
    encoded = tokenizer.encode_batch(list(SENTENCES[:8]))
    expected = AutoTokenizer.from_pretrained(source)(
        list(SENTENCES[:8]), padding="max_length", truncation=True, max_length=16
    )
    assert [each.ids for each in encoded] == expected["input_ids"]
    assert [each.attention_mask for each in encoded] == expected["attention_mask"]
    ids, mask = (np.asarray(expected[name], np.int64) for name in ("input_ids", "attention_mask"))
    parameters = {n: v.numpy() for n, v in load_file(folder / "adapter/adapter_model.safetensors").items()}
    batch = Batch(ids, mask, np.zeros_like(ids), np.arange(8) % 2)
    result = open_training_engine(folder, manifest, manifest.members[-1].key).step(parameters, batch)
    assert result.examples == 8
    assert result.loss == pytest.approx(np.log(2), abs=0.2)


def test_chosen_bits_are_in_the_manifest_and_an_interrupted_export_keeps_them(source, tmp_path, monkeypatch):
    chosen = replace(SETTINGS, bits="auto", error_budget=0.01, depths=(1, 2))
    with pytest.raises(StopMidwayError):
        export_family(str(source), tmp_path, chosen, progress=stop_after(2))
    stash = load_manifest(tmp_path).stash
    assert stash.bits == "auto"
    assert {each.bits for each in stash.kinds} == {4, 8}
    monkeypatch.setattr("quadloom_export.family.chosen_stash", lambda *_: pytest.fail("chosen a second time"))
    manifest = export_family(str(source), tmp_path, chosen)
    assert manifest.stash == stash
    (deepest,) = [each for each in manifest.members if each.key.depth == each.key.quantized_layers == LAYERS]
    assert 0 < deepest.gradient_error.relative_l2 <= stash.error_budget * 1.001
    with pytest.raises(QuadloomError, match="other settings"):
        export_family(str(source), tmp_path, replace(chosen, depths=(1,)))
