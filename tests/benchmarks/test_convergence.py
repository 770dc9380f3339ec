"""The race: a reduced one end to end, and its arithmetic by hand."""

import json
import math
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.server.simulation.conftest import family, family_of_rank, inputs  # noqa: F401

from quadloom_benchmarks.convergence import ceiling as ceiling_module
from quadloom_benchmarks.convergence import race as race_module
from quadloom_benchmarks.convergence import tuning as tuning_module
from quadloom_benchmarks.convergence.ceiling import Ceiling
from quadloom_benchmarks.convergence.found import Convergence, Point, Row, Run
from quadloom_benchmarks.convergence.grid import Choice, best
from quadloom_benchmarks.convergence.settings import HETEROGENEITY, find_setting
from quadloom_benchmarks.convergence.table import summary, table
from quadloom_benchmarks.convergence.validation import validation_inputs
from quadloom_runtime.cli import main
from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.data import load_examples
from quadloom_runtime.errors import QuadloomError, TrainingDivergedError
from quadloom_server.simulation.fleet_file import load_simulated_fleet

FLEET = """
devices_per_round = 2
[[group]]
name = "slow"
count = 2
slowdown = 300000
holds = "1,0"
rank = 2
[[group]]
name = "fast"
count = 2
slowdown = 100000
holds = "2,0"
"""


@pytest.fixture
def words(inputs, tmp_path):  # noqa: F811
    (tmp_path / "small.toml").write_text(FLEET)
    found = ["bench", "convergence", "--family", str(inputs.family), "--train", str(inputs.train)]
    found += ["--eval", str(inputs.held_out), "--fleet", str(tmp_path / "small.toml"), "--steps", "4"]
    found += ["--budget-virtual-s", "60", "--evaluations", "6", "--ceiling-epochs", "2", "--validation-share", "0.2"]
    found += ["--learning-rates", "1e-5,3e-2", "--head-learning-rate", "3e-3", "--methods", "best,flexlora"]
    return [*found, "--work", str(tmp_path / "work"), "--seeds", "0,1"]


def test_a_race_is_tuned_run_saved_shown_and_drawn_and_interrupted_it_plays_only_what_is_missing(
    words, tmp_path, capfd, monkeypatch
):
    saved = ["--json", str(tmp_path / "race.json"), "--chart", str(tmp_path / "race.svg")]
    assert main(words) == 0
    capfd.readouterr()
    played = []
    monkeypatch.setattr("quadloom_server.simulation.simulation.play_round", lambda *_, **__: played.append(1))
    monkeypatch.setattr(ceiling_module, "train_member", None)
    assert main([*words, *saved]) == 0
    assert not played
    printed = capfd.readouterr().out
    assert "4 devices, 2 a round" in printed
    assert [line.split()[0] for line in printed.splitlines()[4:]] == ["best", "flexlora"]
    assert (tmp_path / "race.svg").read_text().count("flexlora") >= 1
    assert main(["bench", "convergence", "--from-json", str(tmp_path / "race.json")]) == 0
    assert capfd.readouterr().out == printed
    found = Convergence.model_validate_json((tmp_path / "race.json").read_bytes())
    for row in found.rows:
        assert [rate for rate, _ in row.choice.scores] == [1e-5, 3e-2]
        assert row.choice.learning_rate == 3e-2  # the other one moves the head alone
        assert row.final_accuracy > found.ceiling.start.accuracy + 0.1
        for run in row.runs:
            times = [each.at_s for each in run.curve]
            assert times[0] == 0
            assert times[-1] == 60
            assert len(times) == 7
            assert np.all(np.diff(times, n=2) > 0)  # the closer the earlier
            assert run.rounds > 1
            assert run.curve[0].accuracy == found.ceiling.start.accuracy
        assert row.runs[0] != row.runs[1].model_copy(update={"seed": row.runs[0].seed})  # another start, another split
    assert (len(found.ceiling.runs), found.ceiling.epochs) == (3, 2)
    assert found.ceiling.start.examples == found.ceiling.head.examples == 30


