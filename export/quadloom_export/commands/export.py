"""`quadloom export`: from a model to a family of training graphs."""

import argparse
import time
from pathlib import Path
from typing import get_args

from quadloom_runtime.contract.manifest import TaskKind, WeightFormat
from quadloom_runtime.errors import MissingExtraError, QuadloomError
from quadloom_runtime.family_signature import write_signature
from quadloom_runtime.keys import load_private_key

SUMMARY = "export a model as a family of training graphs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("model", metavar="MODEL", help="hub id or folder of a Hugging Face model, or a .gguf file")
    parser.add_argument("--task", choices=get_args(TaskKind), default="sequence-classification")
    parser.add_argument("--num-labels", type=int, default=2, metavar="N", help="classes of sequence-classification")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the family to")
    parser.add_argument("--depths", metavar="LIST", help="LoRA depths such as 0,2,4-6; default: all")
    parser.add_argument("--quantized", default="all", metavar="LIST", help="quantized-layer counts, or all")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=16.0)
    parser.add_argument(
        "--target-modules", default="query,value", metavar="NAMES", help="e.g. query,value or all-linear"
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--sequence-length", type=int, default=64)
    parser.add_argument(
        "--bits",
        choices=["8", "4", "auto"],
        default="8",
        help="per quantized stash element",
    )
    parser.add_argument(
        "--error-budget", type=float, metavar="SHARE", help="of --bits auto: largest relative gradient error (0.05)"
    )
    parser.add_argument("--group-size", type=int, default=64, help="stash elements that share a scale")
    parser.add_argument(
        "--recompute",
        default="0.03",
        metavar="SHARES",
        help="of the forward's products that backward may repeat (default %(default)s); several, such as 0.03,0.3: "
        "members for each",
    )
    parser.add_argument("--row-chunks", type=int, default=4, metavar="N", help="shares of a feed-forward's rows")
    parser.add_argument(
        "--weights",
        choices=get_args(WeightFormat),
        default="float32",
        help="how frozen linear weights are stored (default %(default)s); int8: a fourth of the bytes, rounded",
    )
    parser.add_argument(
        "--formats", default="onnx", metavar="LIST", help="onnx, executorch, ort-training, or several: onnx,executorch"
    )
    parser.add_argument(
        "--executorch-backend",
        choices=["portable", "xnnpack"],
        default="xnnpack",
        help="who computes what ExecuTorch's portable kernels are slow at (default %(default)s: same memory, faster)",
    )
    parser.add_argument(
        "--executorch-single-file",
        action="store_true",
        help="also write executorch/all.pte: every member and the weights in one program, for Android's loader",
    )
    parser.add_argument(
        "--measure", action="store_true", help="run each member in a process of its own, for its peak and step time"
    )
    parser.add_argument("--replace", action="store_true", help="remove another family that DIR holds")
    parser.add_argument("--seed", type=int, default=0, help="of the fresh head and adapters")
    parser.add_argument(
        "--signing-key", type=Path, metavar="FILE", help="sign the family with this private key, see `quadloom keys`"
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, printing one line per member."""
    depths = None if arguments.depths is None else parse_numbers(arguments.depths, option="--depths")
    quantized = None if arguments.quantized == "all" else parse_numbers(arguments.quantized, option="--quantized")
    try:
        from quadloom_export.family import export_family
        from quadloom_export.settings import FamilySettings
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=str(error.name), extra="export") from None
    settings = FamilySettings(
        task=arguments.task,
        num_labels=arguments.num_labels,
        depths=depths,
        quantized=quantized,
        formats=tuple(arguments.formats.split(",")),
        executorch_single_file=arguments.executorch_single_file,
        executorch_backend=arguments.executorch_backend,
        rank=arguments.rank,
        alpha=arguments.alpha,
        target_modules=tuple(arguments.target_modules.split(",")),
        batch_size=arguments.batch_size,
        sequence_length=arguments.sequence_length,
        bits="auto" if arguments.bits == "auto" else int(arguments.bits),
        group_size=arguments.group_size,
        error_budget=arguments.error_budget,
        recompute=parse_shares(arguments.recompute),
        row_chunks=arguments.row_chunks,
        weights=arguments.weights,
        measure=arguments.measure,
        seed=arguments.seed,
    )
    signing_key = None if arguments.signing_key is None else load_private_key(arguments.signing_key)
    started = time.monotonic()
    manifest = export_family(
        arguments.model,
        arguments.out,
        settings,
        replace=arguments.replace,
        progress=lambda line: print(line, flush=True),
    )
    if signing_key is not None:
        write_signature(arguments.out, signing_key)
    weight_bytes = sum(blob.size_bytes for blob in {each.weights for each in manifest.formats})
    total_bytes = sum(blob.size_bytes for blob in manifest.blobs())
    print(
        f"{len(manifest.members)} members in {arguments.out}: {total_bytes / 1e6:.1f} MB in all, "
        f"{100 * (total_bytes / weight_bytes - 1):.1f} % more than the weights; "
        f"{time.monotonic() - started:.0f} s"
    )
    return 0


def parse_shares(text: str) -> tuple[float, ...]:
    """``"0.03,0.3"`` -> (0.03, 0.3).

    Raises:
        QuadloomError: not a list of numbers.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise QuadloomError(
            f"--recompute {text!r} is not a list of shares", remedy="write shares from 0 to 1, e.g. 0.03,0.3"
        ) from None


def parse_numbers(text: str, *, option: str) -> tuple[int, ...]:
    """``"0,2,4-6"`` -> (0, 2, 4, 5, 6).

    Raises:
        QuadloomError: not a list of numbers and ranges.
    """
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found = range(int(first), int(last or first) + 1)
            if not found:
                raise ValueError(f"{part} counts down")
            numbers += found
    except ValueError:
        raise QuadloomError(
            f"{option} {text!r} is not a list of numbers", remedy="write numbers and ranges, e.g. 0,2,4-6"
        ) from None
    return tuple(sorted(set(numbers)))
