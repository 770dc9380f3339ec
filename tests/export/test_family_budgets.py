"""One family, several recompute budgets: exact members that keep less and repeat more."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadloom_export import members
from quadloom_export.family import export_family
from quadloom_export.settings import FamilySettings
from quadloom_export.stash_choice import judged_at
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey, MemberSpec
from quadloom_runtime.engines.engine import Batch, StepResult
from quadloom_runtime.engines.executorch import ExecutorchTrainingEngine
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import altered_files, load_manifest
from quadloom_runtime.measurement import measure_member

SETTINGS = FamilySettings(
    depths=(0, 2),
    quantized=(0, 2),
    recompute=(0.03, 0.3),
    rank=4,
    alpha=8.0,
    batch_size=8,
    sequence_length=16,
    group_size=16,
    formats=("onnx", "executorch"),
    executorch_single_file=True,
)
STEMS = ["d00-q00", "d02-q00-r03", "d02-q02-r03", "d02-q00-r30", "d02-q02-r30"]
ONNX = replace(SETTINGS, formats=("onnx",), executorch_single_file=False)


class StopMidwayError(Exception):
    """What the progress callback raises to stop an export midway."""


@pytest.fixture(scope="module")
def source(make_model_folder: Any) -> str:
    return str(make_model_folder("bert", layers=2))


@pytest.fixture(scope="module")
def family(source: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FamilyManifest]:
    folder = tmp_path_factory.mktemp("family")
    return folder, export_family(source, folder, SETTINGS)


def step(family: tuple[Path, FamilyManifest], key: MemberKey) -> StepResult:
    folder, manifest = family
    return open_training_engine(folder, manifest, key).step(parameters(family), batch())


def parameters(family: tuple[Path, FamilyManifest]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {row.name: generator.normal(scale=0.05, size=row.shape).astype(np.float32) for row in family[1].parameters}


def batch() -> Batch:
    ids = np.random.default_rng(1).integers(1, 40, size=(8, 16))
    return Batch(ids, np.ones_like(ids), np.zeros_like(ids), np.arange(8) % 2)


def test_every_budget_has_its_members_and_files_and_the_head_alone_one(family: tuple[Path, FamilyManifest]) -> None:
    folder, manifest = family
    for name, ending in (("onnx", "onnx"), ("executorch", "pte")):
        found = [each for each in manifest.members if each.key.format == name]
        assert [each.key.stem for each in found] == STEMS
        assert [each.graph.path for each in found] == [f"{name}/train-{stem}.{ending}" for stem in STEMS]
    assert altered_files(folder, manifest) == []
    assert load_manifest(folder) == manifest


def test_a_larger_budget_repeats_more_and_keeps_less(family: tuple[Path, FamilyManifest]) -> None:
    by_name = {each.key.label: each for each in family[1].members}
    lean, leaner = by_name["d02-q00-r03"], by_name["d02-q00-r30"]
    assert lean.backward_operations < leaner.backward_operations
    assert leaner.backward_operations - lean.backward_operations <= 0.3 * lean.forward_operations
    assert leaner.stash_bytes_before < lean.stash_bytes_before
    assert by_name["d02-q02-r30"].stash_bytes_before == leaner.stash_bytes_before


def test_members_of_every_budget_have_the_gradients_of_pytorch(family: tuple[Path, FamilyManifest]) -> None:
    """The manifest's error is against PyTorch eager; the members agree with one another at other parameters, too."""
    for member in family[1].members:
        exact = member.key.quantized_layers == 0
        assert member.gradient_error.relative_l2 <= (1e-5 if exact else 0.02)
        expected = step(family, MemberKey(depth=member.key.depth, quantized_layers=0, recompute_percent=least(member)))
        found = step(family, member.key)
        assert found.loss == pytest.approx(expected.loss, abs=1e-5)
        for name, gradient in expected.gradients.items():
            difference = np.linalg.norm(found.gradients[name] - gradient) / np.linalg.norm(gradient)
            assert difference <= (1e-4 if exact else 0.1), (member.key.label, name)


def least(member: MemberSpec) -> int:
    return 3 if member.key.depth else 0


def test_the_single_program_has_a_method_for_every_budget(family: tuple[Path, FamilyManifest]) -> None:
    folder, manifest = family
    assert manifest.single_file is not None
    for member in [each for each in manifest.members if each.key.format == "executorch" and each.key.depth]:
        method = f"train_d02_q0{member.key.quantized_layers}_r{member.key.recompute_percent:02d}"
        program = folder / manifest.single_file.path
        engine = ExecutorchTrainingEngine(
            program, None, inputs=member.inputs, outputs=member.outputs, method=method, label=method
        )
        found, expected = engine.step(parameters(family), batch()), step(family, member.key)
        assert found.loss == expected.loss
        for name, gradient in expected.gradients.items():
            np.testing.assert_array_equal(found.gradients[name], gradient)


def test_a_member_of_a_budget_can_be_measured(family: tuple[Path, FamilyManifest]) -> None:
    found = measure_member(family[0], MemberKey(depth=2, quantized_layers=2, recompute_percent=30))
    assert found.peak_bytes > 0


def test_an_interrupted_export_continues_with_the_same_files_and_recomputes_once_per_depth_and_budget(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, float]] = []
    at_depth = members.at_depth

    def counted(full: Any, depth: int, *, recompute: float) -> Any:
        shapes.append((depth, recompute))
        return at_depth(full, depth, recompute=recompute)

    monkeypatch.setattr(members, "at_depth", counted)
    whole = export_family(source, tmp_path / "whole", ONNX)
    assert shapes == [(0, 0.0), (2, 0.03), (2, 0.3)]

    def stop(line: str) -> None:
        if line.startswith("[4/"):
            raise StopMidwayError

    with pytest.raises(StopMidwayError):
        export_family(source, tmp_path / "parts", ONNX, progress=stop)
    partial = load_manifest(tmp_path / "parts")
    assert [key.stem for key in partial.missing] == STEMS[4:]
    shapes.clear()
    assert export_family(source, tmp_path / "parts", replace(ONNX, recompute=(0.3, 0.03))) == whole
    assert shapes == [(2, 0.3)]


def test_a_later_export_may_add_a_budget(source: str, tmp_path: Path) -> None:
    export_family(source, tmp_path, replace(ONNX, recompute=(0.3,), quantized=(0,)))
    lines: list[str] = []
    manifest = export_family(source, tmp_path, replace(ONNX, quantized=(0,)), progress=lines.append)
    assert [each.key.stem for each in manifest.members] == ["d00-q00", "d02-q00-r03", "d02-q00-r30"]
    assert [line.partition(":")[0] for line in lines if line.startswith("[")] == ["[3/3] d02-q00-r03"]


def test_bits_are_chosen_where_least_is_recomputed_and_another_place_is_another_family(
    source: str, tmp_path: Path
) -> None:
    keys = [MemberKey(depth=2, quantized_layers=1, recompute_percent=percent) for percent in (30, 3)]
    assert judged_at([MemberKey(depth=0, quantized_layers=0), *keys]) == (2, 3, 1)
    chosen = replace(ONNX, bits="auto", depths=(2,), quantized=(2,), recompute=(0.3,))
    export_family(source, tmp_path, chosen)
    with pytest.raises(QuadloomError, match="other settings"):
        export_family(source, tmp_path, replace(chosen, recompute=(0.03, 0.3)))
