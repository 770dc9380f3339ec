"""A device comes back when its assignment said it would, a little later than that, and never in step with others."""

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from quadloom_runtime.connection import ServerAddress
from quadloom_runtime.contract.manifest import FamilyManifest, MemberKey
from quadloom_runtime.contract.wire import Assignment, Capabilities, ReportResponse, TrainingSettings
from quadloom_runtime.data import load_examples
from quadloom_runtime.device.agent import LATEST_EXTRA, DeviceAgent, DeviceOptions, LocalData, retry_after_s
from quadloom_runtime.device.client import ServerClient
from quadloom_runtime.device.events import EventLog
from quadloom_runtime.device.state import DeviceState

ACCEPTED_S, REJECTED_S = 100.0, 1000.0
CAPABILITIES = Capabilities(formats=("onnx",), memory_limit_bytes=10**8, threads=1, examples=18)


@pytest.fixture
def assignment(server: Any, family: tuple[Path, FamilyManifest]) -> Assignment:
    server.offer_family(*family)
    key = MemberKey(depth=1, quantized_layers=1)
    given: Assignment = server.assign(family[1], key, settings=TrainingSettings(), assignment_id="a-1")
    windows = {"retry_after_accepted_s": ACCEPTED_S, "retry_after_rejected_s": REJECTED_S}
    server.assignments = [given.model_copy(update=windows)]
    return server.assignments[0]


def waits_of_a_device(server: Any, data_file: Path, folder: Path) -> list[float]:
    """Run one device, whose update is ready, until it is told that all is done; what it slept."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        server.assignments.clear()

    DeviceState(folder / "state").save_update("a-1", b"an update")
    client = ServerClient(ServerAddress(server.url), Ed25519PrivateKey.generate(), sleep=sleep)
    agent = DeviceAgent(
        client=client,
        options=DeviceOptions(name="d1", capabilities=CAPABILITIES),
        folder=folder,
        data=LocalData(data_file, load_examples(data_file)),
        events=EventLog(),
    )
    agent.run()
    client.close()
    return waits


def test_after_an_accepted_update_the_first_window_holds_with_jitter(
    assignment: Assignment, server: Any, data_file: Path, tmp_path: Path
) -> None:
    slept = []
    for turn in range(3):
        server.assignments = [assignment]
        slept += waits_of_a_device(server, data_file, tmp_path / str(turn))
    assert len(slept) == 3
    assert all(ACCEPTED_S <= each <= ACCEPTED_S * (1 + LATEST_EXTRA) for each in slept)
    assert len(set(slept)) == 3, "devices that were told the same must not come back together"


@pytest.mark.usefixtures("assignment")
def test_after_a_refusal_the_second_window_holds(server: Any, data_file: Path, tmp_path: Path) -> None:
    server.faults["/v1/assignments/a-1"] = ["refuse", "refuse"]
    (slept,) = waits_of_a_device(server, data_file, tmp_path)
    assert REJECTED_S <= slept <= REJECTED_S * (1 + LATEST_EXTRA)


@pytest.mark.parametrize(
    ("status", "expected_s"),
    [("accepted", ACCEPTED_S), ("duplicate", ACCEPTED_S), ("late", ACCEPTED_S), ("rejected", REJECTED_S)],
)
def test_only_a_rejection_makes_a_device_wait_for_long(assignment: Assignment, status: Any, expected_s: float) -> None:
    assert retry_after_s(assignment, ReportResponse(status=status, reason="")) == expected_s


@pytest.mark.parametrize("window_s", [-1.0, float("inf"), float("nan"), 1e9])
def test_a_window_that_no_device_can_wait_for_is_no_assignment(assignment: Assignment, window_s: float) -> None:
    for name in ("retry_after_accepted_s", "retry_after_rejected_s"):
        with pytest.raises(ValidationError):
            Assignment.model_validate({**assignment.model_dump(), name: window_s})
