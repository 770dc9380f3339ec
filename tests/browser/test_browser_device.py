"""A tab of a real Chromium takes part in a real task beside Python devices."""

import base64
import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import load
from tests.browser.tiny_family import write_examples

ROUNDS = 2
TOLERANCE = 1e-3
# Two epochs, steps of several batches, a last batch that is not full, a bound on the norm that bites, a falling rate.
SETTINGS = "--local-epochs 2 --accumulation 2 --clip-norm 0.5 --schedule linear --weight-decay 0.01 --seed 7"
SETTINGS += " --class-balance --learning-rate 0.03 --head-learning-rate 0.03"


def losses_of_tab(found: dict[str, Any]) -> list[tuple[int, int, float]]:
    """Round, step and loss, as the page showed them."""
    words = [re.fullmatch(r"round (\d+): step (\d+) of \d+, loss (\S+)", each["text"]) for each in found["states"]]
    return [(int(each[1]), int(each[2]), float(each[3])) for each in words if each]


def losses_of_python(events: Path) -> list[tuple[int, int, float]]:
    rows = map(json.loads, events.read_text().splitlines())
    return [(row["round_index"], row["step"], row["loss"]) for row in rows if row["event"] == "step"]


def updates_of(state: Path, name: str) -> list[dict[str, np.ndarray]]:
    """The accepted updates of a device, round by round."""
    query = """SELECT blob_sha256 FROM updates JOIN devices ON devices.id = updates.device_id
               WHERE devices.name = ? ORDER BY round_number"""
    with sqlite3.connect(f"file:{state / 'server.db'}?mode=ro", uri=True) as database:
        hashes = [row[0] for row in database.execute(query, (name,))]
    return [load(next(state.rglob(f"*{each}*")).read_bytes()) for each in hashes]


def test_a_tab_trains_as_a_python_device_does_on_the_same_text_and_only_the_update_leaves_it(
    serve: Callable[..., Any],
    python_device: Callable[..., Any],
    browser_device: Callable[..., dict[str, Any]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    server = serve("--rounds", str(ROUNDS), "--min-devices", "3", "--keep-updates", *SETTINGS.split())
    token = server.token(uses=3)
    same = write_examples(tmp_path / "same.jsonl", first=0, examples=43)
    other = write_examples(tmp_path / "other.jsonl", first=1000, examples=30)
    devices = [python_device(server, "twin", token, same), python_device(server, "other", token, other)]
    picture = request.config.getoption("picture", default=None)
    kept = {} if picture is None else {"picture": str(picture)}

    found = browser_device(server, name="tab", token=token, data=str(same), **kept)
    assert [each.wait(timeout=60) for each in devices] == [0, 0]
    assert found["states"][-1]["kind"] == "finished", found["states"][-3:]
    assert found["problems"] == []
    assert [(row[0], row[-1]) for row in found["rounds"]] == [("1", "accepted"), ("2", "accepted")]

    mine, twin = losses_of_tab(found), losses_of_python(tmp_path / "twin.jsonl")
    assert len(mine) == 2 * ROUNDS * 3
    assert [row[:2] for row in mine] == [row[:2] for row in twin]
    np.testing.assert_allclose([row[2] for row in mine], [row[2] for row in twin], rtol=0, atol=TOLERANCE)
    assert np.ptp([row[2] for row in twin]) > 20 * TOLERANCE  # losses that stand still would agree anyway

    for update, expected in zip(updates_of(server.state, "tab"), updates_of(server.state, "twin"), strict=True):
        assert update.keys() == expected.keys()
        mine_whole, whole = (np.concatenate([each[name].ravel() for name in expected]) for each in (update, expected))
        np.testing.assert_allclose(mine_whole, whole, rtol=0, atol=TOLERANCE)
        assert np.linalg.norm(mine_whole - whole) <= TOLERANCE * np.linalg.norm(whole)

    assert {each["url"].split("/")[2] for each in found["requests"]} == {server.url.split("/")[2]}
    sent = b"".join(base64.b64decode(each["body"]) for each in found["requests"])
    assert b"loss_first" in sent
    assert b"warm film" not in sent


def test_a_reloaded_tab_is_the_same_device_and_fetches_no_weights_again(
    serve: Callable[..., Any], browser_device: Callable[..., dict[str, Any]], family: Path, tmp_path: Path
) -> None:
    server = serve("--rounds", "2", "--max-steps", "2")
    text = write_examples(tmp_path / "text.jsonl", first=0, examples=20).read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    csv = "label,text\r\n" + "".join(f'{row["label"]},"{row["text"]}"\r\n' for row in rows)
    found = browser_device(server, name="tab", token=server.token(uses=1), pasted=csv, reloadAfterRound=1)
    assert found["states"][-1]["kind"] == "finished", found["states"][-3:]
    status = httpx.get(f"{server.url}/v1/task").json()
    assert [(each["name"], each["rounds_accepted"]) for each in status["devices"]] == [("tab", 2)]
    weights = json.loads((family / "family.json").read_text())["formats"][0]["weights"]["sha256"]
    assert [each["url"] for each in found["requests"]].count(f"{server.url}/v1/blobs/{weights}") == 1


def test_wrong_text_is_named_before_anything_is_sent(
    serve: Callable[..., Any], browser_device: Callable[..., dict[str, Any]]
) -> None:
    server = serve()
    found = browser_device(server, name="tab", token="none", pasted='{"text": "good", "label": "very"}')
    assert found["states"][-1]["kind"] == "problem"
    assert "row 1: label very is not a class index" in found["states"][-1]["text"]
    assert not any("/v1/" in each["url"] for each in found["requests"])
