"""The rivals as contenders: makes the files that they run, and says which cannot take part."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from quadloom_benchmarks.contender import ONE_THREAD, RETURNING_MALLOC, Contender
from quadloom_benchmarks.families import BenchmarkFamily, parts
from quadloom_runtime.engines.installed import installed_formats

PYTORCH = "PyTorch eager + PEFT"
CHECKPOINTING = "PyTorch + PEFT, gradient checkpointing"
EXECUTORCH = "ExecuTorch's training export"
ORT = "onnxruntime-training's artifacts"
KEPT, RETURNED = "default malloc", "buffers returned when freed"


def pytorch_contender(
    family: BenchmarkFamily, *, returning: bool, checkpointing: bool = False, accumulation: int = 1
) -> Contender:
    """PyTorch with PEFT, training every layer's adapters.

    Args:
        returning: buffers go back to the operating system when they are freed.
        checkpointing: the backward runs every layer again.
        accumulation: batches of the family that make one step.
    """
    arguments = ["pytorch", str(family.folder), family.model, str(accumulation)]
    arguments += ["checkpointing"] if checkpointing else []
    environment = RETURNING_MALLOC if returning else {}
    method, variant = CHECKPOINTING if checkpointing else PYTORCH, RETURNED if returning else KEPT
    if accumulation > 1:
        method += f", {parts(family.manifest.batch.batch_size, accumulation)}"
    return Contender(method, variant, arguments, environment=environment)


def accumulating_contenders(family: BenchmarkFamily, accumulation: int) -> list[Contender]:
    """PyTorch, plain and checkpointing, that makes each step in several batches of the family."""
    return [
        pytorch_contender(family, returning=returning, checkpointing=checkpointing, accumulation=accumulation)
        for checkpointing in (False, True)
        for returning in (False, True)
    ]


def rival_contenders(family: BenchmarkFamily, *, work: Path, ort_training_python: Path | None) -> list[Contender]:
    """All rivals but plain PyTorch; one that cannot be made here is said so and left out.

    Args:
        work: folder for what they run.
        ort_training_python: an interpreter whose `onnxruntime` is the training package.
    """
    return [
        *(pytorch_contender(family, returning=returning, checkpointing=True) for returning in (False, True)),
        *_executorch(family, work / "executorch-training.pte"),
        *_ort_training(family, work / "ort-artifacts", ort_training_python),
    ]


def _executorch(family: BenchmarkFamily, program: Path) -> Iterator[Contender]:
    if "executorch" not in installed_formats():
        print(f"{EXECUTORCH}: left out, quadloom[executorch] is not installed here")
        return
    if _made(EXECUTORCH, ["executorch_export", str(family.folder), family.model, str(program)]):
        yield Contender(EXECUTORCH, "portable kernels", ["executorch-training", str(family.folder), str(program)])


def _ort_training(family: BenchmarkFamily, folder: Path, python: Path | None) -> Iterator[Contender]:
    if python is None:
        print(f"{ORT}: left out, name an interpreter that has the package with --ort-training-python")
        return
    forward = folder / "forward.onnx"
    made = _made(ORT, ["ort_forward", str(family.folder), family.model, str(forward)]) and _made(
        ORT, ["ort_artifacts", str(forward), str(folder)], python=str(python)
    )
    arguments = ["ort-artifacts", str(family.folder), str(folder)]
    if made:
        yield Contender(ORT, "default arena", arguments, python=str(python))
        yield Contender(ORT, RETURNED, [*arguments, "lean"], environment=RETURNING_MALLOC, python=str(python))


def _made(method: str, words: list[str], *, python: str = sys.executable) -> bool:
    """Whether a module of this package made its files; each runs in a process of its own."""
    module, *arguments = words
    command = [python, "-m", f"quadloom_benchmarks.rivals.{module}", *arguments]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")]
        reason = lines[-1] if lines else f"status {done.returncode}"
        print(f"{method}: left out, its tools cannot make it of this model: {reason}")
    return done.returncode == 0
