"""What a simulated run is named after covers all code that its result rests on."""

import ast
import json
import subprocess
import sys
from pathlib import Path

from quadloom_server.simulation.code_identity import code_files

LOADED = """
import json, sys
import quadloom_server.simulation.simulation
packages = ("quadloom_runtime", "quadloom_server")
print(json.dumps({name: each.__file__ for name, each in sys.modules.items() if name.split(".")[0] in packages}))
"""
EXEMPT = ("quadloom_runtime.device.",)
"""What only a real device does; it is loaded because of the one module below."""
NOT_EXEMPT = ("quadloom_runtime.device.family_copy",)
"""It finds the family's tokenizer for the simulation, too."""


def loaded_modules() -> dict[str, Path]:
    """File by name of module, in a process that has imported nothing but the simulation."""
    found = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    return {name: Path(path).resolve() for name, path in json.loads(found.stdout).items()}


def says_nothing(path: Path) -> bool:
    """Whether there is a docstring at most, as in the `__init__.py` of a package."""
    return all(
        isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)
        for each in ast.parse(path.read_bytes()).body
    )


def test_every_module_that_the_simulation_loads_is_part_of_its_identity() -> None:
    loaded = loaded_modules()
    assert set(NOT_EXEMPT) < set(loaded)
    covered = {path.resolve() for path in code_files().values()}
    missing = {
        name
        for name, path in loaded.items()
        if path not in covered and not says_nothing(path) and (not name.startswith(EXEMPT) or name in NOT_EXEMPT)
    }
    assert not missing
