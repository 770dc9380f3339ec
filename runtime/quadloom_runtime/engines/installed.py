"""Which formats this installation can run."""

from importlib.util import find_spec
from typing import get_args

from quadloom_runtime.contract.manifest import Format
from quadloom_runtime.engines.ort_package import has_training_package
from quadloom_runtime.errors import QuadloomError

PACKAGES: dict[Format, str] = {"onnx": "onnxruntime", "executorch": "executorch"}
"""Module that each engine imports. The training package's own engine needs more than a module of that name."""


def installed_formats() -> tuple[Format, ...]:
    """Formats whose package is here, the preferred one first; nothing is imported."""
    found = [name for name, module in PACKAGES.items() if find_spec(module) is not None]
    return (*found, "ort-training") if has_training_package() else tuple(found)


def choose_formats(text: str | None) -> tuple[Format, ...]:
    """The formats that a list such as ``executorch,onnx`` names, in its order; None: all that are installed.

    Raises:
        QuadloomError: one is unknown or not installed, or nothing is installed.
    """
    installed = installed_formats()
    if not installed:
        raise QuadloomError(
            "no engine is installed", remedy="install one: pip install 'quadloom[onnx]', or another format's extra"
        )
    if text is None:
        return installed
    wanted = tuple(dict.fromkeys(text.split(",")))
    for name in wanted:
        if name not in get_args(Format):
            raise QuadloomError(f"--formats names {name!r}", remedy=f"choose from: {', '.join(get_args(Format))}")
        if name not in installed:
            raise QuadloomError(
                f"--formats names {name}, whose package is not installed here",
                remedy=f"pip install 'quadloom[{name}]', or choose from: {', '.join(installed)}",
            )
    return tuple(name for asked in wanted for name in installed if name == asked)
