"""A device in Java against the real server: equal to a Python device, and still there after what breaks."""

import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tests.android.served import ServedTask, lines, losses
from tests.faults.link import LinkFault

LOSS_TOLERANCE = 1e-4
SETTINGS: dict[str, tuple[dict[str, object], tuple[str, ...], int]] = {
    "defaults": ({}, (), 0),
    "balanced classes at a lower rank": (
        {
            "--accumulation": 2,
            "--schedule": "linear",
            "--clip-norm": 0.5,
            "--weight-decay": 0.01,
            "--seed": 7,
            "--aggregation": "flexlora",
        },
        ("--class-balance",),
        2,
    ),
    "plain descent": (
        {"--optimizer": "sgd", "--learning-rate": 0.5, "--head-learning-rate": 0.5, "--max-steps": 5},
        (),
        0,
    ),
}
"""Of the server, flags of it, and the rank of the device, 0 for the family's."""


def adapter(task: ServedTask) -> dict[str, object]:
    return load_file(task.state / "adapters/latest/adapter_model.safetensors")


@pytest.mark.parametrize("name", SETTINGS)
def test_three_rounds_have_the_losses_and_the_adapter_of_a_python_device(
    name: str, tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    options, flags, rank = SETTINGS[name]
    folders = tmp_path / "with-java", tmp_path / "with-python"
    for folder in folders:
        folder.mkdir()
    key = (word_piece_family.parent / "family-key.pem").read_text()
    with ServedTask(word_piece_family, folders[0], options=options, flags=flags) as task:
        device = task.java_device(device_program, reviews, enrolment_token=task.token(), rank=rank, family_key_pem=key)
        status, said = device.events()
        trained = adapter(task)
    assert status == 0, said
    with ServedTask(word_piece_family, folders[1], options=options, flags=flags) as task:
        expected = task.python_device(reviews, options={"--rank": rank} if rank else {})
        wanted = adapter(task)
    assert len(lines(said, "reported")) == 3
    assert all("accepted" in line for line in lines(said, "reported"))
    assert [each[:2] for each in losses(said)] == [each[:2] for each in losses(expected)]
    assert [each[2] for each in losses(said)] == pytest.approx([e[2] for e in losses(expected)], abs=LOSS_TOLERANCE)
    for tensor, value in wanted.items():
        assert trained[tensor] == pytest.approx(value, abs=1e-4), tensor
