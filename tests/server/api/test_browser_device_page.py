"""The page /device: what it is made of, what it may load, and that nothing else comes from there."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quadloom_server.api.app import create_app
from quadloom_server.api.browser_device import PACKAGE_FILES, PAGE_FOLDER

PARTS = sorted(path.name for path in PAGE_FOLDER.iterdir() if path.suffix in (".css", ".js"))


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    folder = tmp_path / "node_modules"
    for name in PACKAGE_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("export {};")
    (folder / "secret.mjs").write_text("export {};")
    return folder


@pytest.fixture
def client(make_task: Callable[..., Any], packages: Path) -> Iterator[TestClient]:
    with TestClient(create_app(make_task().rounds, browser_packages=packages)) as client:
        yield client


def test_without_its_libraries_the_page_says_what_to_run(client: TestClient, packages: Path) -> None:
    (packages / PACKAGE_FILES[0]).unlink()
    answer = client.get("/device")
    assert answer.status_code == 503
    assert "npm ci" in answer.text
    assert "--browser-packages" in answer.text


def test_every_file_carries_a_policy_that_allows_nothing_from_elsewhere(client: TestClient) -> None:
    for path in ("", *PARTS, *(f"packages/{name}" for name in PACKAGE_FILES)):
        answer = client.get(f"/device/{path}".rstrip("/"))
        assert answer.status_code == 200, path
        policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        allowed = {source for sources in policy.values() for source in sources.split()}
        assert allowed <= {"'none'", "'self'", "'wasm-unsafe-eval'"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in answer.headers
    page = client.get("/device").text
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|\sstyle=|<style|https?://", page)


def test_every_module_that_a_module_imports_is_served(client: TestClient) -> None:
    for name in PARTS:
        if name.endswith(".js"):
            for imported in re.findall(
                r'(?:from |import |new URL\()"(\./[^"]+\.m?js)"', (PAGE_FOLDER / name).read_text()
            ):
                answer = client.get(f"/device/{PurePosixPath(imported)}")
                assert answer.status_code == 200, f"{name} imports {imported}"
                assert answer.headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "name",
    [
        "index.html",
        "package.json",
        "../api/app.py",
        "%2e%2e/api/app.py",
        "packages/secret.mjs",
        "",
    ],
)
def test_no_other_file_than_the_pages_is_served(client: TestClient, name: str) -> None:
    answer = client.get(f"http://testserver/device/{name}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "unknown-path"


def test_a_file_that_did_not_change_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/device/page.js")
    again = client.get("/device/page.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"
