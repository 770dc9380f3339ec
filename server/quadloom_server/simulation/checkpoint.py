"""A simulated run on disk: one file that is written whole, from which it goes on as if it had never stopped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from quadloom_runtime.contract.manifest import Value
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.server_optimizer import Moments
from quadloom_server.simulation.state import Facts, State, Update, UpdateFacts

CHECKPOINT_NAME: Final = "checkpoint.safetensors"
STATE_ENTRY: Final = "state"
SEPARATOR: Final = "|"


class _Saved(Value):
    """All of a checkpoint but the tensors. `run` names what was run, and how."""

    run: str
    facts: Facts
    under_way: tuple[UpdateFacts, ...]


def save_checkpoint(folder: Path, state: State, *, run: str) -> None:
    """Replace the folder's checkpoint.

    Args:
        run: identity of the run; only the same one goes on from here.

    Raises:
        StorageError: the disk does not take it.
    """
    tensors: dict[str, NDArray[Any]] = {_key("global", name): value for name, value in state.parameters.items()}
    for place, update in enumerate(state.under_way):
        tensors |= {_key(f"start {place}", name): value for name, value in update.start.items()}
        tensors |= {_key(f"trained {place}", name): value for name, value in update.trained.items()}
    if state.mean is not None:
        tensors |= {_key("recent mean", name): value for name, value in state.mean.items()}
    for kind, moments in (("mean", state.moments.mean), ("square", state.moments.square)):
        tensors |= {_key(kind, name): value for name, value in moments.items()}
    saved = _Saved(run=run, facts=state.facts, under_way=tuple(each.facts for each in state.under_way))
    write_atomically(folder / CHECKPOINT_NAME, save(tensors, metadata={STATE_ENTRY: saved.model_dump_json()}))


def load_checkpoint(folder: Path, *, run: str) -> State | None:
    """Where the run in `folder` stood; None if there is no checkpoint yet.

    Raises:
        QuadloomError: the checkpoint is damaged, or of another run.
    """
    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, "np") as file:
            saved = _Saved.model_validate_json((file.metadata() or {})[STATE_ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise QuadloomError(
            f"{path} cannot be read: {str(error).splitlines()[0]}", remedy="remove the folder and start again"
        ) from None
    if saved.run != run:
        raise QuadloomError(
            f"{path} belongs to another run: fleet, family, data, method or settings differ",
            remedy="give another --out, or the same arguments as before",
        )
    under_way = tuple(
        Update(facts, _group(tensors, f"start {place}"), _group(tensors, f"trained {place}"))
        for place, facts in enumerate(saved.under_way)
    )
    moments = Moments(_group(tensors, "mean"), _group(tensors, "square"))
    mean = _group(tensors, "recent mean") or None
    return State(saved.facts, _group(tensors, "global"), under_way, moments, mean)


def _key(group: str, name: str) -> str:
    return f"{group}{SEPARATOR}{name}"


def _group(tensors: Mapping[str, NDArray[Any]], group: str) -> dict[str, NDArray[Any]]:
    prefix = _key(group, "")
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
