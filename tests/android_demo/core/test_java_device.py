"""A device in Java against the real server: equal to a Python device, and still there after what breaks."""

import shutil
from pathlib import Path

import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from safetensors.numpy import load_file
from tests.android_demo.core.served import ServedTask, lines, losses
from tests.faults.link import LinkFault

from quadloom_runtime.family_folder import blob_reference, load_manifest, save_manifest

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


def test_a_server_that_dies_after_it_counted_an_update_gets_none_twice(
    tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    crashes = ("update-counted-before-answer:2", "assignment-committed-before-answer:1")
    with ServedTask(word_piece_family, tmp_path, options={"--local-epochs": 1}, crashes=crashes) as task:
        status, said = task.java_device(device_program, reviews, enrolment_token=task.token()).events()
        died_at = task.server.died_at
    assert status == 0, said
    assert died_at == ["update-counted-before-answer", "assignment-committed-before-answer"]
    assert [line.split(",")[0] for line in lines(said, "reported")] == [
        "round 1: accepted",
        "round 2: duplicate",
        "round 3: accepted",
    ]
    assert lines(said, "retrying")


def test_a_download_that_breaks_off_goes_on_where_it_was(
    tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    sizes = sorted(path.stat().st_size for path in (word_piece_family / "onnx").iterdir())
    cut = tuple(LinkFault("GET /v1/blobs/", nth, "answer", sizes[0] // 2) for nth in (1, 3, 4))
    with ServedTask(word_piece_family, tmp_path, options={"--rounds": 1, "--local-epochs": 1}, faults=cut) as task:
        status, said = task.java_device(device_program, reviews, enrolment_token=task.token()).events()
        assert len(task.link.cuts) == len(cut)
    assert status == 0, said
    assert len(lines(said, "retrying")) == len(cut)
    assert "accepted" in lines(said, "reported")[0]


def test_a_blob_that_the_server_altered_is_refused_before_it_is_opened(
    tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    family = tmp_path / "family"
    shutil.copytree(word_piece_family, family)
    with ServedTask(family, tmp_path, options={"--retry-after-rejected-s": 30}) as task:
        alter(family / "onnx/weights.bin")
        device = task.java_device(device_program, reviews, enrolment_token=task.token(), patience_s=5)
        said = device.events_until("failure-reported")
    assert "with another content 2 times" in lines(said, "failed")[0]
    assert losses(said) == []


def test_a_blob_that_was_altered_on_the_device_is_fetched_again(
    tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    with ServedTask(word_piece_family, tmp_path, options={"--rounds": 1}) as task:
        first = task.java_device(device_program, reviews, enrolment_token=task.token(), stop_after_steps=3)
        status, stopped = first.events()
        assert status == 3, stopped
        alter(next(path for path in (tmp_path / "java").rglob("weights.bin")))
        status, resumed = task.java_device(device_program, reviews).events()
    assert status == 0, resumed
    assert "downloading onnx/weights.bin" in lines(resumed, "downloading")
    assert [step for _, step, _ in losses(stopped) + losses(resumed)] == list(range(1, 13))


def test_a_device_whose_clock_is_a_day_off_takes_over_the_servers(
    tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    options = {"--rounds": 1, "--max-steps": 1}
    with ServedTask(word_piece_family, tmp_path, options=options) as task:
        device = task.java_device(device_program, reviews, enrolment_token=task.token(), clock_offset_s=-86_400)
        status, said = device.events()
    assert status == 0, said
    assert "accepted" in lines(said, "reported")[0]


def test_a_device_that_dies_over_and_over_in_a_training_asks_for_a_smaller_member(
    tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    with ServedTask(word_piece_family, tmp_path, options={"--rounds": 1, "--local-epochs": 1}) as task:
        token = task.token()
        for _ in range(2):
            status, said = task.java_device(device_program, reviews, enrolment_token=token, die_after_steps=1).events()
            assert status == 137, said
        status, said = task.java_device(device_program, reviews).events()
    assert status == 0, said
    assert "the process died 2 times after step 0" in lines(said, "out-of-memory")[0]
    assert [line.split(",")[0] for line in lines(said, "assigned")] == ["round 1: d02-q00-r03", "round 1: d00-q00"]


def test_a_family_that_another_key_signed_is_refused(
    tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    other = Ed25519PrivateKey.generate().public_key()
    pem = other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with ServedTask(word_piece_family, tmp_path) as task:
        device = task.java_device(device_program, reviews, enrolment_token=task.token(), family_key_pem=pem)
        status, said = device.events()
    assert status == 1
    assert "is not one of it by the family key" in lines(said, "error")[0]


def test_a_graph_that_reads_other_files_is_refused_whatever_its_name_ends_in(
    tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    family = tmp_path / "family"
    shutil.copytree(word_piece_family, family)
    make_graphs_reach_outside(family, suffix=".bin")
    with ServedTask(family, tmp_path) as task:
        device = task.java_device(device_program, reviews, enrolment_token=task.token())
        said = device.events_until("failure-reported")
    assert ".bin is not safe to open: a tensor lies in '../../device.key'" in lines(said, "failed")[0]
    assert losses(said) == []


@pytest.mark.parametrize("error", ["java.lang.OutOfMemoryError", "java.lang.NoClassDefFoundError"])
def test_an_error_of_the_platform_before_training_is_reported_and_the_loop_goes_on(
    error: str, tmp_path: Path, word_piece_family: Path, reviews: Path, device_program: str
) -> None:
    with ServedTask(word_piece_family, tmp_path, options={"--rounds": 1}) as task:
        device = task.java_device(device_program, reviews, enrolment_token=task.token(), first_error=error)
        said = device.events_until("waiting")
    assert error in lines(said, "failed")[0]
    assert "accepted" in lines(said, "failure-reported")[0]
    assert lines(said, "waiting")  # for the next round


def make_graphs_reach_outside(family: Path, *, suffix: str) -> None:
    """Let the weights of every graph lie where a device keeps its key, and name the graphs otherwise."""
    manifest = load_manifest(family)
    members = []
    for member in manifest.members:
        graph = onnx.load(family / member.graph.path, load_external_data=False)
        for tensor in graph.graph.initializer:
            for entry in tensor.external_data:
                entry.value = "../../device.key" if entry.key == "location" else entry.value
        path = member.graph.path.removesuffix(".onnx") + suffix
        (family / path).write_bytes(graph.SerializeToString())
        renamed = blob_reference(family, path, media_type=member.graph.media_type)
        members.append(member.model_copy(update={"graph": renamed}))
    save_manifest(family, manifest.model_copy(update={"members": tuple(members)}))


def alter(path: Path) -> None:
    """Turn around one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
