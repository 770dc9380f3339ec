"""A family whose linear weights are INT8: its manifest, its files, and what people are told."""

import onnx
import pytest
from tests.export.test_family_export import StopMidwayError, contents, stop_after

from quadloom_export.family import export_family
from quadloom_export.settings import FamilySettings
from quadloom_runtime.cli import main
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import load_manifest

OPTIONS = {"rank": 4, "alpha": 8.0, "batch_size": 4, "sequence_length": 16, "group_size": 16}
INT8 = FamilySettings(weights="int8", depths=(0, 2), quantized=(0, 2), formats=("onnx", "executorch"), **OPTIONS)
LINEAR_BYTES = 2 * (4 * 32 * 32 + 2 * 32 * 64) * 4
"""Of the two layers' weights in float32."""
SCALE_BYTES = 2 * (4 * 32 + 64 + 32) * 4


@pytest.fixture(scope="module")
def source(make_model_folder):
    return make_model_folder("bert", layers=2)


@pytest.fixture(scope="module")
def family(source, tmp_path_factory):
    """A complete family: its folder and its manifest. Tests must not change it."""
    pytest.importorskip("executorch")
    folder = tmp_path_factory.mktemp("int8")
    return folder, export_family(str(source), folder, INT8)


def test_the_manifest_says_so_and_how_far_rounding_moves_the_gradient(family):
    folder, manifest = family
    assert manifest.weights == "int8"
    assert 0 < manifest.rounding_error.relative_l2 < 0.2
    assert 0.9 < manifest.rounding_error.worst_cosine < 1
    assert load_manifest(folder) == manifest


def test_members_are_measured_against_the_rounded_weights(family):
    for member in family[1].members:
        if member.key.quantized_layers == 0:
            assert member.gradient_error.relative_l2 <= 1e-5
        else:
            assert 1e-5 < member.gradient_error.relative_l2 < 0.02


def test_weights_shrink_by_three_fourths_of_the_linear_ones(family, source, tmp_path):
    plain = export_family(
        str(source), tmp_path, FamilySettings(depths=(2,), quantized=(0,), formats=("onnx", "executorch"), **OPTIONS)
    )
    assert (plain.weights, plain.rounding_error) == ("float32", None)
    bytes_of = {each.key.label: each.weight_bytes for each in family[1].members}
    for member in plain.members:
        assert member.weight_bytes - bytes_of[member.key.label] == LINEAR_BYTES * 3 // 4 - SCALE_BYTES
    before, after = (each.format_spec("executorch").weights.size_bytes for each in (plain, family[1]))
    assert before - after == pytest.approx(LINEAR_BYTES * 3 // 4 - SCALE_BYTES, rel=0.3), "less what alignment costs"


def test_an_onnx_member_takes_from_the_weights_file_the_bytes_that_it_states(family):
    folder, manifest = family
    for member in [each for each in manifest.members if each.key.format == "onnx"]:
        stored = onnx.load(folder / member.graph.path, load_external_data=False).graph.initializer
        fields = [{each.key: each.value for each in tensor.external_data} for tensor in stored if tensor.external_data]
        assert sum(int(each["length"]) for each in fields) == member.weight_bytes


def test_inspect_shows_the_effect(family, capsys):
    assert main(["inspect", str(family[0])]) == 0
    shown = capsys.readouterr().out
    moved = f"{100 * family[1].rounding_error.relative_l2:.2f} %"
    assert f"frozen linear weights INT8 per output channel: rounding moves the gradient by {moved}" in shown


def test_an_interrupted_export_goes_on_to_the_same_family(family, source, tmp_path):
    with pytest.raises(StopMidwayError):
        export_family(str(source), tmp_path, INT8, progress=stop_after(1))
    assert export_family(str(source), tmp_path, INT8) == family[1]
    assert contents(tmp_path) == contents(family[0])


def test_a_folder_with_float_weights_is_not_continued_with_int8_ones(source, tmp_path):
    export_family(str(source), tmp_path, FamilySettings(depths=(0,), **OPTIONS))
    with pytest.raises(QuadloomError, match="holds a family with other settings"):
        export_family(str(source), tmp_path, FamilySettings(depths=(0,), weights="int8", **OPTIONS))
