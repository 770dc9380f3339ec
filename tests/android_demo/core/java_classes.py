"""Where the Java sources are, and how they are compiled as an app for Android needs them: class files of Java 8."""

import subprocess
from collections.abc import Iterable
from pathlib import Path

CORE = Path(__file__).parents[3] / "android_demo/core"


def compile_java(sources: Iterable[Path], target: Path, *, class_path: str = "") -> None:
    """Compile; a warning is an error."""
    command = ["javac", "--release", "8", "-Xlint:all,-options,-try", "-Werror", "-d", str(target)]
    words = [*command, "-cp", class_path or str(target), *map(str, sources)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
