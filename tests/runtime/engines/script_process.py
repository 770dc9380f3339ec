"""Scripts in processes of their own: for what must not happen in the tests' own process, or is measured of one."""

import subprocess
import sys
from pathlib import Path


def in_process(body: str, *arguments: Path) -> str:
    """What a script prints that runs to its end in a process of its own."""
    command = [sys.executable, "-c", body, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()
