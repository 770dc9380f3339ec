"""`quadloom serve` as a real process on a real socket."""

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quadloom_runtime.contract.wire import Assignment
from quadloom_runtime.family_folder import load_manifest
from quadloom_server.adapters import AdapterFolders
from quadloom_server.family import open_family
from quadloom_server.store.database import open_database

Content = Callable[..., bytes]


def change(family: Path, assignment: Assignment, value: float, update_content: Content, *, examples: int) -> bytes:
    rows = load_manifest(family).trained_parameters(assignment.member.depth)
    return update_content({row.name: np.full(row.shape, value, np.float32) for row in rows}, examples=examples)


def test_a_server_killed_in_the_middle_of_a_round_continues_it_and_counts_each_update_once(
    serve: Callable[..., Any], family_folder: Path, tmp_path: Path, update_content: Content
) -> None:
    options = ("--min-devices", "2", "--rounds", "1")
    first = serve(family_folder, tmp_path / "state", *options)
    mine, other = first.enrol("mine"), first.enrol("other")
    work, open_work = first.assignment(mine), first.assignment(other)
    content = change(family_folder, work, 1.0, update_content, examples=30)
    assert first.report(mine, work, content) == "accepted"
    task_id = first.client.get("/v1/task").json()["task_id"]
    first.process.send_signal(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL

    second = serve(family_folder, tmp_path / "state", *options)
    assert second.client.get("/v1/task").json()["task_id"] == task_id
    assert second.report(mine, work, content) == "duplicate"
    assert second.assignment(other).assignment_id == open_work.assignment_id
    assert (
        second.report(other, open_work, change(family_folder, open_work, 5.0, update_content, examples=10))
        == "accepted"
    )
    second.read_until("finished: all 1 rounds")

    sessions = open_database(f"sqlite:///{tmp_path / 'state/server.db'}")
    adapters = AdapterFolders(tmp_path / "state", open_family(family_folder), sessions)
    before, after = adapters.read(0), adapters.read(1)
    for name, value in before.items():
        np.testing.assert_allclose(after[name] - value, 2.0, rtol=1e-6, atol=1e-6)


def test_a_request_that_a_killed_server_has_answered_is_still_a_replay_for_the_next_one(
    serve: Callable[..., Any], family_folder: Path, tmp_path: Path
) -> None:
    first = serve(family_folder, tmp_path / "state")
    device = first.enrol("device")
    url = f"/v1/devices/{device.device_id}/check-in"
    fields = device.sign("POST", url, b"{}") | {"content-type": "application/json"}
    assert first.client.post(url, content=b"{}", headers=fields).status_code == 200
    first.process.send_signal(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    second = serve(family_folder, tmp_path / "state")
    assert second.client.post(url, content=b"{}", headers=fields).json()["code"] == "replayed-request"
    assert second.check_in(device).assignment is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly(
    serve: Callable[..., Any], family_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    server = serve(family_folder, tmp_path / "state")
    assert server.client.get("/healthz").status_code == 200
    server.process.send_signal(number)
    assert server.end() == 0
    assert server.lines[-1] == "stopped"
    assert "Traceback" not in "\n".join(server.lines)


def test_a_finished_server_ends_once_every_device_was_told(
    serve: Callable[..., Any], family_folder: Path, tmp_path: Path, update_content: Content
) -> None:
    server = serve(family_folder, tmp_path / "state", "--rounds", "1", "--exit-when-finished")
    device, waiting = server.enrol("device"), server.enrol("waiting")
    work = server.assignment(device)
    server.report(device, work, change(family_folder, work, 0.5, update_content, examples=1))
    server.read_until("finished: all 1 rounds")
    assert server.check_in(device).task_state == "finished"
    assert server.check_in(waiting).task_state == "finished"
    assert server.end() == 0
    assert (tmp_path / "state/adapters/latest/adapter_model.safetensors").is_file()


def test_options_that_do_not_go_together_begin_no_state(
    serve: Callable[..., Any], run_and_fail: Callable[..., str], family_folder: Path, tmp_path: Path
) -> None:
    options = (family_folder, tmp_path / "state", "--port", "0", "--server-learning-rate", "0.5")
    assert "new basis each round" in run_and_fail(*options, "--aggregation", "flexlora")
    assert not (tmp_path / "state").exists()
    corrected = serve(family_folder, tmp_path / "state", "--server-learning-rate", "0.5")
    assert corrected.client.get("/healthz").status_code == 200


def test_training_settings_of_the_command_line_reach_the_device(
    serve: Callable[..., Any], family_folder: Path, tmp_path: Path
) -> None:
    options = "--optimizer sgd --learning-rate 0.5 --local-epochs 3 --max-steps 9 --clip-norm 0 --schedule linear "
    options += "--class-balance"
    server = serve(family_folder, tmp_path / "state", *options.split())
    settings = server.assignment(server.enrol("device")).settings
    assert (settings.optimizer, settings.learning_rate, settings.epochs) == ("sgd", 0.5, 3)
    assert (settings.max_steps, settings.clip_norm, settings.schedule) == (9, None, "linear")
    assert (settings.head_learning_rate, settings.class_balance) == (1e-3, True)


def test_an_ipv6_address_is_printed_so_that_it_can_be_used(
    serve: Callable[..., Any], family_folder: Path, tmp_path: Path
) -> None:
    server = serve(family_folder, tmp_path / "state", "--host", "::1")
    assert server.client.base_url.host == "::1"
    assert server.client.get("/healthz").status_code == 200


def test_a_port_in_use_is_named(run_and_fail: Callable[..., str], family_folder: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen on 127.0.0.1 port {port}" in run_and_fail(
            family_folder, tmp_path / "state", "--port", port
        )


def test_a_second_server_on_one_state_is_refused(
    serve: Callable[..., Any], run_and_fail: Callable[..., str], family_folder: Path, tmp_path: Path
) -> None:
    serve(family_folder, tmp_path / "state")
    assert "another server uses" in run_and_fail(family_folder, tmp_path / "state", "--port", "0")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--rounds", "0"], "rounds is 0"),
        (["--learning-rate", "-1"], "learning_rate is -1.0"),
        (["--target-accuracy", "0.8"], "--target-accuracy 0.8 needs held-out data"),
        (["--eval-data", "held-out.jsonl"], "lacks an evaluation graph"),
        (["--seed", "-1"], "seed is -1"),
        (["--largest-staleness", "-1"], "largest_staleness is -1"),
        (["--server-learning-rate", "2"], "server_learning_rate is 2.0"),
        (["--mean-share", "1"], "mean_share is 1.0"),
        (["--server-decay-rounds", "0"], "server_decay_rounds is 0.0"),
        (["--aggregation", "median"], "no server can average by 'median'"),
        (["--round-deadline-s", "inf"], "round_deadline_s is inf"),
        (["--port", "99999"], "port 99999"),
        (["--host", "203.0.113.1", "--allow-unencrypted-http"], "cannot listen on 203.0.113.1"),
    ],
)
def test_options_out_of_range_are_refused_by_value(
    run_and_fail: Callable[..., str], family_folder: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    assert words in run_and_fail(family_folder, tmp_path / "state", *options)


def test_a_state_is_served_on_with_the_aggregation_that_it_was_begun_with_and_no_other(
    serve: Callable[..., Any], run_and_fail: Callable[..., str], family_folder: Path, tmp_path: Path
) -> None:
    serve(family_folder, tmp_path / "state", "--aggregation", "flexlora").kill()
    said = run_and_fail(family_folder, tmp_path / "state", "--port", "0")
    assert "begun with the aggregation flexlora, not fedavg" in said
    assert "--aggregation flexlora" in said
    server = serve(family_folder, tmp_path / "state", "--aggregation", "flexlora", "--largest-staleness", "3")
    status = server.client.get("/v1/task").json()
    assert (status["aggregation"], status["largest_staleness"]) == ("flexlora", 3)
    page = server.client.get("/").text
    assert "averaged by flexlora; one may be 3 rounds late" in page


def test_a_damaged_family_is_not_served(run_and_fail: Callable[..., str], family_folder: Path, tmp_path: Path) -> None:
    (family_folder / "tokenizer/tokenizer.json").write_text("altered")
    assert "tokenizer/tokenizer.json" in run_and_fail(family_folder, tmp_path / "state")
