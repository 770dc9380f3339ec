"""Which formats a benchmark compares."""

import argparse
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from quadloom_benchmarks import series
from quadloom_benchmarks.export_elsewhere import export_elsewhere
from quadloom_benchmarks.families import BenchmarkFamily, parse_members
from quadloom_benchmarks.series import KINDS, Kind, open_series, parse_accumulations, parse_kinds, parse_shares
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.errors import QuadloomError

ARGUMENTS = argparse.Namespace(
    family=None,
    formats="all",
    members="2,0 2,2",
    work=Path("work"),
    layers=2,
    batch_size=4,
    sequence_length=8,
    target_modules="query,value",
    recompute="0",
    bits="8",
    accumulation="1",
    error_budget=0.02,
    ort_training_python=None,
)


def test_all_means_every_format_and_executorch_once_per_backend():
    assert [kind.name for kind in parse_kinds("all")] == [
        "onnx",
        "executorch portable",
        "executorch xnnpack",
        "ort-training",
    ]
    assert parse_kinds("executorch,onnx") == KINDS[:3]


def test_an_unknown_format_is_refused_by_name():
    with pytest.raises(QuadloomError, match="onx"):
        parse_kinds("onx")


def manifest_of(percent: int = 0) -> FamilyManifest:
    """As much of a manifest as series read: members of depth 2 in every format."""
    keys = [
        MemberKey(depth=2, quantized_layers=count, recompute_percent=percent, format=kind.format)
        for count in (0, 2)
        for kind in KINDS
    ]
    return SimpleNamespace(members=[SimpleNamespace(key=key) for key in keys])  # type: ignore[return-value]


def test_a_format_that_cannot_run_here_is_named_and_left_out(monkeypatch, capsys):
    exported: list[Kind] = []

    def export(**settings) -> BenchmarkFamily:
        exported.append(Kind(settings["member_format"], settings["executorch_backend"]))
        return BenchmarkFamily(Path("family"), manifest_of(), "model")

    monkeypatch.setattr(series, "export_random_family", export)
    monkeypatch.setattr(series, "installed_formats", lambda: ("executorch",))
    compared = open_series(ARGUMENTS)
    assert exported == [Kind("executorch", "portable"), Kind("executorch", "xnnpack")]
    assert [(each.name, key.stem) for each in compared for key in each.keys] == [
        ("executorch portable", "d02-q00"),
        ("executorch portable", "d02-q02"),
        ("executorch xnnpack", "d02-q00"),
        ("executorch xnnpack", "d02-q02"),
    ]
    assert all(key.format == "executorch" for each in compared for key in each.keys)
    assert capsys.readouterr().out.splitlines() == [
        "onnx: not measured, quadloom[onnx] is not installed here",
        "ort-training: not measured, quadloom[ort-training] is not installed here",
    ]


def test_members_of_onnxruntime_training_are_exported_and_run_by_the_interpreter_that_has_it(monkeypatch):
    def export(python, **settings) -> BenchmarkFamily:
        assert settings["member_format"] == "ort-training"
        return BenchmarkFamily(Path(python).parent, manifest_of(), "model")

    monkeypatch.setattr(series, "export_elsewhere", export)
    monkeypatch.setattr(series, "installed_formats", lambda: ("onnx",))
    other = {"formats": "ort-training", "ort_training_python": Path("other/python")}
    (compared,) = open_series(argparse.Namespace(**(vars(ARGUMENTS) | other)))
    assert (compared.python, compared.family.folder) == ("other/python", Path("other"))
    assert {key.format for key in compared.keys} == {"ort-training"}


def test_another_interpreter_exports_the_same_family_or_says_why_not(tmp_path):
    asked = {
        "work": tmp_path,
        "layers": 1,
        "batch_size": 2,
        "sequence_length": 8,
        "target_modules": ("query",),
        "members": parse_members("1,1"),
        "member_format": "onnx",
        "executorch_backend": None,
        "recompute": 0.0,
        "bits": 8,
        "error_budget": None,
    }
    family = export_elsewhere(Path(sys.executable), **asked)
    assert [each.key.stem for each in family.manifest.members] == ["d01-q01"]
    assert family.manifest.batch.sequence_length == 8
    assert family.folder.is_relative_to(tmp_path)
    with pytest.raises(QuadloomError, match="3 bits per stash element") as caught:
        export_elsewhere(Path(sys.executable), **(asked | {"bits": 3}))
    assert "ort-training" in caught.value.remedy


def test_every_recompute_share_is_a_series_and_only_none_is_plain(monkeypatch):
    exported: list[float] = []

    def export(**settings) -> BenchmarkFamily:
        exported.append(settings["recompute"])
        return BenchmarkFamily(Path("family"), manifest_of(round(100 * settings["recompute"])), "model")

    monkeypatch.setattr(series, "export_random_family", export)
    monkeypatch.setattr(series, "installed_formats", lambda: ("onnx",))
    arguments = argparse.Namespace(**(vars(ARGUMENTS) | {"recompute": "0.03,0"}))
    compared = open_series(arguments)
    assert exported == [0.03, 0.0]
    assert [(each.name, each.plain) for each in compared] == [("onnx", False), ("onnx", True)]
    assert [key.stem for each in compared for key in each.keys] == ["d02-q00-r03", "d02-q02-r03", "d02-q00", "d02-q02"]

    chosen = argparse.Namespace(**(vars(arguments) | {"members": "2,0,0 2,2,3"}))
    assert [key.stem for each in open_series(chosen) for key in each.keys] == ["d02-q02-r03", "d02-q00"]
    absent = argparse.Namespace(**(vars(arguments) | {"members": "2,0 2,2,30"}))
    with pytest.raises(QuadloomError, match=r"2,2,30, but --recompute is 0\.03,0"):
        open_series(absent)


