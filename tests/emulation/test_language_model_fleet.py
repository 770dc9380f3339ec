"""A fleet that trains a language model: real server, real devices, text without labels."""

import json
import re
import subprocess
import sys
from pathlib import Path

PATIENCE_S = 120.0


def emulate(folder: Path, family: Path, text: Path, *, task: str, data: str = "") -> subprocess.CompletedProcess[str]:
    fleet = folder / "fleet.toml"
    fleet.write_text(
        f'[task]\nfamily = "{family}"\nlearning_rate = 0.02\n{task}\n'
        f'[data]\ntrain = "{text / "train.jsonl"}"\neval = "{text / "eval.jsonl"}"\n{data}\n'
        '[[device]]\nprofile = "laptop"\nname = "phone"\ncount = 2\n'
    )
    words = [sys.executable, "-m", "quadloom_runtime", "emulate", "--fleet", str(fleet), "--work", str(folder / "work")]
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_fleet_learns_the_next_token_and_ends_at_the_target_loss(
    tmp_path: Path, tiny_language_family: Path, recurring_text: Path
) -> None:
    task = "rounds = 20\ntarget_loss = 1.0"
    done = emulate(tmp_path, tiny_language_family, recurring_text, task=task)
    assert done.returncode == 0, done.stdout + done.stderr
    losses = [float(found) for found in re.findall(r"round \d+, 2 updates in .*: .* loss (\d+\.\d+)", done.stdout)]
    start = float(re.search(r"start\D+\d\.\d+\D+(\d+\.\d+)", done.stdout)[1])  # type: ignore[index]
    assert min([start, *losses[:-1]]) > 1.0 >= losses[-1], "it ended at the first round that was good enough"
    assert "target loss 1.0: reached" in done.stdout
    assert {path.name for path in (tmp_path / "work" / "data").iterdir()} == {"shard-0001.jsonl", "shard-0002.jsonl"}
    shard = (tmp_path / "work" / "data" / "shard-0001.jsonl").read_text().splitlines()
    assert all(set(json.loads(line)) == {"text"} for line in shard)


def test_a_split_by_label_is_refused_for_text_without_labels(
    tmp_path: Path, tiny_language_family: Path, recurring_text: Path
) -> None:
    done = emulate(tmp_path, tiny_language_family, recurring_text, task="rounds = 1", data='split = "dirichlet"')
    assert done.returncode == 1
    assert "120 of 120 texts have no label" in done.stderr
    assert 'split = "iid"' in done.stderr