def test_another_learning_rate_method_or_budget_is_another_run_beside_the_first(words, tmp_path, monkeypatch):
    one = [*words, "--methods", "best", "--seeds", "0", "--learning-rates", "3e-2"]
    assert main([*one, "--json", str(tmp_path / "a.json"), "--jobs", "2"]) == 0
    assert main([*one, "--budget-virtual-s", "40", "--evaluations", "4"]) == 0
    assert len(list((tmp_path / "work").glob("best-0-*"))) == 2
    monkeypatch.setattr("quadloom_server.simulation.simulation.play_round", None)
    assert main([*one, "--json", str(tmp_path / "b.json")]) == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.fixture
def recorded(monkeypatch):
    """The runs that choose a rate, the race's, and central trainings, as they were asked for; nothing is trained.

    Made up are accuracies by which 3e-2 is the best rate of every method, and 1e-5 that of central training.
    """
    found = SimpleNamespace(tuning=[], race=[], central=[])

    def tuned(run, method, learning_rate, _work):
        found.tuning.append((run, method, learning_rate))
        return SimpleNamespace(at=lambda _time_s: judged(learning_rate))

    def raced(run, method, learning_rate, _work):
        found.race.append((run, method, learning_rate))
        raise TrainingDivergedError("the loss of step 3", math.nan)

    def trained(training, _family, _key, seed):
        found.central.append((training, seed))
        return SimpleNamespace(evaluation=judged(1 - training.settings.learning_rate))

    monkeypatch.setattr(tuning_module, "play", tuned)
    monkeypatch.setattr(race_module, "play", raced)
    monkeypatch.setattr(ceiling_module, "train_member", trained)
    return found


def rows(path):
    return {(each.text, each.label) for each in load_examples(path)}


def check_validation_text(of, inputs):  # noqa: F811
    """Neither the held-out text of the race, nor anything that is trained on."""
    assert of.held_out != inputs.held_out
    assert rows(of.held_out) < rows(inputs.train)
    assert not rows(of.held_out) & rows(of.train)


def test_methods_rates_are_chosen_on_validation_text_in_shorter_runs_of_their_own_seed(words, inputs, recorded):  # noqa: F811
    assert main(words) == 0
    assert [each[1:] for each in recorded.tuning] == list(product(("best", "flexlora"), (1e-5, 3e-2)))
    for run, *_ in recorded.tuning:
        check_validation_text(run.inputs, inputs)
        assert run.settings.seed == 1000
        assert run.budget_s == run.settings.evaluations.times_s[-1] == 30
        assert len(run.settings.evaluations.times_s) == 3
    assert [each[1:] for each in recorded.race] == [(method, 3e-2) for _ in range(2) for method in ("best", "flexlora")]
    assert [run.settings.seed for run, *_ in recorded.race] == [0, 0, 1, 1]
    assert {(run.inputs, run.budget_s) for run, *_ in recorded.race} == {(inputs, 60)}


def test_the_ceilings_rate_is_chosen_on_validation_text_by_a_run_of_its_own_seed(words, inputs, recorded):  # noqa: F811
    assert main(words) == 0
    trying, final = ([each for each in recorded.central if (each[1] == 1000) is wanted] for wanted in (True, False))
    assert [training.settings.learning_rate for training, _ in trying] == [1e-5, 3e-2]
    for training, _ in trying:
        check_validation_text(training, inputs)
    assert [(seed, training.head_only) for training, seed in final] == [(0, False), (1, False), (2, False), (0, True)]
    assert {training.settings.learning_rate for training, _ in final} == {1e-5}
    assert {(training.train, training.held_out) for training, _ in final} == {(inputs.train, inputs.held_out)}


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_validation_text_is_a_part_of_the_training_text_that_is_not_trained_on(inputs, tmp_path, share):  # noqa: F811
    held_out_before = inputs.held_out.read_bytes()
    found = validation_inputs(inputs, share=share, work=tmp_path)
    rows = {name: path.read_text().splitlines() for name, path in (("train", found.train), ("eval", found.held_out))}
    assert len(rows["eval"]) == round(share * 90)
    whole = [{"text": each.text, "label": each.label} for each in load_examples(inputs.train)]
    together = [json.loads(line) for line in (*rows["train"], *rows["eval"])]
    assert sorted(map(json.dumps, together)) == sorted(map(json.dumps, whole))
    assert validation_inputs(inputs, share=share, work=tmp_path) == found
    assert inputs.held_out.read_bytes() == held_out_before


