"""The libraries of the APK, executed off-device: a desktop's JVM runs the app's own runtime over them.

They are Android's x86-64 files, byte for byte but for the names of what they import, on glibc instead of Android's C
library.
"""

import json
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.android_demo.app.desktop_libraries import HERE, make_desktop_libraries
from tests.export.conftest import word_piece_tokenizer
from transformers import BertConfig, BertForSequenceClassification

from quadloom_export.family import export_family
from quadloom_export.settings import FamilySettings
from quadloom_runtime.contract.manifest import FamilyManifest
from quadloom_runtime.engines.engine import Batch
from quadloom_runtime.engines.select import open_training_engine

pytest.importorskip("executorch")

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "android_demo"
PACKAGES = ROOT / "build" / "android" / "packages"
CANNOT_BE_HAD = 3
SETTINGS = FamilySettings(
    depths=(1,),
    quantized=(1,),
    group_size=8,
    rank=4,
    alpha=8.0,
    batch_size=4,
    sequence_length=8,
    formats=("executorch",),
    executorch_single_file=True,
)


def skip(reason: str) -> None:
    pytest.skip(f"THE ANDROID LIBRARY WAS NOT EXECUTED: {reason}")


@pytest.fixture(scope="module")
def packages() -> Path:
    if platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        skip("the machine is no x86-64 Linux with glibc")
    missing = [each for each in ("java", "javac", "jar", "gcc", "npm", "apt-get") if shutil.which(each) is None]
    if missing:
        skip(f"not installed: {', '.join(missing)}")
    fetched = subprocess.run(
        [DEMO / "tools" / "fetch_packages.sh", PACKAGES], capture_output=True, text=True, timeout=500, check=False
    )
    if fetched.returncode == CANNOT_BE_HAD:
        skip(fetched.stderr.strip())
    assert fetched.returncode == 0, fetched.stderr
    return PACKAGES


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FamilyManifest]:
    root = tmp_path_factory.mktemp("family")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=64, max_position_embeddings=16, initializer_range=0.2, **sizes)
    BertForSequenceClassification(config).save_pretrained(root / "model")
    word_piece_tokenizer().save_pretrained(root / "model")
    return root / "family", export_family(str(root / "model"), root / "family", SETTINGS)


@dataclass(frozen=True)
class Desktop:
    """A JVM with the app's runtimes on Android's libraries."""

    classes: str
    libraries: Path

    def run(self, program: str, *arguments: str | Path) -> str:
        command = ["java", f"-Djava.library.path={self.libraries}", "-cp", self.classes, f"org.quadloom.core.{program}"]
        done = subprocess.run(
            [*command, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(self.libraries)},
            cwd=self.libraries,  # where a crash would leave its report
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def desktop(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Desktop:
    root = tmp_path_factory.mktemp("desktop")
    executorch = packages / "react-native-executorch"
    of_react = packages / "react-native" / "jni" / "x86_64"
    native = [
        executorch / "third-party" / "android" / "libs" / "executorch" / "x86_64" / "libexecutorch.so",
        of_react / "libfbjni.so",
        of_react / "libc++_shared.so",
    ]
    make_desktop_libraries(native, root / "libraries")
    api = executorch / "android" / "libs" / "classes.jar"
    folders = [DEMO / "core" / "src" / "main" / "java", DEMO / "app" / "offline", HERE]
    folders.append(DEMO / "app" / "src" / "main" / "java" / "org" / "quadloom" / "app" / "runtimes")
    sources = [str(each) for folder in folders for each in folder.rglob("*.java")]
    compiled = subprocess.run(
        ["javac", "--release", "8", "-nowarn", "-encoding", "UTF-8", "-d", root / "classes", "-cp", api, *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr
    return Desktop(f"{root / 'classes'}:{api}", root / "libraries")


def batch_of(seed: int) -> Batch:
    random = np.random.default_rng(seed)
    ids = random.integers(5, 60, (4, 8))
    mask = np.ones_like(ids)
    mask[1, 5:] = 0
    return Batch(ids, mask, np.zeros_like(ids), np.array([0, 1, 1, -100]))


def test_every_member_trains_on_it_as_on_the_python_device(
    desktop: Desktop,
    family: tuple[Path, FamilyManifest],
    tmp_path: Path,
) -> None:
    folder, manifest = family
    random = np.random.default_rng(0)
    parameters = {
        each.name: random.normal(scale=0.1, size=each.shape).astype(np.float32) for each in manifest.parameters
    }
    save_file(parameters, tmp_path / "parameters")
    batches = [batch_of(seed) for seed in (1, 2)]
    rows = [
        " ".join(map(str, tensor.ravel()))
        for each in batches
        for tensor in (each.input_ids, each.attention_mask, each.token_type_ids, each.labels)
    ]
    (tmp_path / "batches").write_text("\n".join(rows))
    (tmp_path / "out").mkdir()

    files = (tmp_path / each for each in ("parameters", "batches", "out"))
    first, *lines = desktop.run("StepsOnDesktop", folder, *files).splitlines()

    # The signatures of ONNX Runtime are on the class path here, which the APK does not hold.
    assert "executorch" in first
    found = {(stem, int(number)): figures for stem, number, *figures in map(str.split, lines)}
    assert len(found) == len(manifest.members) * len(batches)
    for member in manifest.members:
        engine = open_training_engine(folder, manifest, member.key)
        for number, batch in enumerate(batches):
            expected = engine.step(parameters, batch)
            loss, correct, examples = found[member.key.stem, number]
            assert float(loss) == pytest.approx(expected.loss, abs=1e-5)
            assert (int(correct), int(examples)) == (expected.correct, expected.examples)
            gradients = load_file(tmp_path / "out" / f"{member.key.stem}-{number}")
            assert gradients.keys() == expected.gradients.keys()
            for name, value in expected.gradients.items():
                np.testing.assert_allclose(gradients[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_device_loop_of_the_app_takes_part_in_a_task_on_it(
    desktop: Desktop,
    family: tuple[Path, FamilyManifest],
    tmp_path: Path,
) -> None:
    texts = [{"text": text, "label": label} for text, label in (("a b c", 0), ("x y z", 1), ("b a", 0), ("z x", 1))]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, texts * 4)))
    quadloom, state = [sys.executable, "-m", "quadloom_runtime"], tmp_path / "state"
    serve = [*quadloom, "serve", "--family", str(family[0]), "--state", str(state)]
    with subprocess.Popen(
        [*serve, "--port", "0", "--rounds", "2", "--exit-when-finished"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = next(line for line in server.stdout if "serving " in line).split()[-1]
            issue = [*quadloom, "server", "tokens", "issue", "--server", url]
            token = subprocess.run(
                [*issue, "--admin-token-file", str(state / "admin-token")], capture_output=True, text=True, check=True
            ).stdout.strip()
            said = desktop.run("LoopOnDesktop", url, token, tmp_path / "device", tmp_path / "data.jsonl")
        finally:
            server.terminate()
    steps = [line.split() for line in said.splitlines() if line.startswith("step ")]
    assert [(row[1], row[2]) for row in steps] == [(str(a), str(b)) for a in (1, 2) for b in (1, 2, 3, 4)], said
    assert all(0 < float(row[4]) < 2 for row in steps), said
    assert said.count("reported ") == 2, said
    assert said.splitlines()[-1] == "ended FINISHED"
