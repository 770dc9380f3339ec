"""Which rivals take part."""

from pathlib import Path

from quadloom_benchmarks.families import BenchmarkFamily
from quadloom_benchmarks.rivals import contenders
from quadloom_benchmarks.rivals.contenders import CHECKPOINTING, KEPT, ORT, RETURNED, rival_contenders

NOWHERE = BenchmarkFamily(Path("no-family"), None, "no-model")  # type: ignore[arg-type]


def test_a_rival_without_its_package_is_named_and_left_out(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(contenders, "installed_formats", tuple)
    found = rival_contenders(NOWHERE, work=tmp_path, ort_training_python=None)
    assert [(each.method, each.variant) for each in found] == [(CHECKPOINTING, KEPT), (CHECKPOINTING, RETURNED)]
    said = capsys.readouterr().out
    assert "quadloom[executorch]" in said
    assert "--ort-training-python" in said


def test_a_rival_whose_tools_fail_is_left_out_with_their_reason(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(contenders, "installed_formats", tuple)
    found = rival_contenders(NOWHERE, work=tmp_path, ort_training_python=Path("/bin/false"))
    assert ORT not in {each.method for each in found}
    assert "no-family" in capsys.readouterr().out