def test_the_rate_with_the_best_score_is_chosen_and_of_equal_ones_the_smallest():
    assert best({1e-3: 0.5, 2e-3: 0.75, 4e-3: 0.75}, of="best").learning_rate == 2e-3
    assert best({1e-3: 0.5}, of="best").scores == ((1e-3, 0.5),)
    with pytest.raises(QuadloomError, match=r"hetlora diverged at each of the learning rates 0\.002, 0\.004"):
        best({4e-3: 0.0, 2e-3: 0.0}, of="hetlora")


def judged(accuracy):
    return Evaluation(accuracy=accuracy, loss=0.5, examples=1000)


def race_of(*, name="s", **times):
    """A race to a ceiling of 80 %, of which 95 % are 76 %: per method the times at which its runs reach 76 %."""

    def curve(reached_s):
        end = Point(at_s=100, accuracy=0.74 if reached_s is None else 0.77)
        middle = [] if reached_s is None else [Point(at_s=reached_s, accuracy=0.76)]
        return (Point(at_s=0, accuracy=0.5), *middle, end)

    rows = [
        Row(
            method=method,
            choice=Choice(learning_rate=0.002, scores=((0.001, 0.6), (0.002, 0.7))),
            runs=tuple(
                Run(seed=seed, rounds=9, curve=curve(each), waiting_share=0.25, transferred_bytes=2_000_000)
                for seed, each in enumerate(found)
            ),
        )
        for method, found in times.items()
    ]
    ceiling = Ceiling(
        start=judged(0.5),
        head=judged(0.74),
        runs=(judged(0.79), judged(0.80), judged(0.81)),
        choice=Choice(learning_rate=0.001, scores=((0.001, 0.7), (0.002, 0.6))),
        epochs=3,
    )
    return Convergence(name=name, setting="s", budget_s=100, ceiling=ceiling, rows=tuple(rows))


def test_times_are_medians_with_ranges_and_what_was_not_reached_is_counted_and_bounds_the_ratio():
    found = race_of(best=(10, 30, 20), slow=(90, None, 40), never=(None, None, 50))
    best_row, slow, never = found.rows
    medians = [row.median_s(found.target(0.95)) for row in found.rows]
    assert medians[:2] == pytest.approx([20, 90])
    assert math.isinf(medians[2])
    assert found.ratio(best_row, 0.95) == (1.0, "=")
    assert found.ratio(slow, 0.95) == (pytest.approx(4.5), "=")
    assert found.ratio(never, 0.95) == (pytest.approx(5.0), ">")
    assert math.isnan(found.ratio(slow, 0.98)[0])
    lines = table(found).splitlines()
    assert "20.0 (10.0 to 30.0) 3/3" in lines[4]
    assert "90.0 (40.0 to >100) 2/3" in lines[5]
    assert ">100 (50.0 to >100) 1/3" in lines[6]
    assert [">5.00" in line for line in lines[4:]] == [False, False, True]
    assert [line.split()[:2] for line in lines[4:]] == [[name, "0.002"] for name in ("best", "slow", "never")]
    assert [line.split()[-9:] for line in lines[5:]] == [
        ["4.50", "-", "77.00", "(74.00", "to", "77.00)", "25", "%", "2.0", "9"][1:],
        ["-", "74.00", "(74.00", "to", "77.00)", "25", "%", "2.0", "9"],
    ]


def test_where_another_gets_there_and_ours_does_not_the_table_says_so():
    found = race_of(best=(None, None, 20), other=(80, 40, None))
    assert found.ratio(found.rows[1], 0.95) == (pytest.approx(0.8), "<")
    assert "<0.80" in table(found)
    assert "<0.80" in summary([found])


