"""Export a benchmark's family with another interpreter: that of the environment that has onnxruntime-training.

``python -m quadloom_benchmarks.export_elsewhere SETTINGS`` exports and prints the folder.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from quadloom_benchmarks.families import BenchmarkFamily, export_random_family, parse_members
from quadloom_runtime.errors import QuadloomError


def export_elsewhere(python: Path, **settings: Any) -> BenchmarkFamily:
    """`export_random_family` in a process of `python`; its settings are the same.

    Raises:
        QuadloomError: it did not export; its own error is part of the message.
    """
    names = " ".join(str(name) for name in settings["members"])
    text = json.dumps({**settings, "work": str(settings["work"]), "members": names})
    command = [str(python), "-m", "quadloom_benchmarks.export_elsewhere", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line and not line.startswith(" ")]
        raise QuadloomError(
            f"{python} did not export the family: {lines[-1] if lines else f'status {done.returncode}'}",
            remedy="name an interpreter that has quadloom[lowering,ort-training]: `make test-ort-training` makes one",
        )
    return BenchmarkFamily.load(Path(done.stdout.splitlines()[-1]))


def main() -> None:
    """Export as the one argument says."""
    settings = json.loads(sys.argv[1])
    settings |= {
        "work": Path(settings["work"]),
        "members": parse_members(settings["members"]),
        "target_modules": tuple(settings["target_modules"]),
    }
    print(export_random_family(**settings).folder)


if __name__ == "__main__":
    main()
