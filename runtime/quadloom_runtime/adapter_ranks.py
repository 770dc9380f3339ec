"""The tensors of an adapter at a lower LoRA rank than the family's: A has fewer rows, B fewer columns."""

from collections.abc import Sequence
from typing import Final

from quadloom_runtime.contract.manifest import ParameterSpec
from quadloom_runtime.errors import QuadloomError

A_ENDING: Final = ".lora_A.weight"
B_ENDING: Final = ".lora_B.weight"


def rows_at_rank(rows: Sequence[ParameterSpec], rank: int) -> tuple[ParameterSpec, ...]:
    """Rows of a parameter table as a device of this rank has them, the head's as they are.

    Raises:
        QuadloomError: a row's rank is lower, or it is of another rank and neither A ``(rank, inputs)`` nor B
            ``(outputs, rank)``.
    """
    return tuple(_at_rank(row, rank) for row in rows)


def _at_rank(row: ParameterSpec, rank: int) -> ParameterSpec:
    if row.rank is None or row.rank == rank:
        return row
    if not 1 <= rank < row.rank:
        raise QuadloomError(
            f"{row.name[:200]!r} has rank {row.rank}, it cannot be trained at rank {rank}",
            remedy=f"choose a rank from 1 to {row.rank}",
        )
    if row.name.endswith(A_ENDING):
        shape = (rank, *row.shape[1:])
    elif row.name.endswith(B_ENDING):
        shape = (*row.shape[:-1], rank)
    else:
        raise QuadloomError(
            f"{row.name[:200]!r} has rank {row.rank} and is neither {A_ENDING} nor {B_ENDING}",
            remedy="train this family at its own rank, or export it again",
        )
    return row.model_copy(update={"shape": shape, "rank": rank})
