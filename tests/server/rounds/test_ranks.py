"""Devices of a lower rank than the family's: what they get, what is taken from them, and what becomes of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load

from quadloom_runtime.adapter_ranks import rows_at_rank
from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.methods.select import METHODS, OF_FIXED_SIZE
from quadloom_server.api.blobs import BlobCatalogue
from quadloom_server.errors import RefusedRequestError
from quadloom_server.rounds.policy import RoundPolicy

MakeTask = Callable[..., Any]
Tensors = dict[str, np.ndarray]
ALPHA, RANK = 4, 2


def products(tensors: Tensors) -> Tensors:
    """``alpha / r B A`` of every pair, by the name of B."""
    return {
        name: ALPHA / value.shape[1] * value.astype(np.float64) @ tensors[name.replace("lora_B", "lora_A")]
        for name, value in tensors.items()
        if "lora_B" in name
    }


def nearest(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation of this rank, by the dense decomposition."""
    left, values, right = np.linalg.svd(matrix)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def given_to(task: Any, assignment: Any) -> Tensors:
    """The adapter that an assignment names, as its device fetches it."""
    blob = BlobCatalogue(task.family, task.state).find(assignment.adapter.sha256)
    content = blob.path.read_bytes()
    assert len(content) == blob.size_bytes == assignment.adapter.size_bytes
    return load(content)


def random_change(task: Any, assignment: Any, seed: int) -> Tensors:
    random = np.random.default_rng(seed)
    rows = rows_at_rank(task.family.manifest.trained_parameters(assignment.member.depth), assignment.rank)
    return {row.name: 0.3 * random.standard_normal(row.shape).astype(np.float32) for row in rows}


def test_each_device_gets_the_adapter_at_its_rank_and_the_status_says_so(make_task: MakeTask) -> None:
    task = make_task(aggregation="flexlora", min_devices=2)
    (full,), (low,) = task.enrol("full"), task.enrol("low", rank=1)
    whole, thin = task.assignment(full), task.assignment(low)
    assert (whole.rank, thin.rank) == (2, 1)
    assert whole.adapter.sha256 == task.family.initial_adapter.sha256
    found, start = given_to(task, thin), task.parameters(0)
    for name, product in products(start).items():
        np.testing.assert_allclose(products(found)[name], nearest(product, 1), rtol=1e-5, atol=1e-5)
    assert {each.name: each.rank for each in task.rounds.task_status().devices} == {"full": 2, "low": 1}
    assert task.rounds.task_status().aggregation == "flexlora"


def test_a_device_of_a_lower_rank_is_expected_to_send_and_fetch_less(make_task: MakeTask) -> None:
    task = make_task(aggregation="flexlora")
    link = {"slowdown": 1e-3, "download_bytes_per_s": 1e9, "upload_bytes_per_s": 100.0}
    (low,) = task.enrol("low", rank=1, **link)
    assignment = task.assignment(low)
    sent = sum(value.nbytes for value in random_change(task, assignment, 0).values())
    (work,) = task.rounds.task_status().rounds[-1].work
    assert work.expected_s == pytest.approx(sent / 100, rel=1e-2)


def test_a_planner_that_chooses_ranks_gives_the_device_with_the_slow_link_the_low_one(
    make_task: MakeTask, update_content: Any
) -> None:
    task = make_task(planner="deadline-ranks", min_devices=2, min_updates=2, rounds=2)
    link = {"slowdown": 1.0, "download_bytes_per_s": 1e9}
    (fast,) = task.enrol("fast", **link, upload_bytes_per_s=1e6)
    (slow,) = task.enrol("slow", **link, upload_bytes_per_s=170.0)
    assert [task.assignment(each).rank for each in (fast, slow)] == [2, 1]
    task.restart()
    held = [task.assignment(each) for each in (fast, slow)]
    assert [each.rank for each in held] == [2, 1]
    assert "at rank 1" in held[1].reason
    for each in held:
        expected = {row.name: row.shape for row in rows_at_rank(task.family.manifest.parameters, each.rank)}
        assert {name: value.shape for name, value in given_to(task, each).items()} == expected
        content = update_content(random_change(task, each, seed=1))
        assert task.report(each.assignment_id, content).status == "accepted"
    task.run_background()
    before, after = task.parameters(0), task.parameters(1)
    changed = [name for name in after if "lora_" in name and (before[name] != after[name]).all()]
    assert len(changed) == sum("lora_" in name for name in after), "each term has its mean, also the second"


@pytest.mark.parametrize("name", ["fedavg", "hetlora", "zero-padding"])
def test_methods_that_keep_the_terms_give_the_leading_terms(make_task: MakeTask, name: str) -> None:
    task = make_task(aggregation=name)
    (low,) = task.enrol("low", rank=1)
    found, start = given_to(task, task.assignment(low)), task.parameters(0)
    for key, value in found.items():
        if "lora_A" in key:
            np.testing.assert_array_equal(value, start[key][:1])
        elif "lora_B" in key:
            np.testing.assert_allclose(value, start[key][:, :1] / 2, rtol=1e-6)  # alpha / r is twice as large


