"""Two packages hold the module `onnxruntime`; which is installed is said before anything strange happens."""

import importlib
import sys
from pathlib import Path

import pytest

from quadloom_runtime.engines import ort_package
from quadloom_runtime.errors import MissingExtraError, QuadloomError


@pytest.fixture
def install(tmp_path, monkeypatch):
    """``install("onnxruntime", "1.2", into="site")``: what an installer leaves behind; nothing else is installed."""
    monkeypatch.setattr("sys.path", [])

    def add(package: str, version: str, *, into: str = "site") -> None:
        site: Path = tmp_path / into
        about = site / f"{package.replace('-', '_')}-{version}.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        (site / "onnxruntime").mkdir(exist_ok=True)
        (site / "onnxruntime" / "__init__.py").touch()
        # Not `syspath_prepend`: it would give back, in the end, the emptied path that it found.
        monkeypatch.setattr("sys.path", [str(site), *sys.path])
        importlib.invalidate_caches()

    return add


def test_the_training_package_alone_is_right(install):
    install("onnxruntime-training", "1.19.2")
    ort_package.require_training_package()


def test_neither_package_names_the_extra(install):  # noqa: ARG001 - removes what is installed
    with pytest.raises(MissingExtraError, match=r"onnxruntime-training.*not installed") as found:
        ort_package.require_training_package()
    assert "quadloom[ort-training]" in str(found.value)


def test_the_plain_package_in_its_place_is_named_with_its_version(install):
    install("onnxruntime", "1.31.1")
    with pytest.raises(QuadloomError, match=r"plain package onnxruntime 1\.31\.1") as found:
        ort_package.require_training_package()
    assert "environment of its own" in str(found.value)


def test_both_in_one_folder_are_refused(install):
    install("onnxruntime", "1.31.1")
    install("onnxruntime-training", "1.19.2")
    for check in (ort_package.require_training_package, ort_package.refuse_mixture):
        with pytest.raises(QuadloomError, match="over each other"):
            check()


def test_a_training_package_that_comes_first_on_the_path_is_right(install):
    install("onnxruntime", "1.31.1", into="base")
    install("onnxruntime-training", "1.19.2", into="overlay")
    ort_package.require_training_package()


def test_a_plain_package_that_hides_the_training_package_is_refused(install):
    install("onnxruntime-training", "1.19.2", into="base")
    install("onnxruntime", "1.31.1", into="overlay")
    with pytest.raises(QuadloomError, match=r"plain package onnxruntime 1\.31\.1"):
        ort_package.require_training_package()


@pytest.mark.parametrize("package", ["onnxruntime", "onnxruntime-training"])
def test_either_package_alone_runs_plain_graphs(install, package):
    install(package, "1.19.2")
    ort_package.refuse_mixture()