def test_a_run_that_diverges_counts_as_one_that_never_got_there_and_ends_no_other(words, tmp_path, capfd, monkeypatch):
    real = race_module.play

    def diverging(run, method, *rest):
        if (method, run.settings.seed) == ("flexlora", 1):
            raise TrainingDivergedError("the loss of step 3", math.nan)
        return real(run, method, *rest)

    monkeypatch.setattr(race_module, "play", diverging)
    assert main([*words, "--learning-rates", "3e-2", "--json", str(tmp_path / "race.json")]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.endswith("1 diverged") for line in lines[-2:]] == [False, True]
    found = Convergence.model_validate_json((tmp_path / "race.json").read_bytes())
    whole, broken = found.rows[1].runs
    assert (whole.diverged, broken.diverged, broken.seed) == (False, True, 1)
    assert {each.accuracy for each in broken.curve} == {found.ceiling.start.accuracy}
    assert [each.at_s for each in broken.curve] == [each.at_s for each in whole.curve]


def test_the_ceiling_can_have_learning_rates_of_its_own(words, tmp_path):
    saved = ["--json", str(tmp_path / "race.json"), "--methods", "best", "--seeds", "0", "--learning-rates", "3e-2"]
    assert main([*words, *saved, "--ceiling-learning-rates", "1e-5,1e-2"]) == 0
    found = Convergence.model_validate_json((tmp_path / "race.json").read_bytes())
    assert found.ceiling.choice.learning_rate == 1e-2
    assert [rate for rate, _ in found.ceiling.choice.scores] == [1e-5, 1e-2]
    assert found.rows[0].choice == Choice(learning_rate=3e-2)


def test_another_race_can_have_the_learning_rates_of_this_one(words, tmp_path, capfd):
    methods = ["--methods", "best", "--seeds", "0"]
    assert main([*words, *methods, "--json", str(tmp_path / "first.json")]) == 0
    again = [*words, *methods, "--learning-rates", "1e-4", "--ceiling-learning-rates", "1e-2"]
    again += ["--rates-from", str(tmp_path / "first.json"), "--budget-virtual-s", "30"]
    capfd.readouterr()
    assert main([*again, "--json", str(tmp_path / "second.json")]) == 0
    assert "chosen on validation text from 1e-05, 0.03 in the race small, " in capfd.readouterr().out
    first, second = (
        Convergence.model_validate_json((tmp_path / f"{each}.json").read_bytes()).rows[0]
        for each in ("first", "second")
    )
    assert second.choice.learning_rate == first.choice.learning_rate == 3e-2
    assert second.choice.scores == first.choice.scores
    assert second.runs[0].curve[-1].at_s == 30
    assert main([*again, "--methods", "best,flexlora"]) == 1
    assert "--rates-from has no learning rate of 'flexlora', but of best" in capfd.readouterr().err


def test_another_race_on_the_same_text_can_have_the_ceiling_of_this_one_and_one_on_other_text_cannot(
    words, tmp_path, capfd, monkeypatch
):
    one = [*words, "--methods", "best", "--seeds", "0", "--learning-rates", "3e-2"]
    assert main([*one, "--json", str(tmp_path / "first.json")]) == 0
    monkeypatch.setattr(ceiling_module, "train_member", None)
    again = [*one, "--ceiling-epochs", "1", "--ceiling-from", str(tmp_path / "first.json")]
    capfd.readouterr()
    assert main([*again, "--seeds", "1", "--json", str(tmp_path / "second.json")]) == 0
    assert "rate 0.03 in the race small, " in capfd.readouterr().out
    first, second = (
        Convergence.model_validate_json((tmp_path / f"{each}.json").read_bytes()).ceiling
        for each in ("first", "second")
    )
    assert second == first.model_copy(update={"choice": second.choice})
    held_out = Path(words[words.index("--eval") + 1])
    other = tmp_path / "other.jsonl"
    other.write_text("".join(held_out.read_text().splitlines(keepends=True)[1:]))
    assert main([*again, "--eval", str(other)]) == 1
    assert "--ceiling-from is of another model or text: untrained, loss" in capfd.readouterr().err


