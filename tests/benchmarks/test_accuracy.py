"""Members trained alike on the same text: equal starts, equal order, and the same result again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quadloom_benchmarks import central_training
from quadloom_benchmarks.accuracy import Accuracy, Row, choose_members, make_settings, measure_accuracy, parse_seeds
from quadloom_benchmarks.accuracy import table as accuracy_table
from quadloom_benchmarks.central_training import CentralTraining, train_member
from quadloom_benchmarks.families import BenchmarkFamily
from quadloom_runtime.cli import main
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.errors import QuadloomError

PLAIN, QUANTIZED = (
    MemberKey(depth=2, quantized_layers=0, recompute_percent=3),
    MemberKey(depth=2, quantized_layers=2, recompute_percent=3),
)
LETTERS = ("abcdefgh", "stuvwxyz")
"""Of the words of each class."""


@pytest.fixture(scope="session")
def classifier(make_family: Callable[[str], BenchmarkFamily]) -> BenchmarkFamily:
    return make_family("sequence-classification")


@pytest.fixture
def training(tmp_path: Path) -> CentralTraining:
    """The last batch of an epoch has a padding row."""
    return CentralTraining(
        train=write_text(tmp_path / "train.jsonl", seed=0, examples=59),
        held_out=write_text(tmp_path / "eval.jsonl", seed=1, examples=22),
        settings=make_settings(epochs=6, learning_rate=1e-2, head_learning_rate=1e-2),
    )


def write_text(path: Path, *, seed: int, examples: int) -> Path:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, examples)
    rows = [{"text": " ".join(random.choice(list(LETTERS[label]), 5)), "label": int(label)} for label in labels]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


class Watched:
    """An engine that remembers what it was given."""

    def __init__(self, engine):
        self.engine, self.start, self.batches = engine, None, []

    def step(self, parameters, batch: Batch):
        self.start = self.start or dict(parameters)
        self.batches.append(batch)
        return self.engine.step(parameters, batch)


@pytest.fixture
def watched(monkeypatch) -> list[Watched]:
    """The engine of every run."""
    engines: list[Watched] = []
    opened = central_training.open_training_engine

    def open_watched(*arguments, **options):
        engines.append(Watched(opened(*arguments, **options)))
        return engines[-1]

    monkeypatch.setattr(central_training, "open_training_engine", open_watched)
    return engines


def assert_equal_tensors(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_members_start_equal_and_see_equal_batches_and_another_seed_differs(training, classifier, watched):
    for key, seed in ((PLAIN, 0), (QUANTIZED, 0), (PLAIN, 1)):
        train_member(training, classifier.folder, key, seed)
    plain, quantized, other = watched
    assert_equal_tensors(quantized.start, plain.start)
    assert len(plain.batches) == len(quantized.batches) == 6 * 15
    for own, its in zip(plain.batches, quantized.batches, strict=True):
        assert_equal_tensors(vars(its), vars(own))
    assert not np.array_equal(plain.batches[0].input_ids, other.batches[0].input_ids)
    assert any(not np.array_equal(value, other.start[name]) for name, value in plain.start.items())


@pytest.mark.parametrize("key", [PLAIN, QUANTIZED])
def test_loss_falls_and_the_same_seed_gives_the_same_again(training, classifier, key):
    first, again = train_member(training, classifier.folder, key, 0), train_member(training, classifier.folder, key, 0)
    assert first.loss_last < 0.5 * first.loss_first
    assert first.evaluation.accuracy > 0.7
    assert (first.examples, first.evaluation.examples) == (59, 22)
    assert again.evaluation == first.evaluation
    assert_equal_tensors(again.parameters, first.parameters)


def test_processes_find_what_one_process_finds_and_say_how_each_epoch_went(training, classifier, capfd):
    options = {"members": None, "member_format": "onnx", "seeds": (0, 3)}
    short = replace(training, limit=8)
    found = measure_accuracy(short, [classifier.folder], jobs=2, **options)
    assert found == measure_accuracy(short, [classifier.folder], jobs=1, **options)
    assert [(row.member, len(row.evaluations)) for row in found.rows] == [("d02-q00-r03", 2), ("d02-q02-r03", 2)]
    said = capfd.readouterr().err
    assert said.count("d02-q02-r03, seed 3: epoch 6 of 6, loss") == 2


def test_families_are_compared_in_one_run_and_a_row_says_whose_it_is(training, classifier, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(classifier.folder)
    families = [classifier.folder, other]
    found = measure_accuracy(
        replace(training, limit=8), families, members=None, member_format="onnx", seeds=(0,), jobs=1
    )
    first = classifier.folder.name
    assert [row.member for row in found.rows] == [
        f"{first} d02-q00-r03",
        f"{first} d02-q02-r03",
        "other d02-q00-r03",
        "other d02-q02-r03",
    ]
    assert [row.evaluations for row in found.rows[:2]] == [row.evaluations for row in found.rows[2:]]


def test_without_members_a_family_brings_what_it_holds_of_them(classifier):
    manifest = classifier.manifest
    quantized = manifest.model_copy(
        update={"members": tuple(each for each in manifest.members if each.key.quantized_layers)}
    )
    assert choose_members(quantized, None, member_format="onnx") == (QUANTIZED,)


def test_a_failure_in_a_process_comes_back_as_itself(training, classifier):
    broken = replace(training, held_out=training.held_out.with_name("none.jsonl"))
    with pytest.raises(QuadloomError, match=r"none\.jsonl") as caught:
        measure_accuracy(broken, [classifier.folder], members="2,0", member_format="onnx", seeds=(0,), jobs=2)
    assert caught.value.remedy == "check the path and the file"


def test_the_table_has_accuracies_their_mean_and_differences_in_points():
    rows = [
        Row(member=name, evaluations=tuple(Evaluation(accuracy=each, loss=1, examples=100) for each in found))
        for name, found in (("d02-q00-r03", (0.80, 0.82)), ("d02-q02-r03", (0.81, 0.79)))
    ]
    lines = accuracy_table(Accuracy(setting="batch 4", seeds=(0, 7), rows=tuple(rows))).splitlines()
    assert lines[1].split()[:5] == ["seed", "0", "seed", "7", "mean"]
    assert lines[3].split() == ["d02-q00-r03", "80.00", "82.00", "81.00"]
    assert lines[4].split() == ["d02-q02-r03", "81.00", "79.00", "80.00", "-1.00", "-3.00"]


def test_the_command_prints_the_table_and_what_it_saved_can_be_shown_again(training, classifier, tmp_path, capsys):
    saved = ["--json", str(tmp_path / "new/found.json")]
    data = ["--family", str(classifier.folder), "--train", str(training.train), "--eval", str(training.held_out)]
    assert main(["bench", "accuracy", *data, "--limit", "8", "--epochs", "1", "--seeds", "5", *saved]) == 0
    printed = capsys.readouterr().out
    assert "training examples 8, epochs 1, learning rate 0.004, of the head 0.002" in printed
    assert main(["bench", "accuracy", "--from-json", saved[1]]) == 0
    assert capsys.readouterr().out == printed
    assert main(["bench", "accuracy", *data[:4]]) == 1
    assert "--eval is not given" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "a", "0,", "1.5", "-1", "0,0"])
def test_seeds_are_different_numbers_from_0(text):
    with pytest.raises(QuadloomError, match=f"--seeds '{text}'") as caught:
        parse_seeds(text)
    assert "0,1,2" in caught.value.remedy


@pytest.mark.parametrize(
    ("text", "words", "remedy"),
    [
        ("2,1", "'2,1,onnx'", "2,2,3"),
        ("2,0 7,0", "'7,0,onnx'", "2,2,3"),
        ("", "''", "--members"),
        ("2", "'2'", "write e.g."),
    ],
)
def test_members_that_the_family_lacks_are_named(classifier, text, words, remedy):
    with pytest.raises(QuadloomError, match=words) as caught:
        choose_members(classifier.manifest, text, member_format="onnx")
    assert remedy in caught.value.remedy


def test_without_members_the_deepest_is_compared_with_itself_quantized(classifier):
    assert choose_members(classifier.manifest, None, member_format="onnx") == (PLAIN, QUANTIZED)
    with pytest.raises(QuadloomError, match="executorch") as caught:
        choose_members(classifier.manifest, None, member_format="executorch")
    assert "2,0,3 2,2,3" in caught.value.remedy


@pytest.mark.parametrize("file", ["train", "held_out"])
def test_a_missing_file_is_named(training, classifier, file):
    missing = replace(training, **{file: Path("none.jsonl")})
    with pytest.raises(QuadloomError, match=r"none\.jsonl"):
        train_member(missing, classifier.folder, PLAIN, 0)


@pytest.mark.parametrize("option", ["epochs", "learning_rate", "head_learning_rate"])
def test_settings_out_of_range_are_named(option):
    with pytest.raises(QuadloomError, match=f"--{option.replace('_', '-')} is 0"):
        make_settings(**({"epochs": 1, "learning_rate": 1e-3, "head_learning_rate": 1e-3} | {option: 0}))


@pytest.mark.parametrize(("change", "jobs"), [({"threads": 0}, 1), ({"limit": 0}, 1), ({}, 0)])
def test_counts_out_of_range_are_named(training, classifier, change, jobs):
    with pytest.raises(QuadloomError, match=f"--{next(iter(change), 'jobs')} is 0"):
        measure_accuracy(
            replace(training, **change), [classifier.folder], members=None, member_format="onnx", seeds=(0,), jobs=jobs
        )
