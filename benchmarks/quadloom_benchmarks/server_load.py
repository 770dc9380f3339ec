"""The fleet of `quadloom bench server`: a process that is as many devices as it is told to be, and times the server.

Prints one JSON object: phase -> figures. Run by `quadloom_benchmarks.server`.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quadloom_benchmarks.server_connection import Answer, SignedConnection
from quadloom_runtime.contract.wire import (
    Assignment,
    Capabilities,
    CheckInRequest,
    CheckInResponse,
    EnrolRequest,
    UpdateReport,
)
from quadloom_runtime.device.state import update_bytes
from quadloom_runtime.keys import public_key_text

EXAMPLES = 1000
CHECK_INS = 2000
BLOB_BYTES = 512_000_000
LARGEST_PART_BYTES = 32_000_000


@dataclass(frozen=True)
class Phase:
    """What one kind of request came to."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bytes: int


Work = Callable[[SignedConnection, int], Awaitable[list[Answer]]]


class Fleet:
    """Devices that all ask at once, each waiting for its answer before it asks again."""

    def __init__(self, devices: list[SignedConnection]) -> None:
        self._devices = devices

    async def phase(self, work: Work) -> Phase:
        """Let every device do its work, all at once."""
        return _phase([await self._burst(work)])

    async def blobs(self, *, size_bytes: int) -> Phase:
        """Fetch the beginning of the weights."""
        work = await self._assignments()
        largest = max(work[0].blobs, key=lambda blob: blob.size_bytes).sha256
        return await self.phase(lambda device, _: _fetch(device, largest, size_bytes=size_bytes))

    async def updates(self, *, rounds: int) -> Phase:
        """Report in several rounds. That a round closes and the next one opens is not timed."""
        timed = []
        for _ in range(rounds):
            work = await self._assignments()
            paths = [f"/v1/assignments/{each.assignment_id}/update" for each in work]
            timed.append(await self._burst(partial(_report, paths)))
        return _phase(timed)

    async def _assignments(self) -> list[Assignment]:
        return await asyncio.gather(*(_next_assignment(device) for device in self._devices))

    async def _burst(self, work: Work) -> tuple[list[Answer], float]:
        began_s = time.perf_counter()
        found = await asyncio.gather(*(work(device, number) for number, device in enumerate(self._devices)))
        seconds = time.perf_counter() - began_s
        answers = [answer for each in found for answer in each]
        refused = [answer for answer in answers if answer.status >= 400]
        if refused:
            raise RuntimeError(f"{len(refused)} requests were refused, first: {refused[0].body[:500]!r}")
        return answers, seconds


async def measure(*, host: str, port: int, devices: int, rounds: int, token: str) -> dict[str, Phase]:
    """Enrol, check in, fetch and report, one kind of request after the other.

    Raises:
        RuntimeError: the server refused something.
    """
    connections = [_device(host, port) for _ in range(devices)]
    fleet = Fleet(connections)
    each_checks_in = max(1, CHECK_INS // devices)
    part_bytes = min(LARGEST_PART_BYTES, BLOB_BYTES // devices)
    phases = {
        "enrolments": await fleet.phase(lambda device, number: _enrol(device, number, token=token)),
        "check-ins": await fleet.phase(lambda device, _: _check_in(device, times=each_checks_in)),
        "blobs": await fleet.blobs(size_bytes=part_bytes),
        "updates": await fleet.updates(rounds=rounds),
    }
    for connection in connections:
        connection.close()
    return phases


def _phase(bursts: list[tuple[list[Answer], float]]) -> Phase:
    answers = [answer for found, _ in bursts for answer in found]
    p50, p99 = np.percentile([1000 * answer.latency_s for answer in answers], [50, 99])
    seconds = sum(burst_s for _, burst_s in bursts)
    return Phase(len(answers), seconds, float(p50), float(p99), sum(answer.size_bytes for answer in answers))


def _device(host: str, port: int) -> SignedConnection:
    key = Ed25519PrivateKey.generate()
    return SignedConnection(key, public_key_text(key.public_key()), host=host, port=port)


async def _enrol(device: SignedConnection, number: int, *, token: str) -> list[Answer]:
    capabilities = Capabilities(formats=("onnx",), memory_limit_bytes=10**9, threads=1, examples=EXAMPLES)
    message = EnrolRequest(
        name=f"device-{number}", capabilities=capabilities, public_key=device.key_id, enrolment_token=token
    )
    answer = await _post(device, "/v1/devices", message.model_dump_json())
    device.key_id = json.loads(answer.body).get("device_id", "")
    return [answer]


async def _check_in(device: SignedConnection, *, times: int) -> list[Answer]:
    path = f"/v1/devices/{device.key_id}/check-in"
    return [await _post(device, path, CheckInRequest().model_dump_json()) for _ in range(times)]


async def _next_assignment(device: SignedConnection) -> Assignment:
    while True:
        (checked_in,) = await _check_in(device, times=1)
        message = CheckInResponse.model_validate_json(checked_in.body)
        if message.assignment is not None:
            return message.assignment
        await asyncio.sleep(message.retry_after_s)


async def _fetch(device: SignedConnection, sha256: str, *, size_bytes: int) -> list[Answer]:
    headers = f"range: bytes=0-{size_bytes - 1}\r\n"
    return [await device.request("GET", f"/v1/blobs/{sha256}", headers=headers, keep_body=False)]


async def _report(paths: list[str], device: SignedConnection, number: int) -> list[Answer]:
    answer = await device.request("PUT", paths[number], UPDATE)
    if b'"accepted"' not in answer.body:
        raise RuntimeError(f"an update was not accepted: {answer.body[:500]!r}")
    return [answer]


async def _post(device: SignedConnection, path: str, message: str) -> Answer:
    return await device.request("POST", path, message.encode(), headers="content-type: application/json\r\n")


def _update() -> bytes:
    from quadloom_benchmarks.server_family import parameter_table

    report = UpdateReport(
        examples=EXAMPLES,
        steps=1,
        loss_first=0.7,
        loss_last=0.6,
        train_s=1,
        baseline_bytes=0,
        peak_step_bytes=0,
        downloaded_bytes=0,
    )
    random = np.random.default_rng(0)
    tensors = {row.name: random.standard_normal(row.shape).astype(np.float32) for row in parameter_table()}
    return update_bytes(tensors, report)


UPDATE = _update()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--token", required=True)
    phases = asyncio.run(measure(**vars(parser.parse_args())))
    print(json.dumps({name: vars(phase) for name, phase in phases.items()}))


if __name__ == "__main__":
    main()
