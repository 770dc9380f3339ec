"""What a benchmark compares: the members of one format, ExecuTorch's once per backend."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from quadloom_benchmarks.families import BenchmarkFamily, export_random_family, parse_members
from quadloom_runtime.contract.manifest import ExecutorchBackend, Format, MemberKey
from quadloom_runtime.engines.installed import installed_formats
from quadloom_runtime.errors import QuadloomError


@dataclass(frozen=True)
class Kind:
    """A format, and for ExecuTorch who computes."""

    format: Format
    backend: ExecutorchBackend | None = None

    @property
    def name(self) -> str:
        """As in the tables."""
        return self.format if self.backend is None else f"{self.format} {self.backend}"


KINDS = (Kind("onnx"), Kind("executorch", "portable"), Kind("executorch", "xnnpack"), Kind("ort-training"))


@dataclass(frozen=True)
class Series:
    """The members of one kind in the family that holds them."""

    kind: Kind
    family: BenchmarkFamily
    keys: tuple[MemberKey, ...]

    def label(self, key: MemberKey) -> str:
        """Name of a row."""
        return f"{self.kind.name} {key.stem}"


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """``"all"`` or formats such as ``"onnx,executorch"`` -> kinds.

    Raises:
        QuadloomError: not a format.
    """
    names = {kind.format for kind in KINDS}
    wanted = names if text == "all" else set(text.split(","))
    if not wanted <= names:
        raise QuadloomError(f"--formats {text!r}", remedy=f"choose from: all, {', '.join(sorted(names))}")
    return tuple(kind for kind in KINDS if kind.format in wanted)


def open_series(arguments: argparse.Namespace) -> list[Series]:
    """Load the family of `arguments`, or export one per kind; a kind that cannot run here is said so and left out.

    Raises:
        QuadloomError: none can run.
    """
    kinds, members = parse_kinds(arguments.formats), parse_members(arguments.members)
    found = list(_of_family(arguments, members) if arguments.family else _of_shape(arguments, kinds, members))
    if not found:
        raise QuadloomError("nothing to measure", remedy="install the extra of a format, e.g. quadloom[executorch]")
    return found


def _of_shape(
    arguments: argparse.Namespace, kinds: tuple[Kind, ...], members: tuple[MemberKey, ...]
) -> Iterator[Series]:
    for kind in kinds:
        if _can_run(kind):
            family = export_random_family(
                work=arguments.work,
                layers=arguments.layers,
                batch_size=arguments.batch_size,
                sequence_length=arguments.sequence_length,
                members=members,
                member_format=kind.format,
                executorch_backend=kind.backend,
            )
            yield _series(kind, family, members)


def _of_family(arguments: argparse.Namespace, members: tuple[MemberKey, ...]) -> Iterator[Series]:
    family = BenchmarkFamily.load(arguments.family)
    for spec in family.manifest.formats:
        kind = Kind(spec.format, spec.backend)
        if kind in parse_kinds(arguments.formats) and _can_run(kind):
            yield _series(kind, family, members)


def _series(kind: Kind, family: BenchmarkFamily, members: tuple[MemberKey, ...]) -> Series:
    return Series(kind, family, tuple(key.model_copy(update={"format": kind.format}) for key in members))


def _can_run(kind: Kind) -> bool:
    found = kind.format in installed_formats()
    if not found:
        print(f"{kind.name}: not measured, quadloom[{kind.format}] is not installed here")
    return found
