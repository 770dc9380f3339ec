"""What a benchmark compares: members of one format, recompute share and stash width, ExecuTorch's once per backend."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from quadloom_benchmarks.export_elsewhere import export_elsewhere
from quadloom_benchmarks.families import BenchmarkFamily, Bits, export_random_family, parse_members, parts
from quadloom_runtime.contract.manifest import ExecutorchBackend, Format, MemberKey
from quadloom_runtime.engines.installed import installed_formats
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.member_names import MemberName, find_member


@dataclass(frozen=True)
class Kind:
    """A format, and for ExecuTorch who computes."""

    format: Format
    backend: ExecutorchBackend | None = None

    @property
    def name(self) -> str:
        """As in the tables."""
        return self.format if self.backend is None else f"{self.format} {self.backend}"

    @property
    def names(self) -> tuple[str, str]:
        """How `--formats` may ask for it."""
        return self.format, self.name.replace(" ", "-")


KINDS = (Kind("onnx"), Kind("executorch", "portable"), Kind("executorch", "xnnpack"), Kind("ort-training"))


@dataclass(frozen=True)
class Series:
    """The members of one kind in the family that holds them.

    Attributes:
        point: what sets the family apart from others of the same model and its members' names do not tell.
        plain: whether the others of its kind are compared with its unquantized members.
        accumulation: batches of the family that make one step.
        python: the interpreter that has its engine.
    """

    kind: Kind
    family: BenchmarkFamily
    keys: tuple[MemberKey, ...]
    point: str = ""
    plain: bool = True
    accumulation: int = 1
    python: str = sys.executable

    @property
    def name(self) -> str:
        """As in the tables."""
        return f"{self.kind.name}, {self.point}" if self.point else self.kind.name


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """``"all"``, formats such as ``"onnx,executorch"``, or one backend of one: ``"executorch-xnnpack"``.

    Raises:
        QuadloomError: not a format.
    """
    names = {name for kind in KINDS for name in ("all", *kind.names)}
    wanted = set(text.split(","))
    if not wanted <= names:
        raise QuadloomError(f"--formats {text!r}", remedy=f"choose from: {', '.join(sorted(names))}")
    return tuple(kind for kind in KINDS if wanted & {"all", *kind.names})


def parse_shares(text: str) -> tuple[float, ...]:
    """``"0,0.03"`` -> (0.0, 0.03).

    Raises:
        QuadloomError: not a list of numbers from 0 to 1.
    """
    try:
        shares = tuple(float(word) for word in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise QuadloomError(f"--recompute {text!r}", remedy="write shares from 0 to 1, e.g. 0,0.03,0.4")
    return shares


def parse_bits(text: str) -> tuple[Bits, ...]:
    """``"8,auto"`` -> (8, "auto").

    Raises:
        QuadloomError: not a list of 8, 4 and auto.
    """
    known: dict[str, Bits] = {"8": 8, "4": 4, "auto": "auto"}
    try:
        return tuple(known[word] for word in text.split(","))
    except KeyError:
        raise QuadloomError(f"--bits {text!r}", remedy="write 8, 4, auto, or several of them: 8,auto") from None


def parse_accumulations(text: str, *, batch_size: int) -> tuple[int, ...]:
    """``"1,2"`` -> (1, 2): in how many batches of equal size a step is made.

    Raises:
        QuadloomError: not a list of divisors of the batch size that begins with 1, which the others are compared with.
    """
    try:
        found = tuple(int(word) for word in text.split(","))
    except ValueError:
        found = ()
    if found[:1] != (1,) or not all(each > 0 and batch_size % each == 0 for each in found):
        raise QuadloomError(
            f"--accumulation {text!r}",
            remedy=f"write 1, or 1 and divisors of the batch size {batch_size}, e.g. 1,2",
        )
    return found


def open_series(arguments: argparse.Namespace) -> list[Series]:
    """Load the families of `arguments`, or export one per kind, recompute share, bits and accumulation.

    A kind that cannot run here is said so and left out.

    Raises:
        QuadloomError: none can run, the families are not of one model and batch shape, or given families are to be
            trained in several batches.
    """
    if arguments.family and arguments.accumulation != "1":
        raise QuadloomError(
            f"--accumulation {arguments.accumulation} with --family: each accumulation needs a family of its own batch",
            remedy="leave out --family, and the benchmark exports them, or leave out --accumulation",
        )
    members = parse_members(arguments.members)
    kinds = tuple(kind for kind in parse_kinds(arguments.formats) if _can_run(kind, arguments.ort_training_python))
    found = list(_of_families(arguments, kinds, members) if arguments.family else _of_shape(arguments, kinds, members))
    if not found:
        raise QuadloomError("nothing to measure", remedy="install the extra of a format, e.g. quadloom[executorch]")
    return found


def _of_shape(
    arguments: argparse.Namespace, kinds: tuple[Kind, ...], members: tuple[MemberName, ...]
) -> Iterator[Series]:
    shares = parse_shares(arguments.recompute)
    accumulations = parse_accumulations(arguments.accumulation, batch_size=arguments.batch_size)
    for name in members:
        if name.recompute_percent not in (None, *(round(100 * share) for share in shares)):
            raise QuadloomError(
                f"--members names {name}, but --recompute is {arguments.recompute}",
                remedy=f"add {(name.recompute_percent or 0) / 100:g} to --recompute",
            )
    for kind in kinds:
        for accumulation, share, bits in product(accumulations, shares, parse_bits(arguments.bits)):
            wanted = tuple(name for name in members if name.recompute_percent in (None, round(100 * share)))
            if not wanted:
                continue
            elsewhere = kind.format not in installed_formats()
            export = partial(export_elsewhere, arguments.ort_training_python) if elsewhere else export_random_family
            family = export(
                work=arguments.work,
                layers=arguments.layers,
                batch_size=arguments.batch_size // accumulation,
                sequence_length=arguments.sequence_length,
                target_modules=tuple(arguments.target_modules.split(",")),
                members=wanted,
                member_format=kind.format,
                executorch_backend=kind.backend,
                recompute=share,
                bits=bits,
                error_budget=arguments.error_budget if bits == "auto" else None,
            )
            points = [] if bits == 8 else [f"bits {bits}"]
            points += [] if accumulation == 1 else [parts(arguments.batch_size // accumulation, accumulation)]
            yield Series(
                kind,
                family,
                _keys(family, wanted, kind),
                ", ".join(points),
                plain=not share and bits == 8 and accumulation == 1,
                accumulation=accumulation,
                python=_python(kind, arguments.ort_training_python),
            )


def _of_families(
    arguments: argparse.Namespace, kinds: tuple[Kind, ...], members: tuple[MemberName, ...]
) -> Iterator[Series]:
    families = [BenchmarkFamily.load(folder) for folder in arguments.family]
    for family in families:
        if (family.model, family.shape) != (families[0].model, families[0].shape):
            raise QuadloomError(
                f"{family.folder} and {families[0].folder} differ in model, batch or LoRA: no rival stands for both",
                remedy="name families that differ in --recompute, --bits, --row-chunks and the like",
            )
        for kind in _kinds_of(family):
            # Of several families each may have some of the members; one that none has is asked of the first.
            asked = [
                name
                for name in members
                if _has(family, name, kind) or (family is families[0] and not _any_has(families, name, kind))
            ]
            if kind in kinds and asked:
                point = "" if len(families) == 1 else family.folder.name
                yield Series(
                    kind,
                    family,
                    _keys(family, asked, kind),
                    point,
                    plain=family is families[0],
                    python=_python(kind, arguments.ort_training_python),
                )


def _kinds_of(family: BenchmarkFamily) -> list[Kind]:
    return [Kind(spec.format, spec.backend) for spec in family.manifest.formats]


def _has(family: BenchmarkFamily, name: MemberName, kind: Kind) -> bool:
    return any(replace(name, format=kind.format).names(member.key) for member in family.manifest.members)


def _any_has(families: Sequence[BenchmarkFamily], name: MemberName, kind: Kind) -> bool:
    return any(kind in _kinds_of(family) and _has(family, name, kind) for family in families)


def _keys(family: BenchmarkFamily, members: Sequence[MemberName], kind: Kind) -> tuple[MemberKey, ...]:
    names = [replace(name, format=kind.format) for name in members]
    return tuple(find_member(family.manifest, str(name)).key for name in names)


def _python(kind: Kind, ort_training_python: Path | None) -> str:
    """The interpreter of a kind that can run."""
    return sys.executable if kind.format in installed_formats() else str(ort_training_python)


def _can_run(kind: Kind, ort_training_python: Path | None) -> bool:
    found = kind.format in installed_formats() or (kind.format == "ort-training" and ort_training_python is not None)
    if not found:
        print(f"{kind.name}: not measured, quadloom[{kind.format}] is not installed here")
    return found
