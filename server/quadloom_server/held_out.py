"""Evaluates the global model on the server's held-out examples, through the family's evaluation graph."""

from collections.abc import Mapping
from pathlib import Path

from quadloom_runtime.contract.wire import Evaluation
from quadloom_runtime.data import batches, encode, load_examples
from quadloom_runtime.engines.engine import FloatArray
from quadloom_runtime.engines.select import open_evaluation_engine
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.trainer import evaluate
from quadloom_server.family import ServedFamily
from quadloom_server.rounds.evaluation import Evaluator

TOKENIZER = "tokenizer.json"


def held_out_evaluator(
    family: ServedFamily, data: Path, *, text_field: str, label_field: str, limit: int | None, threads: int
) -> Evaluator:
    """Load data and graph once, and give the function that judges parameters on them.

    Args:
        data: JSONL, CSV or Parquet.
        limit: use the first `limit` examples, None for all.
        threads: threads of the evaluation graph.

    Raises:
        QuadloomError: the data, the tokenizer or the graph cannot be used, or a number is out of range.
    """
    for name, value in (("--eval-limit", limit), ("--threads", threads)):
        if value is not None and value < 1:
            raise QuadloomError(f"{name} is {value}", remedy=f"give {name} a value of at least 1")
    manifest = family.manifest
    tokenizer = next((each for each in manifest.tokenizer if Path(each.path).name == TOKENIZER), None)
    if tokenizer is None or not manifest.evaluation:
        lacks = TOKENIZER if tokenizer is None else "an evaluation graph"
        raise QuadloomError(
            f"the family at {family.folder} lacks {lacks}, so --eval-data cannot be used",
            remedy="let `quadloom export` finish, or serve without --eval-data",
        )
    examples = load_examples(data, num_labels=manifest.task.num_labels, text_field=text_field, label_field=label_field)
    encoded = encode(
        examples[:limit],
        family.folder / tokenizer.path,
        sequence_length=manifest.batch.sequence_length,
        task=manifest.task.kind,
    )
    engine = open_evaluation_engine(family.folder, manifest, threads=threads)

    def judge(parameters: Mapping[str, FloatArray]) -> Evaluation:
        return evaluate(engine, parameters, batches(encoded, batch_size=manifest.batch.batch_size))

    return judge
