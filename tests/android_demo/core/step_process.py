"""The graph of a Java device under test: runs an ONNX member with the product's engine, asked through a pipe.

Each message is its length, four bytes, then safetensors: parameters and the batch in; gradients, loss and counts out.
"""

import json
import os
import struct
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors.numpy import load, save

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.family_folder import load_manifest

LENGTH = ">i"


def main(family: Path, files: Path, depth: int, quantized_layers: int, recompute_percent: int) -> None:
    """Answer until the device closes the pipe; `family` has the manifest, `files` what the device fetched."""
    requests, answers = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing but answers may reach the pipe
    key = MemberKey(depth=depth, quantized_layers=quantized_layers, recompute_percent=recompute_percent)
    manifest = load_manifest(family)
    engine = open_training_engine(files, manifest, key)
    while content := _received(requests):
        rows = manifest.batch.batch_size
        described = json.loads(_metadata(content)["batch"])
        batch = Batch(**{name: _rows(values, rows) for name, values in described.items()})
        result = engine.step(load(content), batch)
        figures = {"loss": repr(result.loss), "correct": str(result.correct), "examples": str(result.examples)}
        gradients = {name: np.ascontiguousarray(value) for name, value in result.gradients.items()}
        answer = save(gradients, figures)
        answers.write(struct.pack(LENGTH, len(answer)) + answer)
        answers.flush()


def _rows(values: list[int], rows: int) -> np.ndarray:
    array = np.asarray(values, dtype=np.int64)
    return array if len(array) == rows else array.reshape(rows, -1)


def _received(requests: BinaryIO) -> bytes:
    head = requests.read(struct.calcsize(LENGTH))
    return requests.read(struct.unpack(LENGTH, head)[0]) if head else b""


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]))
