"""`quadloom bench step` with real worker processes."""

from quadloom_benchmarks.series import Kind, Series
from quadloom_benchmarks.step import report_step_times


def test_beside_the_time_of_a_member_stand_its_arena_and_its_measured_memory(make_family, capsys):
    family = make_family("sequence-classification")
    members = family.manifest.members
    report_step_times([Series(Kind("onnx"), family, tuple(each.key for each in members))], rounds=1)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 2 + len(members)
    assert rows[0].split()[-3] == "1.00", "PyTorch's row has no arena: ratio, ratio, RssAnon"
    for row, member in zip(rows[2:], members, strict=True):
        assert f"onnx, {member.key.stem} " in row
        seconds, first, second, arena, peak = map(float, row.split()[-5:])
        assert min(seconds, first, second, peak) >= 0
        assert arena == round(member.arena_bytes / 1e6, 1)
