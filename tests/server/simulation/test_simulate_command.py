"""`quadloom simulate`, killed and continued."""

import argparse
import json
import subprocess
import sys

import pytest
from safetensors.numpy import load_file
from tests.server.simulation.conftest import write_text

from quadloom_runtime.errors import QuadloomError
from quadloom_server.commands import simulate

FLEET = """
devices_per_round = 3
[data]
split = "group"
[time]
spread = 0.2
noise = 0.2
availability = 0.9
[[group]]
name = "slow"
count = 3
slowdown = 4
holds = "1,0"
[[group]]
name = "fast"
count = 3
slowdown = 1
holds = "2,0"
"""
OF_TWO_RANKS = FLEET.replace("slowdown = 4", "slowdown = 4\nrank = 2")
ALONE = """
import argparse, sys
from quadloom_server.commands import simulate
parser = argparse.ArgumentParser()
simulate.add_arguments(parser)
sys.exit(simulate.run(parser.parse_args()))
"""


@pytest.fixture
def by_the_method(inputs, tmp_path):
    """Every argument but --out, the budget, and when rounds close."""
    (tmp_path / "fleet.toml").write_text(FLEET)
    found = ["--family", str(inputs.family), "--fleet", str(tmp_path / "fleet.toml"), "--train", str(inputs.train)]
    found += ["--eval", str(inputs.held_out), "--method", "fedquad-steady", "--steps", "2", "--eval-every", "3"]
    return [*found, "--seed", "5"]


@pytest.fixture
def words(by_the_method):
    """The same, and some updates are always under way."""
    return [*by_the_method, "--updates-to-close", "1", "--largest-staleness", "3"]


def run(words):
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    return simulate.run(parser.parse_args(words))


@pytest.mark.parametrize(("method", "kept"), [("fedquad-steady", "mean"), ("best", "recent mean")])
def test_killed_and_started_again_it_ends_as_if_nothing_had_happened(words, tmp_path, capfd, method, kept):
    words = [*words, "--method", method]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run([*words, "--rounds", "30", "--out", str(whole)]) == 0
    command = [sys.executable, "-c", ALONE, *words, "--rounds", "100000", "--out", str(broken)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "round 12 of" in line:
                process.kill()
                break
    assert process.returncode == -9
    assert (broken / "checkpoint.safetensors").is_file()
    assert not (broken / "result.json").exists()
    capfd.readouterr()
    assert run([*words, "--rounds", "30", "--out", str(broken)]) == 0
    assert "round 1 of 30" not in capfd.readouterr().err  # it did go on
    found, expected = ((each / "result.json").read_text() for each in (broken, whole))
    assert found == expected
    tensors = [load_file(each / "checkpoint.safetensors") for each in (broken, whole)]
    assert tensors[0].keys() == tensors[1].keys()
    groups = {name.split("|")[0].rstrip(" 0123456789") for name in tensors[0]}
    assert groups == {"global", "start", "trained", kept}
    assert all((tensors[0][name] == value).all() for name, value in tensors[1].items())


def test_a_finished_run_is_not_played_again_and_a_longer_one_goes_on(words, tmp_path, capfd):
    out = ["--out", str(tmp_path / "out")]
    assert run([*words, *out, "--rounds", "6"]) == 0
    first = capfd.readouterr()
    assert first.err.count("virtual s") == 6
    assert run([*words, *out, "--rounds", "6"]) == 0
    again = capfd.readouterr()
    assert (again.out, again.err) == (first.out, "")
    assert run([*words, *out, "--rounds", "8"]) == 0
    assert capfd.readouterr().err.count("virtual s") == 2


def test_the_budget_of_virtual_seconds_is_where_the_run_ends(words, tmp_path, capfd):
    assert run([*words, "--out", str(tmp_path / "rounds"), "--rounds", "7"]) == 0
    ends = json.loads((tmp_path / "rounds/result.json").read_text())["ended_s"]
    budget = ["--virtual-seconds", str(1.001 * ends)]
    assert run([*words, "--out", str(tmp_path / "seconds"), *budget]) == 0
    found = json.loads((tmp_path / "seconds/result.json").read_text())
    assert found["records"][-1]["index"] == 7
    assert found["ended_s"] == 1.001 * ends
    assert "after" in capfd.readouterr().out


def saved(folder):
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("given", "closing"),
    [
        (["--updates-to-close", "4"], {"updates": 4, "largest_staleness": 8}),
        (["--largest-staleness", "4"], {"updates": 2, "largest_staleness": 4}),
        ([], None),
    ],
)
def test_when_rounds_close_is_the_methods_rule_but_for_what_is_given(by_the_method, tmp_path, given, closing):
    out = ["--out", str(tmp_path / "out"), "--rounds", "1"]
    assert run([*by_the_method, "--method", "best", *given, *out]) == 0
    assert saved(tmp_path / "out")["settings"]["closing"] == closing


