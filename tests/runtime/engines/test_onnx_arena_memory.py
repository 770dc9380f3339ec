"""What a graph in an arena takes of a process's memory, and what happens when that is not there.

A step of the family's member d01-q00 holds 200 MB.
"""

import json
from typing import Any

from tests.runtime.engines.arena_tables import Family
from tests.runtime.engines.script_process import in_process

MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.emulation.limits import step_memory_limit
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.errors import StepOutOfMemoryError
from quadloom_runtime.family_folder import load_manifest
from quadloom_runtime.memory import process_memory

folder, MB = Path(sys.argv[1]), 10**6
manifest = load_manifest(folder)
rows = manifest.batch.batch_size, manifest.batch.sequence_length
batch = Batch(*(np.ones(rows, np.int64) for _ in range(3)), np.ones(rows[0], np.int64))
parameters = {row.name: np.ones(row.shape, np.float32) for row in manifest.parameters}
small, hungry = (MemberKey(depth=1, quantized_layers=1), MemberKey(depth=1, quantized_layers=0))
expected = open_training_engine(folder, manifest, small).step(parameters, batch)

def is_expected(found):
    same = all((found.gradients[name] == value).all() for name, value in expected.gradients.items())
    return bool(same and found.gradients.keys() == expected.gradients.keys() and found.loss == expected.loss)

def held():
    return [process_memory().data_bytes // MB, process_memory().anonymous_bytes // MB]
"""


def measured(family: Family, body: str) -> Any:
    return json.loads(in_process(MEASURE + body, family[0]).splitlines()[-1])


def test_the_arena_is_allocated_by_the_first_step_and_kept(family: Family) -> None:
    before, opened_, stepped, again, closed = measured(
        family,
        """
figures = [held()]
engine = open_training_engine(folder, manifest, hungry)
figures.append(held())
for _ in range(2):
    assert is_expected(engine.step(parameters, batch))
    figures.append(held())
del engine
print(json.dumps([*figures, held()]))
""",
    )
    for kind in (0, 1):  # address space, and pages of it
        assert opened_[kind] - before[kind] < 10
        assert 195 <= stepped[kind] - opened_[kind] < 210
        assert abs(again[kind] - stepped[kind]) <= 1
        assert closed[kind] - before[kind] < 10


def test_a_step_that_did_not_fit_is_out_of_memory_and_the_next_one_runs(family: Family) -> None:
    found = measured(
        family,
        """
engine = open_training_engine(folder, manifest, hungry)
caught = []
for _ in range(2):
    try:
        with step_memory_limit(100 * MB, member="d01-q00"):
            engine.step(parameters, batch)
    except StepOutOfMemoryError as error:
        caught.append([error.member, error.limit_bytes])
right = [is_expected(engine.step(parameters, batch))]
with step_memory_limit(10 * MB, member="d01-q00"):  # all that it needs is there
    right.append(is_expected(engine.step(parameters, batch)))
print(json.dumps({"caught": caught, "right": right}))
""",
    )
    assert found == {"caught": [["d01-q00", 100_000_000]] * 2, "right": [True, True]}


def test_a_graph_that_does_not_even_fit_its_first_run_is_out_of_memory(family: Family) -> None:
    found = measured(
        family,
        """
try:
    with step_memory_limit(100 * MB, member="d01-q00"):
        open_training_engine(folder, manifest, hungry)
except StepOutOfMemoryError as error:
    caught = error.cause
engine = open_training_engine(folder, manifest, hungry)
print(json.dumps([caught, is_expected(engine.step(parameters, batch))]))
""",
    )
    assert "out of memory: a step of member d01-q00 does not fit the limit of 100.0 MB" in found[0]
    assert found[1]
