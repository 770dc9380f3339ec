"""The Java code by itself: JUnit, with vectors that the Python packages give right now."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tests.android_demo.core.java_classes import CORE, compile_java
from tests.android_demo.core.vectors import write_vectors

TESTS = ("VectorsTest", "JsonTest", "RefusalsTest", "ConnectionsTest")
UNPACKED = Path(__file__).parents[3] / "build/junit"


@pytest.fixture(scope="module")
def junit() -> str:
    """Class path of JUnit 4."""
    if shutil.which("apt-get") is None:
        pytest.skip("NO JUNIT TEST WAS RUN: there is no apt-get to fetch Debian's junit4 with")
    done = subprocess.run([CORE / "fetch_junit.sh", UNPACKED], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        pytest.skip(f"NO JUNIT TEST WAS RUN: Debian's junit4 is not installed and cannot be fetched: {done.stderr}")
    return done.stdout.strip()


def test_java_agrees_with_numpy_tokenizers_safetensors_torch_and_cryptography(
    java: Path, junit: str, tmp_path: Path
) -> None:
    vectors, classes = tmp_path / "vectors", tmp_path / "classes"
    vectors.mkdir()
    classes.mkdir()
    write_vectors(vectors)
    class_path = os.pathsep.join((str(java), junit))
    compile_java(sorted((CORE / "src/test").rglob("*.java")), classes, class_path=class_path)
    names = [f"org.quadloom.core.{each}" for each in TESTS]
    runner = ["java", "-cp", f"{classes}{os.pathsep}{class_path}", f"-Dquadloom.vectors={vectors}"]
    done = subprocess.run(
        [*runner, "org.junit.runner.JUnitCore", *names],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert {path.stem for path in (CORE / "src/test").rglob("*Test.java")} == set(TESTS)
    with (
        safe_open(vectors / "tensors.safetensors", "numpy") as given,
        safe_open(vectors / "written.safetensors", "numpy") as written,
    ):
        assert written.metadata() == given.metadata()
        assert set(written.keys()) == set(given.keys())
        for name in given.keys():  # noqa: SIM118 - it is no mapping
            np.testing.assert_array_equal(written.get_tensor(name), given.get_tensor(name))
