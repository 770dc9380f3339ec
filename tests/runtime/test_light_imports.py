"""A device installs neither PyTorch nor a server: the runtime must not need them."""

import subprocess
import sys

CHECK = """
import importlib, pkgutil, sys

REFUSED = set("torch transformers peft onnx onnxruntime fastapi uvicorn sqlalchemy pyarrow rich".split())
REFUSED |= {"quadloom_export", "quadloom_server"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise ImportError(f"{name} must not be imported by the runtime")

sys.meta_path.insert(0, Refuse())
import quadloom_runtime
NEEDS_RICH = {"quadloom_runtime.emulation.display", "quadloom_runtime.emulation.fleet"}
names = [each.name for each in pkgutil.walk_packages(quadloom_runtime.__path__, "quadloom_runtime.")]
for name in names:
    if name not in NEEDS_RICH and not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""

CHEAP = """
import sys
import quadloom_runtime.cli, quadloom_runtime.commands.device, quadloom_runtime.commands.inspect
print(sorted({"numpy", "pydantic", "httpx", "tokenizers", "onnxruntime"} & set(sys.modules)))
"""


def run(script: str) -> str:
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_the_runtime_imports_without_the_packages_of_export_and_server() -> None:
    assert int(run(CHECK)) > 20


def test_subcommands_are_cheap_to_import() -> None:
    assert run(CHEAP) == "[]"
