"""One export, several formats: every member in each of them, made from the same graphs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadloom_export.family import export_family
from quadloom_export.settings import FamilySettings, check_settings
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.executorch import ExecutorchTrainingEngine
from quadloom_runtime.engines.executorch_adamw import ExecutorchAdamW
from quadloom_runtime.engines.select import open_evaluation_engine, open_training_engine
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import altered_files, load_manifest
from quadloom_runtime.optimizers import AdamW

FORMATS = ("onnx", "executorch", "ort-training")
SETTINGS = FamilySettings(
    depths=(2,),
    quantized=(0, 2),
    rank=4,
    alpha=8.0,
    batch_size=8,
    sequence_length=16,
    group_size=16,
    formats=FORMATS,
    executorch_single_file=True,
)


@pytest.fixture(scope="module")
def family(make_model_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FamilyManifest]:
    folder = tmp_path_factory.mktemp("family")
    return folder, export_family(str(make_model_folder("bert", layers=2)), folder, SETTINGS)


@pytest.fixture(scope="module")
def parameters(family: tuple[Path, FamilyManifest]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {row.name: generator.normal(scale=0.05, size=row.shape).astype(np.float32) for row in family[1].parameters}


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = np.random.default_rng(1)
    ids = generator.integers(1, 40, size=(8, 16))
    mask = np.ones_like(ids)
    mask[1, 9:] = 0
    return Batch(ids, mask, np.zeros_like(ids), np.array([0, 1, 1, 0, 1, 0, 0, -100]))


def test_every_member_is_there_in_every_format_and_all_files_are_intact(family: tuple[Path, FamilyManifest]) -> None:
    folder, manifest = family
    assert [(each.key.quantized_layers, each.key.format) for each in manifest.members] == [
        (count, name) for count in (0, 2) for name in FORMATS
    ]
    assert altered_files(folder, manifest) == []
    assert load_manifest(folder) == manifest


def test_the_training_package_uses_the_weights_file_of_plain_onnx(family: tuple[Path, FamilyManifest]) -> None:
    manifest = family[1]
    assert manifest.format_spec("ort-training").weights == manifest.format_spec("onnx").weights


def test_a_device_is_told_of_every_file_that_its_member_needs(family: tuple[Path, FamilyManifest]) -> None:
    folder, manifest = family
    packaged = next(each for each in manifest.members if each.key.format == "ort-training")
    named = {blob.path for blob in manifest.files_for(packaged)}
    assert {"onnx/ort-train-d02-q00-r03.onnx", "onnx/ort-train-d02-q00-r03.checkpoint"} <= named
    assert {"onnx/ort-optimizer.onnx", "onnx/ort-eval.onnx", "onnx/weights.bin"} <= named
    assert all((folder / path).is_file() for path in named)


def test_each_format_states_its_own_error_and_its_own_peak(family: tuple[Path, FamilyManifest]) -> None:
    members = {(each.key.format, each.key.quantized_layers): each for each in family[1].members}
    for name in FORMATS:
        exact, quantized = members[name, 0], members[name, 2]
        assert 0 < exact.gradient_error.relative_l2 <= 1e-5
        assert exact.gradient_error.relative_l2 < quantized.gradient_error.relative_l2 <= 0.02
        if exact.arena_bytes is not None and quantized.arena_bytes is not None:
            # What an engine takes beside it grows with the graph, and outweighs the stash of a model so small.
            assert quantized.arena_bytes < exact.arena_bytes < exact.planned_peak_bytes
    assert members["executorch", 0].planned_peak_bytes != members["onnx", 0].planned_peak_bytes


def test_onnx_and_executorch_compute_the_same_step(
    family: tuple[Path, FamilyManifest], parameters: dict[str, np.ndarray], batch: Batch
) -> None:
    folder, manifest = family
    key = MemberKey(depth=2, quantized_layers=0, recompute_percent=3)
    found = [
        open_training_engine(folder, manifest, key.model_copy(update={"format": name})).step(parameters, batch)
        for name in ("onnx", "executorch")
    ]
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-6)
    assert (found[0].correct, found[0].examples) == (found[1].correct, found[1].examples)
    assert found[0].gradients.keys() == found[1].gradients.keys()
    for name, gradient in found[0].gradients.items():
        np.testing.assert_allclose(found[1].gradients[name], gradient, atol=1e-6)


def test_the_single_program_computes_what_its_members_compute_without_a_data_file(
    family: tuple[Path, FamilyManifest], parameters: dict[str, np.ndarray], batch: Batch
) -> None:
    folder, manifest = family
    assert manifest.single_file is not None
    for member in [each for each in manifest.members if each.key.format == "executorch"]:
        method = f"train_{member.key.stem.replace('-', '_')}"
        program = folder / manifest.single_file.path
        single = ExecutorchTrainingEngine(
            program, None, inputs=member.inputs, outputs=member.outputs, method=method, label=method
        )
        found = single.step(parameters, batch)
        expected = open_training_engine(folder, manifest, member.key).step(parameters, batch)
        assert found.loss == expected.loss
        for name, gradient in expected.gradients.items():
            np.testing.assert_array_equal(found.gradients[name], gradient)


def test_the_family_brings_an_optimizer_for_devices_without_one(family: tuple[Path, FamilyManifest]) -> None:
    folder, manifest = family
    optimizer = manifest.format_spec("executorch").optimizer
    assert optimizer is not None
    generator = np.random.default_rng(2)
    values = {row.name: generator.normal(size=row.shape).astype(np.float32) for row in manifest.parameters}
    gradients = {name: generator.normal(size=value.shape).astype(np.float32) for name, value in values.items()}
    found, expected, rates = dict(values), dict(values), dict.fromkeys(values, 0.01)
    ExecutorchAdamW(folder / optimizer.path).update(found, gradients, rates)
    AdamW().update(expected, gradients, rates)
    for name, value in expected.items():
        assert not np.array_equal(value, values[name])
        np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_evaluation_works_with_whichever_format_the_family_has(
    family: tuple[Path, FamilyManifest], parameters: dict[str, np.ndarray], batch: Batch
) -> None:
    folder, manifest = family
    losses = []
    for each in manifest.evaluation:
        alone = manifest.model_copy(update={"evaluation": (each,)})
        losses.append(open_evaluation_engine(folder, alone).evaluate(parameters, batch).loss)
    assert len(losses) == len(FORMATS)
    assert losses == pytest.approx([losses[0]] * len(losses), abs=1e-6)


def test_a_lost_companion_has_its_member_exported_again_and_no_other(make_model_folder: Any, tmp_path: Path) -> None:
    source = str(make_model_folder("bert", layers=2))
    settings = FamilySettings(
        depths=(0, 1), quantized=(0,), rank=2, batch_size=2, sequence_length=8, formats=("ort-training",)
    )
    manifest = export_family(source, tmp_path, settings)
    (tmp_path / "onnx" / "ort-train-d01-q00-r03.checkpoint").unlink()
    said: list[str] = []
    assert export_family(source, tmp_path, settings, progress=said.append) == manifest
    assert [line.partition(":")[0] for line in said if line.startswith("[")] == ["[2/2] d01-q00-r03 ort-training"]


def test_a_single_executorch_program_needs_executorch() -> None:
    with pytest.raises(QuadloomError, match="the formats are onnx"):
        check_settings(FamilySettings(executorch_single_file=True))


def test_measuring_adds_a_real_peak_and_a_step_time_to_every_member_and_is_not_repeated(
    make_model_folder: Any, tmp_path: Path
) -> None:
    source = str(make_model_folder("bert", layers=2))
    settings = FamilySettings(
        depths=(2,),
        quantized=(0,),
        rank=2,
        batch_size=8,
        sequence_length=16,
        formats=("onnx", "executorch"),
        measure=True,
    )
    manifest = export_family(source, tmp_path, settings)
    for member in manifest.members:
        assert member.measured_peak_bytes is not None
        assert member.measured_step_s is not None
        # A graph this small lives in a few pages; the engine's own buffers are a few megabytes.
        assert 0 < member.measured_peak_bytes < member.planned_peak_bytes + 16_000_000
        assert member.measured_step_s > 0
    assert load_manifest(tmp_path) == manifest
    said: list[str] = []
    assert export_family(source, tmp_path, settings, progress=said.append) == manifest
    assert not [line for line in said if "measured" in line]


@pytest.mark.parametrize("formats", [(), ("tflite",), ("onnx", "coreml")])
def test_formats_that_do_not_exist_are_refused_by_name(formats: tuple[str, ...]) -> None:
    with pytest.raises(QuadloomError, match="onnx, executorch, ort-training") as refused:
        check_settings(FamilySettings(formats=formats))  # type: ignore[arg-type]
    assert all(name in str(refused.value) for name in formats)
