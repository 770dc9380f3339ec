"""Which code a simulated run rests on, so that nothing is continued, or taken for found, that other code made."""

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Final

import quadloom_runtime
import quadloom_server

RUNTIME: Final = ("*.py", "contract/*.py", "device/family_copy.py", "emulation/*.py", "engines/*.py")
SERVER: Final = (
    *("simulation/*.py", "planning/*.py", "aggregation/**/*.py", "rounds/evaluation.py"),
    *("family.py", "held_out.py"),
)


@cache
def code_sha256() -> str:
    """SHA-256 of the modules that train, plan, average and evaluate, as parsed: comments and layout do not count."""
    digest = hashlib.sha256()
    for name, path in code_files().items():
        digest.update(f"{name} {ast.dump(ast.parse(path.read_bytes()))}\n".encode())
    return digest.hexdigest()


def code_files() -> dict[str, Path]:
    """These modules' files, by package and path below it."""
    found = {}
    for package, patterns in ((quadloom_runtime, RUNTIME), (quadloom_server, SERVER)):
        (folder,) = map(Path, package.__path__)
        for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
            found[f"{package.__name__}/{path.relative_to(folder).as_posix()}"] = path
    return found
