"""A real Chromium and Node.js, a tiny real family, and a real server and devices. What is not here is said loudly."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from quadloom_server.api.browser_device import INSTALLED_PACKAGES

HERE = Path(__file__).parent
START = "import sys; from quadloom_runtime.cli import main; sys.exit(main())"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--picture", type=Path, metavar="FILE", help="keep a picture of /device after two rounds")


@pytest.fixture(scope="session")
def node() -> str:
    """Node.js, with the page's libraries installed."""
    program = shutil.which("node")
    if program is None or not (INSTALLED_PACKAGES / "@huggingface").is_dir():
        pytest.skip("NOT TESTED: the page /device; run `make browser-test`, with Node.js >= 20")
    return program


@pytest.fixture(scope="session")
def chromium() -> str:
    program = shutil.which("chromium")
    if program is None or not (INSTALLED_PACKAGES / "playwright-core").is_dir():
        pytest.skip("NOT TESTED: a browser as a device; install Debian's chromium, and run `make browser-test`")
    return program


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.browser.tiny_family import write_family

    return write_family(tmp_path_factory.mktemp("tiny"))


@dataclass(frozen=True)
class Server:
    """A running `quadloom serve`."""

    process: "subprocess.Popen[str]"
    url: str
    state: Path

    def token(self, uses: int) -> str:
        admin = (self.state / "admin-token").read_text().strip()
        headers = {"authorization": f"Bearer {admin}"}
        answer = httpx.post(f"{self.url}/v1/admin/tokens", json={"max_uses": uses}, headers=headers)
        return str(answer.raise_for_status().json()["token"])


@pytest.fixture
def serve(family: Path, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    running: list[subprocess.Popen[str]] = []

    def start(*options: str) -> Server:
        state = tmp_path / "state"
        words = ["serve", "--family", str(family), "--state", str(state), "--port", "0", *options]
        process = subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        line = next(line for line in process.stdout if "serving " in line)
        return Server(process, line.split()[-1], state)

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def python_device(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts `quadloom device`; its events go to ``<name>.jsonl``."""
    running: list[subprocess.Popen[bytes]] = []

    def start(server: Server, name: str, token: str, data: Path) -> "subprocess.Popen[bytes]":
        token_file = tmp_path / f"{name}.token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        words = ["device", "--server", server.url, "--data", str(data), "--name", name, "--threads", "1"]
        words += ["--enrolment-token-file", str(token_file), "--cache", str(tmp_path / name)]
        words += ["--events", str(tmp_path / f"{name}.jsonl"), "--formats", "onnx"]
        running.append(subprocess.Popen([sys.executable, "-c", START, *words], stdout=subprocess.DEVNULL))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def browser_device(node: str, chromium: str) -> Callable[..., dict[str, Any]]:
    """Lets one tab of a browser take part until the task is finished; see drive.mjs."""

    def run(server: Server, **options: object) -> dict[str, Any]:
        given = {"packages": str(INSTALLED_PACKAGES), "chromium": chromium, "server": server.url, **options}
        command = [node, str(HERE / "drive.mjs"), json.dumps(given)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr[-4000:]
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    return run
