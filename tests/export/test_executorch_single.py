"""One program with every method and one copy of the weights."""

from pathlib import Path

import numpy as np
import pytest
from tests.export.engines.formats import arrays, as_batch

from quadloom_export.lowering.executorch import (
    WEIGHTS_NAME,
    input_specs,
    lower_to_executorch,
    output_specs,
    save,
    weights_file,
)
from quadloom_export.lowering.executorch_adamw import lower_adamw
from quadloom_export.lowering.executorch_single import EVALUATION_METHOD, method_name, single_file
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.engines.executorch import ExecutorchEvaluationEngine, ExecutorchTrainingEngine
from quadloom_runtime.engines.executorch_adamw import ExecutorchAdamW
from quadloom_runtime.errors import QuadloomError
from quadloom_runtime.optimizers import AdamW

pytest.importorskip("executorch")

LAYERS = 3
MEMBERS = ((1, 0), (LAYERS, LAYERS))


def key_of(depth: int, quantized_layers: int) -> MemberKey:
    return MemberKey(depth=depth, quantized_layers=quantized_layers)


def test_a_method_is_named_as_its_member():
    key = MemberKey(depth=6, quantized_layers=4, recompute_percent=30, format="executorch")
    assert method_name(key) == "train_d06_q04_r30"
    assert method_name(key_of(6, 4)) == "train_d06_q04"


@pytest.fixture(scope="module")
def program(make_tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bert = make_tiny("bert")
    graphs = {method_name(key_of(*each)): bert.member(*each) for each in MEMBERS}
    path = tmp_path_factory.mktemp("single") / "family.pte"
    save(single_file({**graphs, EVALUATION_METHOD: bert.evaluation}), path)
    return path


def specs(graph):
    return {"inputs": input_specs(graph), "outputs": output_specs(graph)}


def training_engine(bert, program: Path, depth: int, quantized_layers: int) -> ExecutorchTrainingEngine:
    graph = bert.member(depth, quantized_layers)
    return ExecutorchTrainingEngine(
        program, None, **specs(graph), method=method_name(key_of(depth, quantized_layers)), label="single"
    )


@pytest.mark.parametrize(("depth", "quantized_layers"), MEMBERS)
def test_each_method_gives_what_its_own_program_gives(bert, program, tmp_path, depth, quantized_layers):
    parameters, batch = arrays(bert.parameters()), as_batch(bert.batch(8))
    found = training_engine(bert, program, depth, quantized_layers).step(parameters, batch)
    graph = bert.member(depth, quantized_layers)
    save(lower_to_executorch(graph).program, tmp_path / "own.pte")
    save(weights_file(graph), tmp_path / WEIGHTS_NAME)
    own = ExecutorchTrainingEngine(tmp_path / "own.pte", tmp_path / WEIGHTS_NAME, **specs(graph), label="own")
    expected = own.step(parameters, batch)
    assert found.loss == expected.loss
    assert found.gradients.keys() == expected.gradients.keys()
    for name, value in expected.gradients.items():
        np.testing.assert_array_equal(found.gradients[name], value)


def test_evaluation_and_optimizer_are_methods_too(bert, program):
    parameters, batch = bert.parameters(), bert.batch(5)
    evaluation = ExecutorchEvaluationEngine(program, None, **specs(bert.evaluation), method="eval")
    found = evaluation.evaluate(arrays(parameters), as_batch(batch))
    np.testing.assert_allclose(found.logits, bert.eager(parameters, batch).logits, atol=1e-6)
    gradients = bert.eager(parameters, batch).gradients
    rates = dict.fromkeys(gradients, 1e-3)
    ours, numpys = arrays(parameters), arrays(parameters)
    ExecutorchAdamW(program, weight_decay=0.1).update(ours, gradients, rates)
    AdamW(weight_decay=0.1).update(numpys, gradients, rates)
    for name, value in numpys.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-6)


def test_the_weights_are_in_the_program_once(bert, program):
    graphs = [*(bert.member(*each) for each in MEMBERS), bert.evaluation]
    weights_bytes = len(weights_file(*graphs))
    own_bytes = sum(len(lower_to_executorch(graph).program) for graph in graphs) + len(lower_adamw(2))
    assert program.stat().st_size < weights_bytes + own_bytes + 16_000


def test_a_method_that_is_not_there_is_refused_with_those_that_are(bert, program):
    with pytest.raises(QuadloomError, match="no method 'train_d02_q00'") as raised:
        training_engine(bert, program, 2, 0)
    assert "choose from: adamw, eval, train_d01_q00, train_d03_q03" in raised.value.remedy
