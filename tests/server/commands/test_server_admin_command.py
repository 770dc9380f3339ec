"""`quadloom server` against a real server."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def server(serve: Callable[..., Any], family_folder: Path, tmp_path: Path) -> Any:
    return serve(family_folder, tmp_path / "state")


@pytest.fixture
def administer(server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command in this process; returns what it prints."""
    from quadloom_runtime.cli import main

    def run(*words: str, status: int = 0, token: Path = tmp_path / "state/admin-token") -> str:
        options = ["--server", str(server.client.base_url).rstrip("/"), "--admin-token-file", str(token)]
        assert main(["server", *words[:2], *options, *words[2:]]) == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    return run


def test_a_token_is_issued_used_listed_and_revoked(server: Any, administer: Callable[..., str]) -> None:
    phone = server.enrol("phone")
    token = administer("tokens", "issue", "--uses", "2", "--expires-in-h", "24", "--note", "night shift").strip()
    assert re.fullmatch(r"[\w-]{43}", token)
    header, _, row = administer("tokens", "list").splitlines()
    assert header.split() == ["token", "state", "uses", "expires", "note"]
    assert re.fullmatch(r"\S+ +valid +0/2 +\S+ \S+Z +night shift", row)
    assert token not in row
    assert "revoked" in administer("tokens", "revoke", row.split()[0])
    assert "unknown-token" in administer("tokens", "revoke", "nonsense", status=1)
    assert "unknown-path" in administer("tokens", "revoke", f"../devices/{phone.device_id}", status=1)
    assert server.check_in(phone).task_state == "running"


def test_a_device_is_listed_and_shut_out(server: Any, administer: Callable[..., str]) -> None:
    device = server.enrol("phone")
    assert re.search(rf"{device.device_id} +phone +enrolled", administer("devices", "list"))
    assert re.search(rf"{device.device_id} +phone +revoked", administer("devices", "revoke", device.device_id))
    refused = server.client.post(f"/v1/devices/{device.device_id}/check-in", json={}, auth=device)
    assert refused.json()["code"] == "revoked-device"


def test_a_task_is_paused_started_and_ended(server: Any, administer: Callable[..., str]) -> None:
    device = server.enrol("phone")
    assert "paused by its owner" in administer("task", "pause")
    assert server.check_in(device).task_state == "paused"
    assert "running" in administer("task", "start")
    assert server.assignment(device).round_index == 1
    status = administer("task", "status")
    assert "round 1: open, 1 assigned, 0 accepted, 0 failed" in status
    assert "1 devices" in status
    assert "ended by its owner" in administer("task", "end")
    assert server.check_in(device).task_state == "finished"
    assert "task-ended" in administer("task", "start", status=1)


def test_a_wrong_or_missing_admin_token_is_refused(administer: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("guess")
    assert "invalid-admin-token" in administer("task", "pause", token=tmp_path / "wrong", status=1)
    assert "cannot be read" in administer("task", "pause", token=tmp_path / "nowhere", status=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--uses", "0"], "max_uses is 0"), (["--expires-in-h", "-1"], "expires_after_s is -3600.0")],
)
def test_a_token_out_of_range_is_refused_by_value(administer: Callable[..., str], words: list[str], said: str) -> None:
    assert said in administer("tokens", "issue", *words, status=1)


def test_the_command_is_cheap_to_import() -> None:
    script = (
        "import sys, quadloom_server.commands.server_admin; print({'httpx', 'pydantic', 'fastapi'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
