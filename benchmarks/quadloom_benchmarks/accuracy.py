"""`quadloom bench accuracy`: whether a quantized stash costs accuracy, members trained alike on the same text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean

from pydantic import Field, ValidationError

from quadloom_benchmarks.central_training import CentralTraining, train_member
from quadloom_benchmarks.families import BenchmarkFamily, parse_members
from quadloom_benchmarks.processes import run_each
from quadloom_runtime.contract.manifest import FamilyManifest, Format, MemberKey, Value
from quadloom_runtime.contract.wire import Evaluation, TrainingSettings
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.member_names import find_member


class Row(Value):
    """A member and what its training reached, one evaluation per seed."""

    member: str
    evaluations: tuple[Evaluation, ...] = Field(min_length=1)

    @property
    def mean_percent(self) -> float:
        """Mean accuracy over the seeds."""
        return mean(100 * each.accuracy for each in self.evaluations)

    def differences(self, reference: "Row") -> list[float]:
        """Accuracy minus that of `reference` with the same seed, in points."""
        pairs = zip(self.evaluations, reference.evaluations, strict=True)
        return [100 * (own.accuracy - other.accuracy) for own, other in pairs]


class Accuracy(Value):
    """One run of the benchmark.

    Attributes:
        setting: what was trained and how.
        rows: the others are compared with the first.
    """

    setting: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Contestant:
    """A member to train, of a family in `folder`."""

    folder: Path
    key: MemberKey


def measure_accuracy(
    training: CentralTraining,
    families: Sequence[Path],
    *,
    members: str | None,
    member_format: Format,
    seeds: Sequence[int],
    jobs: int,
) -> Accuracy:
    """Train every member of every family with every seed, `jobs` of these runs at a time.

    Args:
        members: of each family; None for its deepest with nothing and with everything quantized.

    Raises:
        QuadloomError: a number is out of range, a family lacks a member, or a run failed.
    """
    for name, value in (("--threads", training.threads), ("--limit", training.limit)):
        if value is not None and value < 1:
            raise QuadloomError(f"{name} is {value}", remedy=f"give {name} a value of at least 1")
    loaded = [BenchmarkFamily.load(folder) for folder in families]
    contestants = [
        Contestant(each.folder, key)
        for each in loaded
        for key in choose_members(each.manifest, members, member_format=member_format)
    ]
    # Seed by seed, so that whoever watches can compare early.
    runs = [(training, each.folder, each.key, seed) for seed, each in product(seeds, contestants)]
    found = run_each(train_member, runs, jobs=jobs, remedy="give fewer --jobs: memory may lack")
    rows = [
        Row(
            member=each.key.label if len(families) == 1 else f"{each.folder.name} {each.key.label}",
            evaluations=tuple(run.evaluation for run in found[place :: len(contestants)]),
        )
        for place, each in enumerate(contestants)
    ]
    settings = training.settings
    return Accuracy(
        setting=f"training examples {found[0].examples}, epochs {settings.epochs}, learning rate "
        f"{settings.learning_rate:g}, of the head {settings.head_learning_rate:g}; accuracy in percent of "
        f"{found[0].evaluation.examples} held-out predictions; {loaded[0].shape}",
        seeds=tuple(seeds),
        rows=tuple(rows),
    )


def choose_members(manifest: FamilyManifest, text: str | None, *, member_format: Format) -> tuple[MemberKey, ...]:
    """The members of `text`; without it, of the deepest, those with nothing and with everything quantized.

    Raises:
        QuadloomError: `text` is no list of members, or the family lacks one.
    """
    held = [each.key for each in manifest.members if each.key.format == member_format]
    deepest = max((key.depth for key in held), default=0)
    ends = {key.quantized_layers for key in held if key.depth == deepest} & {0, deepest} or {0, deepest}
    wanted = parse_members(" ".join(f"{deepest},{each}" for each in sorted(ends)) if text is None else text)
    if not wanted:
        raise QuadloomError(f"--members {text!r} names none", remedy='write e.g. --members "6,0 6,6"')
    names = [str(replace(name, format=member_format)) for name in dict.fromkeys(wanted)]
    return tuple(find_member(manifest, name).key for name in names)


def parse_seeds(text: str) -> tuple[int, ...]:
    """``"0,1,2"`` -> (0, 1, 2).

    Raises:
        QuadloomError: not a list of different numbers from 0.
    """
    try:
        seeds = tuple(int(word) for word in text.split(","))
    except ValueError:
        seeds = ()
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise QuadloomError(f"--seeds {text!r}", remedy="write different numbers from 0, e.g. 0,1,2")
    return seeds


def make_settings(*, epochs: int, learning_rate: float, head_learning_rate: float) -> TrainingSettings:
    """Settings with a learning rate that falls to zero, so that the last steps do not decide what is compared.

    Raises:
        QuadloomError: a value out of range.
    """
    try:
        return TrainingSettings(
            epochs=epochs, learning_rate=learning_rate, head_learning_rate=head_learning_rate, schedule="linear"
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}"
        raise QuadloomError(f"{option} is {first['input']}", remedy=f"{first['msg']}: change {option}") from None


def table(found: Accuracy) -> str:
    """A row per member: accuracy per seed, their mean, and how far it is from the first member."""
    first, width = found.rows[0], max(len(row.member) for row in found.rows)
    seeds = "".join(f"{f'seed {seed}':>10}" for seed in found.seeds)
    percent = f"{'%':>10}" * (len(found.seeds) + 1)
    return "\n".join(
        [
            found.setting,
            f"{'':>{width}}{seeds}{'mean':>10}{f'against {first.member}':>20}{'largest of a seed':>20}",
            f"{'':>{width}}{percent}{'points':>20}{'points':>20}",
            *(_line(row, first, width) for row in found.rows),
        ]
    )


def _line(row: Row, first: Row, width: int) -> str:
    percents = "".join(f"{100 * each.accuracy:10.2f}" for each in row.evaluations)
    line = f"{row.member:>{width}}{percents}{row.mean_percent:10.2f}"
    if row is first:
        return line
    differences = row.differences(first)
    return f"{line}{mean(differences):+20.2f}{max(differences, key=abs):+20.2f}"
