"""The parts of the page that need no browser, under Node.js, against what Python's libraries make of the same."""

import os
import subprocess
from pathlib import Path

import numpy as np
from safetensors import safe_open
from tests.browser.vectors import write_vectors

from quadloom_server.aggregation.safetensors_header import read_header, read_tensor

TESTS = Path(__file__).parent / "javascript"


def test_the_parts_of_the_page_agree_with_python(node: str, tmp_path: Path) -> None:
    write_vectors(tmp_path)
    files = sorted(map(str, TESTS.glob("*.test.mjs")))
    environment = os.environ | {"QUADLOOM_VECTORS": str(tmp_path)}
    ended = subprocess.run(
        [node, "--test", *files], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stdout[-6000:]
    assert f"# pass {sum(path.read_text().count('test(') for path in TESTS.glob('*.test.mjs'))}" in ended.stdout

    written = tmp_path / "written.safetensors"
    header = read_header(written)
    assert dict(header.metadata) == {"report": '"ü"'}
    np.testing.assert_array_equal(read_tensor(written, header, "b"), [[1.5, -2], [0, 3]])
    with safe_open(written, framework="np") as library:
        np.testing.assert_array_equal(library.get_tensor("é"), [7])
