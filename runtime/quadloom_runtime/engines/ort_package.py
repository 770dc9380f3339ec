"""Which of the two packages named `onnxruntime` is installed.

`onnxruntime` and `onnxruntime-training` both install a module `onnxruntime`, file over file. Where both are installed,
what is imported is a mixture of the two.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from quadloom_runtime.errors import MissingExtraError, QuadloomError

PLAIN, TRAINING = "onnxruntime", "onnxruntime-training"
APART = (
    "make an environment of its own for the extra 'ort-training', without the extra 'onnx' and what needs it: "
    "pip install 'quadloom[ort-training]'"
)


def require_training_package() -> None:
    """Check that `onnxruntime` is the training package.

    Raises:
        MissingExtraError: neither package is installed.
        QuadloomError: the plain package is installed, alone or over the training package.
    """
    places = {name: place for name in (PLAIN, TRAINING) if (place := _module_folder(name)) is not None}
    if not places:
        raise MissingExtraError(package=TRAINING, extra="ort-training")
    if TRAINING not in places:
        raise QuadloomError(
            f"the training engine needs the package {TRAINING!r}, but the module 'onnxruntime' that is installed "
            f"belongs to the plain package {PLAIN!r} {distribution(PLAIN).version}",
            remedy=APART,
        )
    if places.get(PLAIN) == places[TRAINING]:
        raise QuadloomError(
            f"the packages {PLAIN!r} {distribution(PLAIN).version} and {TRAINING!r} {distribution(TRAINING).version} "
            "are installed over each other: both hold the module 'onnxruntime'",
            remedy=APART,
        )


def _module_folder(package: str) -> Path | None:
    try:
        return Path(str(distribution(package).locate_file("onnxruntime"))).resolve()
    except PackageNotFoundError:
        return None
