"""Validation text, taken out of the training text, so that nothing is ever chosen on held-out text."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from quadloom_runtime.data import Example, load_examples
from quadloom_runtime.durable_files import write_atomically
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import file_sha256
from quadloom_server.simulation.opening import Inputs
from quadloom_server.simulation.randomness import generator


def validation_inputs(inputs: Inputs, *, share: float, work: Path) -> Inputs:
    """Inputs whose held-out text is a share of the training text, and whose training text is the rest.

    Args:
        share: of the rows, drawn alike from all of them; the same ones every time.
        work: folder that takes the two files.

    Raises:
        QuadloomError: the training text cannot be read, or either part would be empty.
    """
    examples = load_examples(inputs.train, text_field=inputs.text_field, label_field=inputs.label_field)
    count = round(share * len(examples))
    if not 0 < count < len(examples):
        raise QuadloomError(
            f"--validation-share {share:g} of {len(examples)} training rows leaves a part empty",
            remedy="give a share between 0 and 1, or more text",
        )
    order = [int(row) for row in generator(0, "validation").permutation(len(examples))]
    name = hashlib.sha256(f"{file_sha256(inputs.train)}|{share}".encode()).hexdigest()[:12]
    paths = [work / f"validation-{name}" / part for part in ("held_out.jsonl", "train.jsonl")]
    for path, rows in zip(paths, (order[:count], order[count:]), strict=True):
        write_atomically(path, _lines([examples[row] for row in sorted(rows)]))
    return replace(inputs, train=paths[1], held_out=paths[0], text_field="text", label_field="label")


def _lines(examples: list[Example]) -> bytes:
    rows = [{"text": each.text, "label": each.label} for each in examples]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
