"""What a device says that it can run."""

import subprocess
import sys

import pytest

from quadloom_runtime.engines.installed import choose_formats, installed_formats
from quadloom_runtime.errors import QuadloomError


def test_what_is_installed_here_is_found_without_importing_it() -> None:
    script = (
        "import sys\nfrom quadloom_runtime.engines.installed import installed_formats\n"
        "found = installed_formats()\nassert 'onnx' in found, found\n"
        "assert not {'torch', 'onnxruntime'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_order_asked_for_is_the_order_of_preference() -> None:
    installed = installed_formats()
    assert choose_formats(None) == installed
    assert choose_formats(",".join(reversed(installed))) == tuple(reversed(installed))
    assert choose_formats("onnx,onnx") == ("onnx",)


@pytest.mark.parametrize(("text", "remedy"), [("tflite", "choose from: onnx"), ("onnx,ort-training", "pip install")])
def test_a_format_that_cannot_be_run_is_named(text: str, remedy: str) -> None:
    with pytest.raises(QuadloomError) as refused:
        choose_formats(text)
    assert text.rpartition(",")[2] in str(refused.value)
    assert remedy in str(refused.value)
