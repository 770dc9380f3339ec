"""What every rival must agree with: a rival that computes something else is no comparison."""

from collections.abc import Callable

import numpy as np
import pytest
from safetensors.numpy import load_file

from quadloom_benchmarks.families import BenchmarkFamily, random_batch
from quadloom_benchmarks.rivals.rival import Rival
from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.engines.select import open_training_engine

TOLERANCE = 1e-4


@pytest.fixture
def agrees_with_ours(family: BenchmarkFamily) -> Callable[[Rival], None]:
    """``agrees_with_ours(rival)``: after two steps its gradients are those of our member at full depth."""

    def check(rival: Rival) -> None:
        key = MemberKey(depth=2, quantized_layers=0, recompute_percent=3)
        engine = open_training_engine(family.folder, family.manifest, key, threads=1)
        parameters = load_file(family.folder / "adapter/adapter_model.safetensors")
        ours = engine.step(parameters, random_batch(family.manifest)).gradients
        rival.step()
        rival.step()
        theirs = rival.gradients()
        assert set(theirs) == set(ours)
        for name, gradient in ours.items():
            assert np.abs(gradient).max() > 0, name
            np.testing.assert_allclose(theirs[name], gradient, rtol=0, atol=TOLERANCE * np.abs(gradient).max())

    return check
