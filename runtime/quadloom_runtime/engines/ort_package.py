"""Which of the two packages named `onnxruntime` is installed.

`onnxruntime` and `onnxruntime-training` both install a module `onnxruntime`, file over file. Where both are installed,
what is imported is a mixture of the two.
"""

from importlib.machinery import PathFinder
from importlib.metadata import distributions
from pathlib import Path

from quadloom_runtime.errors import MissingExtraError, QuadloomError

MODULE = "onnxruntime"
PLAIN, TRAINING = "onnxruntime", "onnxruntime-training"
APART = (
    "make an environment of its own for the extra 'ort-training', without the extra 'onnx' and what needs it: "
    "pip install 'quadloom[ort-training]'"
)


def refuse_mixture() -> None:
    """Check that the module `onnxruntime`, where there is one, is all of one package.

    Raises:
        QuadloomError: both packages are installed over each other.
    """
    owners = _owners()
    if owners is not None and len(owners) > 1:
        raise QuadloomError(
            f"the packages {PLAIN} {owners[PLAIN]} and {TRAINING} {owners[TRAINING]} are installed over each other: "
            f"both hold the module {MODULE!r}",
            remedy=APART,
        )


def require_training_package() -> None:
    """Check that `onnxruntime` is the training package.

    Raises:
        MissingExtraError: the module is not installed at all.
        QuadloomError: it belongs to another package, alone or over the training package.
    """
    refuse_mixture()
    owners = _owners()
    if owners is None:
        raise MissingExtraError(package=TRAINING, extra="ort-training")
    if TRAINING not in owners:
        owner = f"the plain package {PLAIN} {owners[PLAIN]}" if owners else "another package"
        raise QuadloomError(
            f"this needs the package {TRAINING}, but the module {MODULE!r} that is installed belongs to {owner}",
            remedy=APART,
        )


def has_training_package() -> bool:
    """Whether the module `onnxruntime` is the training package and nothing else."""
    return set(_owners() or ()) == {TRAINING}


def _owners() -> dict[str, str] | None:
    """Version by name of the packages that hold the module that would be imported; None if there is no such module."""
    spec = PathFinder.find_spec(MODULE)
    if spec is None or spec.origin is None:
        return None
    module = Path(spec.origin).resolve().parent
    return {
        name: each.version
        for name in (PLAIN, TRAINING)
        for each in distributions(name=name)
        if Path(str(each.locate_file(MODULE))).resolve() == module
    }