def test_mixed_ranks_are_averaged_as_dense_products_are(make_task: MakeTask, update_content: Any) -> None:
    task = make_task(aggregation="flexlora", min_devices=3, min_updates=3, rounds=2)
    devices = [*task.enrol("full"), *task.enrol("low", rank=1)]
    devices += task.enrol("shallow", rank=1, memory_limit_bytes=36_000_000)  # the last layer and the head alone
    examples = (30, 10, 20)
    for number in (1, 2):
        before = task.parameters(number - 1)
        held = [task.assignment(device) for device in devices]
        assert [each.member.depth for each in held] == [2, 2, 1]
        trained = []
        for each, of_device in zip(held, examples, strict=True):
            change = random_change(task, each, seed=of_device + number)
            start = given_to(task, each)
            trained.append({name: start[name].astype(np.float64) + value for name, value in change.items()})
            content = update_content(change, examples=of_device)
            assert task.report(each.assignment_id, content).status == "accepted"
        if number == 2:
            task.restart()
        task.run_background()
        after = task.parameters(number)
        assert {row.name: row.shape for row in task.family.manifest.parameters} == {
            n: v.shape for n, v in after.items()
        }
        for name, product in products(after).items():
            parts = [(w, products(each)[name]) for w, each in zip(examples, trained, strict=True) if name in each]
            mean = sum(w * part for w, part in parts) / sum(w for w, _ in parts)
            np.testing.assert_allclose(product, nearest(mean, RANK), rtol=1e-5, atol=1e-5)
        for name in ("base_model.model.classifier.weight", "base_model.model.classifier.bias"):
            starts = given_to(task, held[0])[name]
            moved = sum(w * (each[name] - starts) for w, each in zip(examples, trained, strict=True)) / sum(examples)
            np.testing.assert_allclose(after[name], before[name] + moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OF_FIXED_SIZE)
def test_every_method_of_mixed_ranks_runs_rounds_and_keeps_the_familys_shapes(
    make_task: MakeTask, update_content: Any, name: str
) -> None:
    task = make_task(aggregation=name, min_devices=2, min_updates=2, rounds=2)
    (full,), (low,) = task.enrol("full"), task.enrol("low", rank=1)
    for number in (1, 2):
        for device in (full, low):
            mine = task.assignment(device)
            content = update_content(random_change(task, mine, seed=number))
            assert task.report(mine.assignment_id, content).status == "accepted"
        task.run_background()
        shapes = {row.name: row.shape for row in task.family.manifest.parameters}
        assert {key: value.shape for key, value in task.parameters(number).items()} == shapes
        assert any((task.parameters(number)[key] != task.parameters(number - 1)[key]).any() for key in shapes)


def test_an_update_of_another_rank_is_rejected_with_both_shapes(make_task: MakeTask) -> None:
    task = make_task(aggregation="flexlora", min_devices=2)
    (full,), (low,) = task.enrol("full"), task.enrol("low", rank=1)
    for device, wrong in ((full, 1), (low, 2)):
        mine = task.assignment(device)
        content = task.content(mine.model_copy(update={"rank": wrong}), 1.0)
        answer = task.report(mine.assignment_id, content)
        assert answer.status == "rejected"
        assert f"has shape [{wrong}, 8], not [{mine.rank}, 8]" in answer.reason
    assert task.rounds.task_status().rounds[0].accepted == 0


@pytest.mark.parametrize("aggregation", ["flexlora", "fedavg"])
def test_a_device_of_a_rank_that_the_task_has_not_is_refused_and_leaves_nothing(
    make_task: MakeTask, aggregation: str
) -> None:
    task = make_task(aggregation=aggregation)
    with pytest.raises(RefusedRequestError, match="rank 3 of an adapter of rank 2") as refused:
        task.enrol("odd", rank=3)
    assert (refused.value.code, refused.value.http_status) == ("wrong-rank", 409)
    assert task.rounds.task_status().devices == ()
    assert task.enrol("odd", rank=2)


def test_an_adapter_of_a_lower_rank_is_made_once_also_across_a_restart(make_task: MakeTask) -> None:
    task = make_task(aggregation="flexlora", min_devices=2)
    (low,), (other,) = task.enrol("low", rank=1), task.enrol("other", rank=1)
    first = task.assignment(low).adapter
    task.restart()
    assert task.assignment(low).adapter == task.assignment(other).adapter == first
    assert task.state.blobs.path(first.sha256).is_file()


def test_a_state_goes_on_with_the_aggregation_that_it_was_begun_with(make_task: MakeTask) -> None:
    task = make_task(aggregation="flexlora")
    task.policy = RoundPolicy()
    with pytest.raises(QuadloomError, match="begun with the aggregation flexlora, not fedavg") as refused:
        task.restart()
    assert "--aggregation flexlora" in refused.value.remedy
    task.policy = RoundPolicy(aggregation="flexlora")
    task.state = task._open()


@pytest.mark.parametrize("name", ["flora", "median"])
def test_an_aggregation_that_no_server_can_do_is_refused_with_those_that_it_can(name: str) -> None:
    with pytest.raises(QuadloomError, match=name) as refused:
        RoundPolicy(aggregation=name)
    assert all(each in refused.value.remedy for each in METHODS if each != "flora")
