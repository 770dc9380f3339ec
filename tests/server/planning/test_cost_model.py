"""The cost model: linear in the manifest's numbers."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.server.planning.fleets import GIGA, member

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.family_folder import load_manifest
from quadloom_server.planning.cost_model import (
    QUANTIZATION_OPERATIONS,
    REFERENCE_SECONDS_PER_OPERATION,
    DeviceCost,
    ReferenceCost,
    completion_time,
    reference_costs,
    step_s,
    step_seconds,
)

KEY = MemberKey(depth=2, quantized_layers=1)
OTHER = MemberKey(depth=1, quantized_layers=0)
COST = ReferenceCost(2.0, 0.5, own_bytes=10, shared_bytes=1000, adapter_bytes=100, update_bytes=40)
REFERENCES = {KEY: COST, OTHER: COST}


def test_a_round_is_download_then_steps_then_upload() -> None:
    device = DeviceCost(3.0, 2.0, download_bytes_per_s=10.0, upload_bytes_per_s=4.0)
    found = completion_time(device, KEY, REFERENCES, steps=5, fetched=())
    assert (found.download_s, found.train_s, found.upload_s) == (111.0, 5 * 3.0 * (2.0 + 2.0 * 0.5), 10.0)
    assert found.total_s == found.download_s + found.train_s + found.upload_s


@pytest.mark.parametrize(("fetched", "download_s"), [((), 111.0), ((OTHER,), 11.0), ((KEY,), 10.0)])
def test_what_a_device_has_it_does_not_fetch_again(fetched: tuple[MemberKey, ...], download_s: float) -> None:
    device = DeviceCost(download_bytes_per_s=10.0)
    assert completion_time(device, KEY, REFERENCES, steps=1, fetched=fetched).download_s == download_s


def test_at_a_lower_rank_all_but_the_head_gets_smaller() -> None:
    device = DeviceCost(download_bytes_per_s=10.0, upload_bytes_per_s=4.0, rank_share=0.25)
    found = completion_time(device, KEY, {KEY: replace(COST, head_bytes=20)}, steps=1, fetched=(KEY,))
    assert (found.download_s, found.upload_s) == ((20 + 80 / 4) / 10, (20 + 20 / 4) / 4)


def test_a_link_without_bound_takes_no_time() -> None:
    found = completion_time(DeviceCost(), KEY, REFERENCES, steps=1, fetched=())
    assert found.download_s == found.upload_s == 0


def test_without_measurement_a_step_follows_from_operations_and_quantized_elements() -> None:
    spec = member(1, 1, operations=4 * GIGA, elements=GIGA)
    arithmetic_s, quantization_s = step_seconds(spec, measured=False)
    assert arithmetic_s == pytest.approx(4 * GIGA * REFERENCE_SECONDS_PER_OPERATION)
    assert quantization_s == pytest.approx(QUANTIZATION_OPERATIONS * GIGA * REFERENCE_SECONDS_PER_OPERATION)


def test_a_measured_step_time_is_kept_and_divided_by_the_counts() -> None:
    spec = member(1, 1, operations=QUANTIZATION_OPERATIONS * GIGA, elements=GIGA, step_s=3.0)
    assert step_seconds(spec, measured=True) == pytest.approx((1.5, 1.5))
    found = ReferenceCost(*step_seconds(spec, measured=True))
    assert step_s(DeviceCost(slowdown=2.0), found) == pytest.approx(6.0)


def test_a_familys_costs_come_from_its_manifest(family_folder: Path) -> None:
    manifest = load_manifest(family_folder)
    found = reference_costs(manifest)
    assert set(found) == {each.key for each in manifest.members}
    shallow, deep = (found[MemberKey(depth=depth, quantized_layers=0)] for depth in (0, 2))
    head_values = 2 * 8 + 2
    assert shallow.update_bytes == 4 * head_values
    assert deep.update_bytes == deep.adapter_bytes == shallow.adapter_bytes
    assert deep.shared_bytes == 300_000 + 2
    assert deep.own_bytes == 1000
    assert shallow.head_bytes == deep.head_bytes == 4 * head_values