def test_every_width_of_the_stash_is_a_series_and_the_error_budget_belongs_to_auto(monkeypatch):
    exported: list[tuple[object, ...]] = []

    def export(**settings) -> BenchmarkFamily:
        exported.append((settings["recompute"], settings["bits"], settings["error_budget"]))
        return BenchmarkFamily(Path("family"), manifest_of(round(100 * settings["recompute"])), "model")

    monkeypatch.setattr(series, "export_random_family", export)
    monkeypatch.setattr(series, "installed_formats", lambda: ("onnx",))
    compared = open_series(argparse.Namespace(**(vars(ARGUMENTS) | {"recompute": "0,0.3", "bits": "8,auto"})))
    assert exported == [(0.0, 8, None), (0.0, "auto", 0.02), (0.3, 8, None), (0.3, "auto", 0.02)]
    assert [each.name for each in compared] == ["onnx", "onnx, bits auto"] * 2
    assert [each.plain for each in compared] == [True, False, False, False]
    with pytest.raises(QuadloomError, match="--bits '16'") as caught:
        open_series(argparse.Namespace(**(vars(ARGUMENTS) | {"bits": "16"})))
    assert "8,auto" in caught.value.remedy


@pytest.mark.parametrize("text", ["2", "2,x", "2,3", "2,0,101", "2,0,onnx", "2,0,3,onnx"])
def test_a_member_is_named_by_two_or_three_numbers(text):
    with pytest.raises(QuadloomError, match="--members"):
        parse_members(text)


@pytest.mark.parametrize("text", ["", "a", "0;1", "2", "-0.1", "nan"])
def test_a_recompute_share_is_from_0_to_1(text):
    with pytest.raises(QuadloomError, match="--recompute"):
        parse_shares(text)


def test_exported_families_are_series_named_by_their_folders_and_must_be_of_one_model(make_family):
    folder = make_family("sequence-classification").folder
    named = {"formats": "onnx", "members": "2,0"}
    twice = argparse.Namespace(**(vars(ARGUMENTS) | named | {"family": [folder, folder]}))
    assert [(each.name, each.plain) for each in open_series(twice)] == [("onnx, family", True), ("onnx, family", False)]
    other = make_family("causal-lm").folder
    mixed = argparse.Namespace(**(vars(ARGUMENTS) | named | {"family": [folder, other]}))
    with pytest.raises(QuadloomError, match="differ in model"):
        open_series(mixed)


def test_of_several_families_each_may_have_some_of_the_members(make_family, tmp_path):
    whole = make_family("sequence-classification").folder
    plain = tmp_path / "plain"
    shutil.copytree(whole, plain)
    manifest = json.loads((plain / "family.json").read_text())
    manifest["members"] = [each for each in manifest["members"] if each["key"]["quantized_layers"] == 0]
    (plain / "family.json").write_text(json.dumps(manifest))

    def stems(members: str, *families: Path) -> list[list[str]]:
        named = {"formats": "onnx", "members": members, "family": list(families)}
        return [
            [key.stem for key in each.keys] for each in open_series(argparse.Namespace(**(vars(ARGUMENTS) | named)))
        ]

    assert [len(each) for each in stems("2,0 2,2", plain, whole)] == [1, 2]
    assert [len(each) for each in stems("2,2", plain, whole)] == [1]
    with pytest.raises(QuadloomError, match="has no member '2,2"):
        stems("2,0 2,2", plain)


def test_without_any_engine_there_is_nothing_to_measure(monkeypatch):
    monkeypatch.setattr(series, "installed_formats", tuple)
    with pytest.raises(QuadloomError, match="nothing to measure"):
        open_series(ARGUMENTS)


def test_a_step_in_several_batches_has_families_of_the_smaller_batch(monkeypatch):
    sizes: list[int] = []

    def export(**settings) -> BenchmarkFamily:
        sizes.append(settings["batch_size"])
        return BenchmarkFamily(Path("family"), manifest_of(), "model")

    monkeypatch.setattr(series, "export_random_family", export)
    monkeypatch.setattr(series, "installed_formats", lambda: ("onnx",))
    compared = open_series(argparse.Namespace(**(vars(ARGUMENTS) | {"formats": "onnx", "accumulation": "1,2,4"})))
    assert sizes == [4, 2, 1]
    assert [(each.name, each.accumulation, each.plain) for each in compared] == [
        ("onnx", 1, True),
        ("onnx, 2 x 2", 2, False),
        ("onnx, 4 x 1", 4, False),
    ]


@pytest.mark.parametrize("text", ["", "two", "2", "2,1", "1,3", "1,0", "1,-2"])
def test_an_accumulation_that_does_not_divide_the_batch_or_lacks_the_whole_is_refused(text):
    with pytest.raises(QuadloomError, match="--accumulation"):
        parse_accumulations(text, batch_size=4)


def test_given_families_are_not_silently_trained_whole_where_several_batches_are_asked_for():
    given = argparse.Namespace(**(vars(ARGUMENTS) | {"family": [Path("family")], "accumulation": "1,2"}))
    with pytest.raises(QuadloomError, match="--accumulation 1,2 with --family"):
        open_series(given)
