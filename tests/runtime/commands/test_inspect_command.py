import json
from pathlib import Path

import pytest

from quadloom_runtime.cli import main
from quadloom_runtime.contract.manifest import FamilyManifest, StashKind, StashSpec
from quadloom_runtime.family_folder import save_manifest
from quadloom_runtime.family_signature import write_signature
from quadloom_runtime.keys import create_private_key, write_public_key

Family = tuple[Path, FamilyManifest]
Capture = pytest.CaptureFixture[str]


def test_each_member_is_a_row_with_its_figures(family: Family, capsys: Capture) -> None:
    assert main(["inspect", str(family[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = "\n".join(lines[:3])
    for word in ("TinyForSequenceClassification", "tiny/model", "rank 4", "alpha 8", "batch 4 x 5", "INT8"):
        assert word in header
    size_kb = f"{family[1].members[2].graph.size_bytes / 1e3:.0f}"
    assert lines[-1].split() == [*"110%", "onnx", *["2.0", "-", "-", "2.0", "0.5", "1.230", "%", "0.99900"], size_kb]
    assert [line.split()[:2] for line in lines[-3:]] == [["0", "0"], ["1", "0"], ["1", "1"]]


def test_an_incomplete_family_is_shown_and_names_what_is_missing(incomplete_family: Family, capsys: Capture) -> None:
    assert main(["inspect", str(incomplete_family[0])]) == 0
    shown = capsys.readouterr().out
    assert "incomplete: 1 members are missing: d01-q01" in shown
    assert "quadloom export" in shown


def test_json_reads_back_as_the_manifest(family: Family, capsys: Capture) -> None:
    assert main(["inspect", str(family[0]), "--json"]) == 0
    assert FamilyManifest.model_validate_json(capsys.readouterr().out) == family[1]


def test_what_fills_a_members_peak_is_listed_with_its_share(family: Family, capsys: Capture) -> None:
    assert main(["inspect", str(family[0]), "--member", "1,1", "--memory"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "d01-q01" in lines[0]
    assert lines[2].split() == ["1.500", "75.0%", "2", "stash", "0", "gelu", "input"]
    assert lines[3].split() == ["0.500", "25.0%", "1", "transient", "head", "logits"]


def test_a_member_as_json_is_that_member(family: Family, capsys: Capture) -> None:
    assert main(["inspect", str(family[0]), "--member", "1, 0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key"] == {
        "depth": 1,
        "quantized_layers": 0,
        "recompute_percent": 0,
        "format": "onnx",
    }


def test_one_member_shows_its_hash_and_its_gradient_error(family: Family, capsys: Capture) -> None:
    assert main(["inspect", str(family[0]), "--member", "1,1"]) == 0
    shown = capsys.readouterr().out
    assert family[1].members[2].graph.sha256 in shown
    assert "1.230 %" in shown


@pytest.mark.parametrize("member", ["6,4", "1", "one,zero", "1,1,3", "1,1,0,executorch", "1,1,0,onnx,7", "1,2"])
def test_an_unknown_member_is_named_with_those_there_are(family: Family, capsys: Capture, member: str) -> None:
    assert main(["inspect", str(family[0]), "--member", member]) == 1
    shown = capsys.readouterr().err
    assert repr(member) in shown
    assert "0,0,0 1,0,0 1,1,0" in shown


def with_another_budget(family: Family, folder: Path) -> None:
    """A family of which every member but the first can also recompute 30 %; no file but the manifest."""
    manifest = family[1]
    others = [
        each.model_copy(update={"key": each.key.model_copy(update={"recompute_percent": 30})})
        for each in manifest.members[1:]
    ]
    save_manifest(folder, manifest.model_copy(update={"members": (*manifest.members, *others)}))


def test_recompute_budgets_are_a_column(family: Family, tmp_path: Path, capsys: Capture) -> None:
    with_another_budget(family, tmp_path)
    assert main(["inspect", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[-5:]] == [
        ["0", "0", "0", "%"],
        ["1", "0", "0", "%"],
        ["1", "1", "0", "%"],
        ["1", "0", "30", "%"],
        ["1", "1", "30", "%"],
    ]


def test_a_name_that_fits_several_budgets_is_refused_with_those_there_are(
    family: Family, tmp_path: Path, capsys: Capture
) -> None:
    with_another_budget(family, tmp_path)
    assert main(["inspect", str(tmp_path), "--member", "1,1"]) == 1
    shown = capsys.readouterr().err
    assert "'1,1'" in shown
    assert shown.strip().endswith("choose one of: 1,1,0 1,1,30")
    assert main(["inspect", str(tmp_path), "--member", "0,0"]) == 0
    for name, stem in (("1,1,0", "d01-q01 (onnx)"), ("1,1,30", "d01-q01-r30 (onnx)"), ("1,1,30,onnx", "d01-q01-r30 (")):
        assert main(["inspect", str(tmp_path), "--member", name]) == 0
        assert stem in capsys.readouterr().out


def test_memory_without_a_member_says_which_option_is_missing(family: Family, capsys: Capture) -> None:
    assert main(["inspect", str(family[0]), "--memory"]) == 1
    assert "--member" in capsys.readouterr().err


def test_an_intact_family_verifies(family: Family, capsys: Capture) -> None:
    assert main(["inspect", str(family[0]), "--verify"]) == 0
    assert f"{len(family[1].blobs())} files" in capsys.readouterr().out


def test_verify_names_each_altered_cut_and_missing_file(family: Family, capsys: Capture) -> None:
    folder, manifest = family
    altered, cut, gone = (folder / blob.path for blob in manifest.blobs()[:3])
    content = bytearray(altered.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    assert main(["inspect", str(folder), "--verify"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [blob.path for blob in manifest.blobs()[:3]]
    assert ["altered" in lines[0], "bytes" in lines[1], "missing" in lines[2]] == [True, True, True]


def test_a_folder_without_a_family_is_an_error_with_a_remedy(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert str(tmp_path) in shown
    assert "remedy:" in shown


def test_a_manifest_of_another_version_is_refused_with_both_versions(family: Family, capsys: Capture) -> None:
    path = family[0] / "family.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9', 1))
    assert main(["inspect", str(family[0])]) == 1
    assert "schema version 9, this program reads 1" in capsys.readouterr().err


def test_a_family_key_is_asked_to_vouch_for_the_family(family: Family, tmp_path: Path, capsys: Capture) -> None:
    folder, manifest = family
    key = create_private_key(tmp_path / "key")
    write_public_key(tmp_path / "key.pub", key.public_key())
    words = ["inspect", str(folder), "--family-key", str(tmp_path / "key.pub"), "--verify"]

    assert main(words) == 1
    assert "family.json is not signed" in capsys.readouterr().err

    write_signature(folder, key)
    assert main(words) == 0
    assert f"the manifest is signed by the key in {tmp_path / 'key.pub'}" in capsys.readouterr().out

    signature = (folder / "family.json.sig").read_bytes()
    save_manifest(folder, manifest.model_copy(update={"dropout": 0.5}))
    (folder / "family.json.sig").write_bytes(signature)
    assert main(words) == 1
    assert "family.json is not one of it by the family key" in capsys.readouterr().err


def test_chosen_bits_are_a_line_per_format(family: Family, capsys: Capture, tmp_path: Path) -> None:
    kinds = [("query permute", (0, 1, 2, 5), 4, 0.012), ("gelu", (3,), 8, 0.001), ("softmax", (0, 1), 4, 0.02)]
    stash = StashSpec(
        bits="auto",
        group_size=64,
        error_budget=0.05,
        kinds=tuple(
            StashKind(kind=kind, layers=layers, bits=bits, group_size=64, relative_l2=error)  # type: ignore[arg-type]
            for kind, layers, bits, error in kinds
        ),
    )
    save_manifest(tmp_path, family[1].model_copy(update={"stash": stash}))
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "INT8 and INT4 within 5 % gradient error" in shown
    assert "INT4 in groups of 64: query permute [0-2,5] 1.2 %; softmax [0-1] 2 %" in shown
    assert "INT8 in groups of 64: gelu [3] 0.1 %" in shown