def test_where_ranks_differ_every_judged_round_says_how_much_lies_above_the_smallest(by_the_method, tmp_path, capfd):
    (tmp_path / "fleet.toml").write_text(OF_TWO_RANKS)
    out = ["--out", str(tmp_path / "out"), "--rounds", "4"]
    assert run([*by_the_method, "--method", "flexlora", *out]) == 0
    records = saved(tmp_path / "out")["records"]
    judged = [each["energy_above"] for each in records if each["evaluation"]]
    assert len(judged) == 2
    assert all(each["energy_above"] == {} for each in records if not each["evaluation"])
    assert all(set(each) == {"0", "1"} for each in judged)
    assert all(0 <= share <= 1 for each in judged for share in each.values())
    untrained, trained = judged
    assert set(untrained.values()) == {0.0}
    assert all(0 < share < 1 for share in trained.values()), "whoever trains at rank 4 moves terms above the second"
    _, head, *lines = capfd.readouterr().out.splitlines()
    assert head.split()[-2:] == ["above", "%"]
    shown = [float(line.split()[-1]) for line in lines[:2]]
    assert shown == pytest.approx([0, 50 * sum(trained.values())], abs=0.01)


@pytest.mark.parametrize(("method", "fleet"), [("fedquad", OF_TWO_RANKS), ("flexlora", FLEET)])
def test_where_all_train_at_one_rank_nothing_is_said_of_what_lies_above(by_the_method, tmp_path, capfd, method, fleet):
    (tmp_path / "fleet.toml").write_text(fleet)
    out = ["--out", str(tmp_path / "out"), "--rounds", "1", "--eval-every", "1"]
    assert run([*by_the_method, "--method", method, *out]) == 0
    records = saved(tmp_path / "out")["records"]
    assert all(each["evaluation"] for each in records)
    assert all(each["energy_above"] == {} for each in records)
    assert "above" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--method", "magic"], "no method is called 'magic'"),
        (["--steps", "0"], "max_steps is 0"),
        (["--rounds", "0"], "rounds is 0"),
        (["--updates-to-close", "0"], "updates is 0"),
        (["--train", "none.jsonl"], r"none\.jsonl"),
        (["--fleet", "none.toml"], r"none\.toml"),
    ],
)
def test_a_wrong_argument_is_named(words, tmp_path, change, message):
    with pytest.raises(QuadloomError, match=message):
        run([*words, "--out", str(tmp_path / "out"), "--rounds", "1", *change])


def test_a_budget_is_needed(words, tmp_path):
    with pytest.raises(QuadloomError, match="neither rounds nor virtual seconds"):
        run([*words, "--out", str(tmp_path / "out")])


def test_another_run_does_not_go_on_from_a_strange_checkpoint(words, tmp_path):
    out = ["--out", str(tmp_path / "out"), "--rounds", "2"]
    run([*words, *out])
    write_text(tmp_path / "more.jsonl", seed=7, examples=90)
    for change in (["--seed", "6"], ["--method", "full-depth"], ["--train", str(tmp_path / "more.jsonl")]):
        with pytest.raises(QuadloomError, match="belongs to another run"):
            run([*words, *out, *change])


@pytest.mark.parametrize("shorter", [["--rounds", "1"], ["--virtual-seconds", "1e-9"]])
def test_a_run_cannot_be_made_shorter_than_it_is(words, tmp_path, shorter):
    out = ["--out", str(tmp_path / "out")]
    run([*words, *out, "--rounds", "2"])
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(QuadloomError, match=r"is at round 2 and .* beyond its new end"):
        run([*words, *out, *shorter])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_fleet_that_can_train_nothing_says_so(words, tmp_path):
    (tmp_path / "fleet.toml").write_text(FLEET.replace('holds = "1,0"', 'memory_limit = "1MB"').replace("2,0", "1,0"))
    with pytest.raises(QuadloomError, match="nobody trained in the last 100 rounds"):
        run([*words, "--out", str(tmp_path / "out"), "--virtual-seconds", "10", "--method", "exclude-weak"])
