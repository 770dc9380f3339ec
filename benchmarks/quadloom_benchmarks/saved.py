"""What a benchmark found, as a file: measured once, shown again without measuring."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from quadloom_runtime.contract.manifest import Value
from quadloom_runtime.errors import QuadloomError

Found = TypeVar("Found", bound=Value)


def load_found(path: Path, kind: type[Found]) -> Found:
    """Read what ``--json`` of the same benchmark wrote.

    Raises:
        QuadloomError: it is no such file.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise QuadloomError(f"{path}: {reason}", remedy="name a file that --json wrote") from None


def save_found(found: Value, path: Path) -> None:
    """Write it for `load_found`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found.model_dump_json(indent=1) + "\n")
