"""The thread of the app that trains, on a desktop's Java, with stand-ins for Android's classes."""

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.android_demo.core.java_classes import CORE, compile_java

STAND_INS = Path(__file__).parent / "thread"
APP = CORE.parent / "app/src/main/java/org/quadloom/app"
OF_APP = ("TrainingThread", "ExampleFile", "ProgressBoard")


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("javac") is None:
        pytest.skip("THE APP'S THREAD WAS NOT TESTED: javac is not installed (Debian: openjdk-17-jdk-headless)")
    folder = tmp_path_factory.mktemp("classes")
    sources = [*(CORE / "src/main").rglob("*.java"), *STAND_INS.rglob("*.java")]
    compile_java(sorted([*sources, *(APP / f"{name}.java" for name in OF_APP)]), folder)
    return folder


def test_data_that_do_not_fit_the_memory_let_the_app_wait_instead_of_end(classes: Path, tmp_path: Path) -> None:
    with (tmp_path / "data.jsonl").open("wb") as file:
        file.truncate(1 << 30)
    command = ["java", "-Xmx64m", f"-Dchosen={tmp_path}", "-cp", classes, "org.quadloom.app.ThreadOnDesktop"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # where an error that nobody catches would stand
    waiting, ended = done.stdout.splitlines()
    assert waiting.startswith("the app's memory did not suffice: ")
    assert waiting.endswith("(tries again within 15 minutes)")
    assert ended == "stopped; progress is kept"
