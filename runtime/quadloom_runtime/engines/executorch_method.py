"""One method of an ExecuTorch program on the plain runtime: arrays in, arrays out.

The program and its data file are mapped. A method's arena is allocated when the method runs for the first time, and
only its own: methods that are never called cost no memory.
"""

import re
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadloom_runtime.errors import MissingExtraError, QuadloomError, StepOutOfMemoryError


class ExecutorchMethod:
    """A loaded method.

    Args:
        weights: the data file that the program takes its constants from, None if they are in the program.
        label: what runs, in errors.

    Raises:
        MissingExtraError: executorch is not installed.
        QuadloomError: the files cannot be loaded, or hold no such method.
    """

    def __init__(self, program: Path, weights: Path | None, *, method: str, threads: int, label: str) -> None:
        self._module = _load(program, weights)
        names = self._module.method_names()
        if method not in names:
            raise QuadloomError(
                f"the program {program} has no method {method!r}", remedy=f"choose from: {', '.join(sorted(names))}"
            )
        self._method = method
        self._threads = threads
        self._label = label

    def __call__(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run; the results are the caller's own, not the arena's.

        Raises:
            StepOutOfMemoryError: the arena or the results did not fit the memory limit; the method stays usable.
            QuadloomError: the runtime refuses the arrays.
        """
        import torch

        _use_threads(self._threads)
        try:
            values = self._module.run_method(
                self._method, [torch.from_numpy(np.ascontiguousarray(each)) for each in arrays], clone_outputs=True
            )
        except (RuntimeError, MemoryError) as error:
            if is_failed_allocation(error):
                detail = str(error).splitlines()[0] if str(error) else "MemoryError"
                raise StepOutOfMemoryError(member=self._label, limit_bytes=None, detail=detail) from None
            raise QuadloomError(
                f"ExecuTorch cannot run {self._label}: {error}",
                remedy="give inputs of the shapes and dtypes that the program was made for",
            ) from error
        return [value.numpy() for value in values]


def is_failed_allocation(error: Exception) -> bool:
    """Whether an error says that memory was refused: to Python, to the runtime (0x21) or to torch, which it uses."""
    refused = r"bad_alloc|0x21|MemoryAllocation|can't allocate memory|not enough memory"
    return isinstance(error, MemoryError) or re.search(refused, str(error)) is not None


def _load(program: Path, weights: Path | None) -> Any:
    portable_lib = _portable_lib()
    try:
        module = portable_lib._load_for_executorch(str(program), None if weights is None else str(weights))
        module.method_names()  # loading is lazy: this reads the file, the first step allocates the arena
        return module
    except Exception as error:  # the binding raises whatever its loader makes of a broken file
        raise QuadloomError(
            f"ExecuTorch cannot load {program}{'' if weights is None else f' with {weights}'}: {error}",
            remedy="check the family with `quadloom inspect DIR --verify`; it needs executorch >= 1.4",
        ) from error


def _use_threads(threads: int) -> None:
    """Size the runtime's thread pool and that of the BLAS, which torch brings along; the whole process shares both."""
    import torch

    portable_lib = _portable_lib()
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)


@cache
def _portable_lib() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls itself experimental at each import
            from executorch.extension.pybindings import portable_lib
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=error.name or "executorch", extra="executorch") from None
    return portable_lib
