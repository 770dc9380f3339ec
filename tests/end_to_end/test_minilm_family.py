"""The real MiniLM-L6 on real movie-review sentences: gradient error, memory, the hard limit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from quadloom_export.calibration import eager_gradients, gradient_error
from quadloom_export.family import export_family
from quadloom_export.model import LoraModel, add_lora
from quadloom_export.pretrained import load_classifier
from quadloom_export.settings import FamilySettings
from quadloom_runtime.contract.manifest import FamilyManifest, GradientError, MemberKey
from quadloom_runtime.data import batches, encode, load_examples
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.select import open_training_engine

EXAMPLE = Path(__file__).parents[2] / "build" / "examples" / "movie_reviews"
FULL, QUANTIZED = (MemberKey(depth=6, quantized_layers=count, recompute_percent=3) for count in (0, 6))

pytestmark = pytest.mark.skipif(
    not (EXAMPLE / "eval.jsonl").exists(),
    reason="the real model and text are not here: run `make test`, or examples/movie_reviews/prepare.py first",
)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("minilm") / "family"
    torch.set_num_threads(1)
    export_family(str(EXAMPLE / "model"), folder, FamilySettings(depths=(6,), quantized=(0, 6)))
    return folder


@pytest.fixture(scope="module")
def manifest(family: Path) -> FamilyManifest:
    return FamilyManifest.model_validate_json((family / "family.json").read_bytes())


@pytest.fixture(scope="module")
def reviews(family: Path, manifest: FamilyManifest) -> Batch:
    examples = load_examples(EXAMPLE / "eval.jsonl", num_labels=2)[: manifest.batch.batch_size]
    encoded = encode(examples, family / "tokenizer" / "tokenizer.json", sequence_length=manifest.batch.sequence_length)
    return next(batches(encoded, batch_size=manifest.batch.batch_size))


@pytest.fixture(scope="module")
def model() -> LoraModel:
    return add_lora(load_classifier(str(EXAMPLE / "model"), num_labels=2), rank=8, alpha=16.0)


@pytest.mark.parametrize("noise", [0.0, 0.02], ids=["fresh adapter", "trained-like adapter"])
def test_an_int8_stash_keeps_the_gradient_on_real_weights_and_sentences(
    family: Path, manifest: FamilyManifest, reviews: Batch, model: LoraModel, noise: float
) -> None:
    generator = np.random.default_rng(0)
    start = load_file(family / "adapter" / "adapter_model.safetensors")
    parameters = {
        name: (value + noise * generator.standard_normal(value.shape)).astype(np.float32)
        for name, value in start.items()
    }
    reference = eager_gradients(model, {name: torch.from_numpy(each) for name, each in parameters.items()}, reviews)

    def error(key: MemberKey) -> GradientError:
        found = open_training_engine(family, manifest, key).step(parameters, reviews).gradients
        return gradient_error(reference, found, manifest.trained_parameters(key.depth))

    assert error(FULL).relative_l2 <= 1e-5
    quantized = error(QUANTIZED)
    assert quantized.relative_l2 <= 0.04
    assert quantized.worst_cosine >= 0.99


@pytest.mark.parametrize("key", [FULL, QUANTIZED], ids=str)
def test_the_planned_peak_predicts_the_measured_one(family: Path, manifest: FamilyManifest, key: MemberKey) -> None:
    command = [sys.executable, "-m", "quadloom_benchmarks.worker", "member", str(family), key.model_dump_json(), "1"]
    done = subprocess.run(command, input="step\n" * 3, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    planned = next(each.planned_peak_bytes for each in manifest.members if each.key == key)
    assert abs(measured / planned - 1) <= 0.15


def test_all_28_members_add_at_most_15_percent_to_one_copy_of_the_weights(
    family: Path, manifest: FamilyManifest
) -> None:
    weights = manifest.format_spec("onnx").weights.size_bytes
    checkpoint = (EXAMPLE / "model" / "model.safetensors").stat().st_size
    members = 28 * max(member.graph.size_bytes for member in manifest.members)
    shared = sum(each.size_bytes for each in (*manifest.adapter, *manifest.tokenizer, manifest.evaluation[0].graph))
    text = 28 * (family / "family.json").stat().st_size // len(manifest.members)
    assert weights + members + shared + text <= 1.15 * checkpoint


LIMITED_STEP = """
import sys
from pathlib import Path
from safetensors.numpy import load_file
from quadloom_benchmarks.families import random_batch
from quadloom_runtime.emulation.limits import step_memory_limit
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.errors import StepOutOfMemoryError
from quadloom_runtime.family_folder import load_manifest
from quadloom_runtime.member_names import find_member

folder, member, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
manifest = load_manifest(folder)
key = find_member(manifest, member).key
engine = open_training_engine(folder, manifest, key)
parameters = load_file(folder / "adapter" / "adapter_model.safetensors")
try:
    with step_memory_limit(limit, member=key.label):
        engine.step(parameters, random_batch(manifest))
    print("trained")
except StepOutOfMemoryError as error:
    print(error)
print("alive")
"""


def test_a_member_that_does_not_fit_the_hard_limit_fails_by_name_and_a_quantized_one_fits(family: Path) -> None:
    def step_within(member: str, limit_bytes: int) -> list[str]:
        command = [sys.executable, "-c", LIMITED_STEP, str(family), member, str(limit_bytes)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    refused = step_within("6,0", 60_000_000)
    assert "member d06-q00-r03 does not fit the limit of 60.0 MB" in refused[0]
    assert refused[-1] == "alive"
    assert step_within("6,6", 60_000_000) == ["trained", "alive"]
    assert step_within("6,0", 180_000_000) == ["trained", "alive"]
