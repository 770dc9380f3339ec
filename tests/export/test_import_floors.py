"""Imports only go down: a device never needs the exporter's packages, and a command is cheap until it runs."""

import subprocess
import sys

import pytest

REFUSING = """
import importlib.abc, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {forbidden!r}:
            raise AssertionError(f"{{name}} was imported")

sys.meta_path.insert(0, Refuse())
import importlib, pkgutil
"""
HEAVY = ("torch", "transformers", "peft", "onnx", "onnxruntime", "fastapi", "uvicorn", "sqlalchemy")


def run(code, forbidden):
    script = REFUSING.format(forbidden=set(forbidden)) + code
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)


def test_every_runtime_module_imports_without_the_packages_of_exporter_and_server():
    code = """
import quadloom_runtime
names = [each.name for each in pkgutil.walk_packages(quadloom_runtime.__path__, "quadloom_runtime.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""
    done = run(code, [*HEAVY, "quadloom_export", "quadloom_server"])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_the_exporter_does_not_know_the_server():
    code = """
import quadloom_export
for each in pkgutil.walk_packages(quadloom_export.__path__, "quadloom_export."):
    importlib.import_module(each.name)
"""
    done = run(code, ["quadloom_server", "fastapi", "uvicorn", "sqlalchemy"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["export", "--help"]], ids=" ".join)
def test_help_needs_no_heavy_package(words):
    done = run(f"from quadloom_runtime.cli import main\nmain({words!r})", HEAVY)
    assert done.returncode == 0, done.stderr
    assert "usage: quadloom" in done.stdout


def test_export_without_its_extra_names_the_extra(tmp_path):
    code = f"""
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Absent())
from quadloom_runtime.cli import main
raise SystemExit(main(["export", "model", "--out", {str(tmp_path)!r}]))
"""
    done = run(code, [])
    assert done.returncode == 1
    assert "quadloom[export]" in done.stderr
    assert "Traceback" not in done.stderr
