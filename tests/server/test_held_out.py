"""The global model on held-out text: tokenizer, batches, evaluation graph and averages together, in closed form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.bound_graph import bound
from tokenizers import Tokenizer, models, pre_tokenizers

from quadloom_runtime.contract.manifest import EvaluationSpec, TensorSpec
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.family_folder import blob_reference, load_manifest, save_manifest
from quadloom_server.family import ServedFamily, open_family
from quadloom_server.held_out import held_out_evaluator

BIAS = "base_model.model.classifier.bias"
ROWS = [("w w w", 1), ("w", 0), ("w w", 1), ("w w w w", 1), ("w w", 0)]  # the last batch of 2 has a padding row

# logits = bias * number of words, so accuracy and loss have a closed form.
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
evaluation (int64[2,4] attention_mask, int64[2] labels, float[2] bias)
  => (float loss, int64 correct_count, int64 example_count, float[2,2] logits)
<int64[1] one = {1}, int64 ignored = {-100}, int64 zero = {0}>
{
  words = ReduceSum <keepdims = 1> (attention_mask, one)
  scale = Cast <to = 1> (words)
  logits = Mul (scale, bias)
  predicted = ArgMax <axis = 1, keepdims = 0> (logits)
  right = Equal (predicted, labels)
  right_count = Cast <to = 7> (right)
  correct_count = ReduceSum <keepdims = 0> (right_count)
  padding = Equal (labels, ignored)
  real = Not (padding)
  real_count = Cast <to = 7> (real)
  example_count = ReduceSum <keepdims = 0> (real_count)
  log_probabilities = LogSoftmax <axis = 1> (logits)
  class = Max (labels, zero)
  column = Unsqueeze (class, one)
  of_class = GatherElements <axis = 1> (log_probabilities, column)
  per_row = Squeeze (of_class, one)
  weight = Cast <to = 1> (real)
  weighted = Mul (per_row, weight)
  sum = ReduceSum <keepdims = 0> (weighted)
  rows = ReduceSum <keepdims = 0> (weight)
  mean = Div (sum, rows)
  loss = Neg (mean)
}
"""


@pytest.fixture
def evaluable(family_folder: Path) -> ServedFamily:
    """The synthetic family with a real tokenizer and a real evaluation graph."""
    parser = pytest.importorskip("onnx.parser")
    model = parser.parse_model(GRAPH)
    model.graph.input[2].name = BIAS
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "bias":
                node.input[place] = BIAS
    tokenizer = Tokenizer(models.WordLevel({"w": 1, "?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=4)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(family_folder / "tokenizer/tokenizer.json"))
    integers = [
        TensorSpec(name="attention_mask", dtype="int64", shape=(2, 4)),
        TensorSpec(name="labels", dtype="int64", shape=(2,)),
    ]
    results = {"loss": "float32", "correct_count": "int64", "example_count": "int64"}
    outputs = (
        *(TensorSpec(name=name, dtype=dtype, shape=()) for name, dtype in results.items()),  # type: ignore[arg-type]
        TensorSpec(name="logits", dtype="float32", shape=(2, 2)),
    )
    (family_folder / "onnx/eval.onnx").write_bytes(bound(model, outputs, batch_size=2))
    spec = EvaluationSpec(
        format="onnx",
        graph=blob_reference(family_folder, "onnx/eval.onnx", media_type="application/octet-stream"),
        planned_peak_bytes=1,
        inputs=(*integers, TensorSpec(name=BIAS, dtype="float32", shape=(2,))),
        outputs=outputs,
    )
    text = blob_reference(family_folder, "tokenizer/tokenizer.json", media_type="application/json")
    changed = load_manifest(family_folder).model_copy(update={"evaluation": (spec,), "tokenizer": (text,)})
    save_manifest(family_folder, changed)
    return open_family(family_folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "held-out.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in ROWS))
    return path


def expected(bias: np.ndarray, rows: list[tuple[str, int]]) -> tuple[float, float]:
    """Accuracy and loss in float64."""
    logits = np.array([[len(text.split())] for text, _ in rows]) * bias.astype(np.float64)
    labels = np.array([label for _, label in rows])
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -log_probabilities[np.arange(len(rows)), labels].mean()
    return float((logits.argmax(axis=1) == labels).mean()), float(loss)


@pytest.mark.parametrize("limit", [None, 2, 3])
def test_accuracy_and_loss_equal_the_closed_form_and_padding_rows_do_not_count(
    evaluable: ServedFamily, data: Path, limit: int | None
) -> None:
    evaluator = held_out_evaluator(evaluable, data, text_field="text", label_field="label", limit=limit, threads=1)
    for bias in (np.array([0.3, -0.2], np.float32), np.array([-0.1, 0.4], np.float32)):
        found = evaluator({BIAS: bias})
        accuracy, loss = expected(bias, ROWS[:limit])
        assert found.examples == len(ROWS[:limit])
        assert found.accuracy == pytest.approx(accuracy)
        assert found.loss == pytest.approx(loss, rel=1e-5)


def test_a_whole_task_is_evaluated_on_held_out_text(
    evaluable: ServedFamily, data: Path, make_task: Callable[..., Any]
) -> None:
    evaluator = held_out_evaluator(evaluable, data, text_field="text", label_field="label", limit=None, threads=1)
    task = make_task(rounds=1, evaluator=evaluator)
    (device,) = task.enrol("device")
    assignment = task.assignment(device)
    task.report(assignment.assignment_id, task.content(assignment, 0.5))
    task.run_background()
    status = task.rounds.task_status()
    accuracy, loss = expected(task.parameters(1)[BIAS], ROWS)
    assert status.rounds[0].evaluation.accuracy == pytest.approx(accuracy)
    assert status.rounds[0].evaluation.loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(("limit", "threads", "words"), [(0, 1, "--eval-limit is 0"), (None, 0, "--threads is 0")])
def test_numbers_out_of_range_are_refused(
    evaluable: ServedFamily, data: Path, limit: int | None, threads: int, words: str
) -> None:
    with pytest.raises(QuadloomError, match=words):
        held_out_evaluator(evaluable, data, text_field="text", label_field="label", limit=limit, threads=threads)


def test_a_family_without_an_evaluation_graph_is_refused(family: ServedFamily, data: Path) -> None:
    with pytest.raises(QuadloomError, match="lacks an evaluation graph"):
        held_out_evaluator(family, data, text_field="text", label_field="label", limit=None, threads=1)