def test_runs_of_other_code_are_not_taken_for_found(words, tmp_path, monkeypatch):
    one = [*words, "--methods", "best", "--seeds", "0", "--learning-rates", "3e-2"]
    assert main(one) == 0
    monkeypatch.setattr("quadloom_server.simulation.opening.code_sha256", lambda: "other")
    assert main(one) == 0
    assert len(list((tmp_path / "work").glob("best-0-*"))) == 2


def test_the_table_says_what_a_target_is_worth():
    lines = table(race_of(best=(10,))).splitlines()
    # 90 % of 80 are 72: 22 of the 30 points between 50 and 80; the head alone has 24 of them.
    assert "ceiling 80.00 % (79.00 to 81.00, 3 seeds, rate 0.001)" in lines[1]
    assert "head alone 74.00 %; untrained 50.00 %" in lines[1]
    assert "90 % is 73 %, 95 % is 87 %, 98 % is 95 %, the head alone 80 %" in lines[1]
    assert "chosen on validation text from 0.001, 0.002" in lines[2]


def test_several_races_are_shown_together(tmp_path, capsys):
    races = [race_of(name="first", best=(10,), slow=(20,)), race_of(name="second", best=(10,), never=(None,))]
    lines = summary(races).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["first", "second"],
        ["best", "1.00", "1.00"],
        ["slow", "2.00"],
        ["never", ">10.00"],
    ]
    paths = [tmp_path / f"{each.name}.json" for each in races]
    for race, path in zip(races, paths, strict=True):
        path.write_text(race.model_dump_json())
    words = ["bench", "convergence", "--from-json", *map(str, paths)]
    assert main(words) == 0
    assert capsys.readouterr().out == "\n\n".join([*map(table, races), summary(races)]) + "\n"
    assert main([*words, "--chart", str(tmp_path / "chart.svg")]) == 1
    assert "--chart is of one race, not of 2" in capsys.readouterr().err


def test_the_settings_are_those_that_were_fixed():
    for name in ("low-iid", "middle-group", "high-group", "ranks-iid", "ranks-by-link-iid", "links-group"):
        fleet = find_setting(name)
        slowdowns = [group.slowdown for group in fleet.group]
        assert slowdowns == sorted(slowdowns, reverse=True)  # weakest first: labels go with the order
        assert sum(group.count for group in fleet.group) == 40
    for name in HETEROGENEITY:
        assert load_simulated_fleet(Path(f"examples/simulated_fleets/{name}.toml")) == find_setting(f"{name}-group")
    assert list(HETEROGENEITY) == ["low", "middle", "high"]
    assert [group.rank for group in find_setting("ranks-iid").group] == [2, 4, 8, 16]
    by_link = find_setting("ranks-by-link-iid").group
    assert [(group.rank, group.link_mbps) for group in by_link] == [(2, 6.25), (4, 12.5), (8, 25.0), (16, 50.0)]
    middle, links = find_setting("middle-group").group, find_setting("links-group").group
    assert [group.link_mbps for group in links] == [0.5, 2.0, 8.0]
    assert [group.model_copy(update={"link_mbps": 50.0}) for group in links] == list(middle)
    with pytest.raises(QuadloomError, match="'middle-nothing'"):
        find_setting("middle-nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--methods", "best,best"], "different methods"),
        (["--methods", "magic"], "'magic'"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--steps", "0"], "max_steps is 0"),
        (["--seeds", "x"], "--seeds 'x'"),
        (["--seeds", "0,1000"], "seed 1000 is that of the runs that choose learning rates"),
        (["--learning-rates", "1e-3,0"], "--learning-rates '1e-3,0'"),
        (["--learning-rates", "fast"], "--learning-rates 'fast'"),
        (["--validation-share", "1"], "--validation-share 1 of 90 training rows"),
        (["--tuning-share", "0"], "--tuning-share is 0"),
        (["--evaluations", "0"], "--evaluations is 0"),
    ],
)
def test_a_wrong_argument_is_named(words, capfd, change, message):
    assert main([*words, *change]) == 1
    assert message in capfd.readouterr().err
