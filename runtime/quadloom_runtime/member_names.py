"""How people name a member: ``6,4``, and ``6,4,30`` where a family holds several recompute budgets."""

from collections.abc import Iterable
from dataclasses import dataclass

from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey, MemberSpec
from quadloom_runtime.errors import QuadloomError


@dataclass(frozen=True)
class MemberName:
    """What a name says of a member; what it leaves out is None.

    Attributes:
        recompute_percent: as in the member's key.
    """

    depth: int
    quantized_layers: int
    recompute_percent: int | None = None
    format: str | None = None

    def __str__(self) -> str:
        parts = (self.depth, self.quantized_layers, self.recompute_percent, self.format)
        return ",".join(str(part) for part in parts if part is not None)

    def names(self, key: MemberKey) -> bool:
        """Whether a member of this key is meant."""
        return (
            (self.depth, self.quantized_layers) == (key.depth, key.quantized_layers)
            and self.recompute_percent in (None, key.recompute_percent)
            and self.format in (None, key.format)
        )


def parse_member_name(text: str) -> MemberName:
    """``"6,4"``, ``"6,4,30"``, ``"6,4,executorch"`` or ``"6,4,30,executorch"``.

    Raises:
        ValueError: none of these, or numbers that no member can have.
    """
    depth, quantized_layers, *rest = text.replace(" ", "").split(",")
    percent = int(rest.pop(0)) if rest and rest[0].isdecimal() else None
    member_format = rest.pop(0) if rest else None
    if rest:
        raise ValueError(f"{text!r} is not depth,quantized layers, recompute percent and format")
    name = MemberName(int(depth), int(quantized_layers), percent, member_format)
    MemberKey(depth=name.depth, quantized_layers=name.quantized_layers, recompute_percent=percent or 0)
    return name


def find_member(manifest: FamilyManifest, text: str) -> MemberSpec:
    """The member that `text` names, in the first of the family's formats if the name leaves that out.

    Raises:
        QuadloomError: no such member, or members of several recompute budgets.
    """
    try:
        name = parse_member_name(text)
        found = [each for each in manifest.members if name.names(each.key)]
    except ValueError:
        found = []
    if not found:
        raise QuadloomError(f"the family has no member {text!r}", remedy=f"choose one of: {_choices(manifest.members)}")
    if len({each.key.recompute_percent for each in found}) > 1:
        raise QuadloomError(
            f"several members are named {text!r}: they differ in the percentage that they may recompute",
            remedy=f"add it, choose one of: {_choices(found)}",
        )
    return found[0]


def _choices(members: Iterable[MemberSpec]) -> str:
    """Names without the format, each once."""
    keys = [each.key for each in members]
    names = [MemberName(key.depth, key.quantized_layers, key.recompute_percent) for key in keys]
    return " ".join(str(name) for name in dict.fromkeys(names))
