"""`quadloom plan` on a tiny family and a fleet file."""

import argparse
from pathlib import Path

import pytest

from quadloom_runtime.errors import QuadloomError
from quadloom_server.commands import plan

FLEET = """
[task]
family = "elsewhere"
planner = "deadline"
max_steps = 7

[data]
train = "train.jsonl"
eval = "eval.jsonl"

[[device]]
profile = "phone-low"
name = "tiny"
memory_limit = "{tiny}"

[[device]]
profile = "raspberry-pi-4"
count = 2
slowdown = 3.0
link_mbps = 16
"""


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET.format(tiny="1MB"))
    return path


def run(family: Path, fleet: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    plan.add_arguments(parser)
    return plan.run(parser.parse_args(["--family", str(family), "--fleet", str(fleet), *words]))


def test_the_table_has_every_device_its_member_and_why(
    family_folder: Path, fleet_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(family_folder, fleet_file) == 0
    title, _, tiny, first, second, summary = capsys.readouterr().out.splitlines()
    assert title == "planner deadline, 7 steps"
    assert tiny.split()[:4] == ["tiny-1", "1.0", "MB", "-"]
    assert "nothing fits" in tiny
    assert first.split()[3:] == second.split()[3:]
    assert "d02-q00" in first
    assert summary.startswith("2 of 3 devices train 2.0 layers on average")


def test_explain_shows_feasible_efficient_and_chosen(
    family_folder: Path, fleet_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(family_folder, fleet_file, "--explain", "--planner", "fedquad", "--steps", "3") == 0
    printed = capsys.readouterr().out
    assert "raspberry-pi-4-1: 80.0 MB, 3 x the reference machine's step time, 16 Mbit/s down, 16 Mbit/s up" in printed
    assert "feasible, 6 of 6: d00-q00" in printed
    assert "feasible, 0 of 6: none" in printed
    assert "\n  >" in printed
    assert "trains d02-q00: deepest that is done by" in printed
    assert "planner fedquad, 3 steps" in printed


@pytest.mark.parametrize(
    ("words", "cause"), [(("--planner", "best"), "no planner"), (("--steps", "0"), "--steps is 0")]
)
def test_options_that_mean_nothing_are_refused(
    family_folder: Path, fleet_file: Path, words: tuple[str, ...], cause: str
) -> None:
    with pytest.raises(QuadloomError, match=cause):
        run(family_folder, fleet_file, *words)


def test_a_rank_above_the_familys_is_refused_as_the_server_would(family_folder: Path, fleet_file: Path) -> None:
    fleet_file.write_text(fleet_file.read_text() + "rank = 4\n")
    with pytest.raises(QuadloomError, match="raspberry-pi-4 has the rank 4, the family 2"):
        run(family_folder, fleet_file)


def test_a_slow_link_is_shown_as_slow(
    family_folder: Path, fleet_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet_file.write_text(fleet_file.read_text().replace("link_mbps = 16", "link_mbps = 0.25"))
    assert run(family_folder, fleet_file, "--explain") == 0
    assert "0.25 Mbit/s down" in capsys.readouterr().out
