"""A simulated round is the round that the parts would make by hand, and its clock can be added up on paper."""

from dataclasses import replace

import numpy as np
import pytest
from tests.server.simulation.conftest import SETTINGS, two_groups

from quadloom_runtime.data import encode, load_examples
from quadloom_runtime.engines.select import open_training_engine
from quadloom_runtime.trainer import train
from quadloom_server.aggregation.running_mean import RunningMean, apply, fold
from quadloom_server.planning.cost_model import DeviceCost, completion_time
from quadloom_server.planning.cost_model import step_s as step_cost_s
from quadloom_server.planning.member_memory import needed_bytes
from quadloom_server.simulation.departures import departures, trained
from quadloom_server.simulation.fleet_file import SplitSection, TimeSection
from quadloom_server.simulation.methods import METHODS, Method
from quadloom_server.simulation.planners_view import round_context
from quadloom_server.simulation.round import aggregated, plan_round, play_round
from quadloom_server.simulation.virtual_clock import Closing


def expected_s(world, device, key):
    """From the true cost, every file being there."""
    fetched = [each.key for each in world.manifest.members]
    return completion_time(device.true_cost, key, world.references, steps=world.settings.steps, fetched=fetched).total_s


def played(world, state, rounds):
    for _ in range(rounds):
        state = play_round(world, state)
    return state


def test_a_round_of_one_device_is_train_and_average_by_hand(opened, inputs):
    world, state = opened(two_groups(per_round=1), settings=SETTINGS.model_copy(update={"adjust_logits": False}))
    _, (departure,) = departures(world, state)
    engine = open_training_engine(inputs.family, world.manifest, departure.work.member)
    rows = world.manifest.trained_parameters(departure.work.member.depth)
    examples = load_examples(inputs.train)
    own = [examples[row] for row in world.rows[departure.device.name]]
    data = encode(own, inputs.family / "tokenizer/tokenizer.json", sequence_length=8)
    outcome = train(engine, state.parameters, rows, data, batch_size=4, settings=departure.work.settings)
    expected = apply(state.parameters, fold(RunningMean(), outcome.update, examples=outcome.examples))
    found = play_round(world, state)
    assert found.parameters.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found.parameters[name], value, rtol=0, atol=1e-7)
    assert any(not np.array_equal(found.parameters[name], value) for name, value in state.parameters.items())


def test_a_device_makes_the_steps_of_the_round_in_training_and_on_the_clock(opened):
    world, state = opened(two_groups(per_round=4))
    steps = world.settings.steps
    for each in departures(world, state)[1]:
        step_s = step_cost_s(each.device.true_cost, world.references[each.work.member])
        assert each.trip.time.train_s == pytest.approx(steps * step_s)
        update = trained(world, state, each)
        assert update.facts.training.steps == steps
        assert update.facts.examples == min(4 * steps, len(world.rows[each.device.name]))
    later = played(world, state, 1)
    for each in round_context(world, later.facts, busy=()).devices:
        assert each.cost.slowdown == pytest.approx(4 if each.name.startswith("slow") else 1)


def test_a_device_trains_and_sends_at_the_rank_that_is_planned_for_it(opened):
    world, state = opened(two_groups(per_round=2, counts=(1, 1)))

    def plan(context):
        works = METHODS["full-depth"].planner(context)
        return {name: replace(work, rank=1 if name == "slow-1" else None) for name, work in works.items()}

    world = replace(world, method=Method(plan))
    slow, fast = departures(world, state)[1]
    assert (slow.work.rank, fast.work.rank) == (1, 4)
    assert slow.trip.uploaded_bytes < fast.trip.uploaded_bytes
    update = trained(world, state, slow)
    assert all(update.trained[name].shape[0] == 1 for name in update.trained if "lora_A" in name)
    later = play_round(world, state)
    for name, value in later.parameters.items():
        if "lora_A" in name and name in update.trained:
            moved = np.flatnonzero((value != state.parameters[name]).any(axis=1))
            assert moved.tolist() == [0, 1, 2, 3]


def test_updates_count_by_the_examples_that_they_rest_on(opened):
    world, state = opened(two_groups(per_round=2, counts=(1, 1)))
    few, many = (trained(world, state, each) for each in departures(world, state)[1])
    few = replace(few, facts=few.facts.model_copy(update={"examples": 2}))
    many = replace(many, facts=many.facts.model_copy(update={"examples": 6}))
    moved = aggregated(world, state, [few, many])
    for name, value in state.parameters.items():
        changes = [each.trained[name].astype(float) - each.start[name] for each in (few, many)]
        np.testing.assert_allclose(moved[name], value + (changes[0] + 3 * changes[1]) / 4, rtol=0, atol=1e-6)


def test_the_clock_advances_by_the_slowest_and_the_others_wait(opened):
    world, state = opened(two_groups(per_round=4))
    _, leaving = departures(world, state)
    times = sorted(expected_s(world, each.device, each.work.member) for each in leaving)
    assert times[0] == pytest.approx(times[3] / 4)
    found = played(world, state, 2).facts.records
    assert [each.closed_s for each in found] == pytest.approx([0.0, times[3], 2 * times[3]])
    assert found[1].busy_s == pytest.approx(sum(times))
    assert found[1].waiting_s == pytest.approx(4 * times[3] - sum(times))
    assert (found[2].opened_s, found[2].updates, found[2].late) == (found[1].closed_s, 4, 0)


def test_bytes_are_those_of_the_tensors_at_the_devices_rank(opened):
    world, state = opened(two_groups(per_round=4), "hetlora")
    _, leaving = departures(world, state)
    for each in leaving:
        sent = world.train(each.work, world.aggregation.at_rank(state.parameters, each.work.rank)).trained
        got = world.aggregation.at_rank(state.parameters, each.work.rank)
        assert each.trip.uploaded_bytes == sum(value.nbytes for value in sent.values())
        assert each.trip.downloaded_bytes == sum(value.nbytes for value in got.values())
    assert {each.work.rank for each in leaving} == {2, 4}


@pytest.mark.parametrize("method", ["hetlora", "uniform-smallest-rank", "fedquad"])
def test_the_planner_expects_of_a_device_at_its_rank_what_that_takes(opened, method):
    fleet = two_groups(per_round=4)
    narrow = tuple(each.model_copy(update={"link_mbps": 0.01}) for each in fleet.group)
    world, state = opened(fleet.model_copy(update={"group": narrow}), method)
    plan = world.method.planner(round_context(world, state.facts, busy=()))
    _, leaving = departures(world, state)
    assert len(leaving) == 4
    for each in leaving:
        assert plan[each.device.name].expected_s == pytest.approx(each.trip.time.total_s)
        assert each.trip.time.upload_s > 0.1


def test_at_the_smallest_rank_of_the_fleet_padding_adds_nothing_to_plain_averaging(opened):
    world, state = opened(two_groups(per_round=4), "uniform-smallest-rank")
    _, leaving = departures(world, state)
    assert [each.work.rank for each in leaving] == [2] * 4
    updates = [trained(world, state, each) for each in leaving]
    found = aggregated(world, state, updates)
    name = next(name for name in updates[0].start if "lora_B" in name)
    weights = np.array([each.facts.examples for each in updates], np.float64)
    expected = np.tensordot(weights / weights.sum(), np.stack([each.trained[name] for each in updates]), axes=1)
    got = world.aggregation.at_rank(found, 2)[name]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_late_updates_join_a_later_round_with_less_weight(opened):
    fleet = two_groups(per_round=2, counts=(1, 1))
    closing = Closing(updates=1, largest_staleness=2)
    world, state = opened(fleet, settings=SETTINGS.model_copy(update={"closing": closing}))
    states = [state]
    for _ in range(3):
        states.append(play_round(world, states[-1]))
    records = states[-1].facts.records
    fast_s, slow_s = (expected_s(world, world.devices[place], states[1].under_way[0].facts.member) for place in (1, 0))
    # The third round waits for the slow one, which has been under way for two rounds, though the fast one is back.
    assert [each.closed_s for each in records[1:]] == pytest.approx([fast_s, 2 * fast_s, slow_s])
    assert [(each.updates, each.late) for each in records[1:]] == [(1, 0), (1, 0), (2, 1)]
    assert [len(each.under_way) for each in states] == [0, 1, 1, 0]
    (slow,) = states[2].under_way
    fast = world.train(departures(world, states[2])[1][0].work, states[2].parameters)
    for name, value in states[2].parameters.items():
        changes = [each.trained[name].astype(float) - each.start[name] for each in (slow, fast)]
        weights = [slow.facts.examples / (1 + 2**0.5), fast.examples]
        expected = value + np.average(changes, axis=0, weights=weights)
        np.testing.assert_allclose(states[3].parameters[name], expected, rtol=0, atol=1e-6)


def test_the_planner_sees_profiles_and_reports_and_never_the_truth(opened):
    world, state = opened(two_groups(per_round=4, time=TimeSection(spread=0.5)))
    lying = replace(world, devices=[replace(each, true_cost=DeviceCost(slowdown=1e6)) for each in world.devices])
    later = played(world, state, 3)
    for at in (state, later):
        assert round_context(world, at.facts, busy=()) == round_context(lying, at.facts, busy=())
    costs = [
        {each.name: each.cost.slowdown for each in round_context(world, at.facts, busy=()).devices}
        for at in (state, later)
    ]
    for device in world.devices:
        assert costs[0][device.name] == device.assumed_cost.slowdown
        assert costs[1][device.name] == pytest.approx(device.true_cost.slowdown, rel=1e-6)
        assert abs(np.log(device.true_cost.slowdown / device.assumed_cost.slowdown)) > 1e-3


@pytest.mark.parametrize("name", [name for name in METHODS if name != "full-depth-everywhere"])
def test_every_method_trains_within_memory_and_learns(opened, name):
    fleet = two_groups(per_round=4, holds=("1,0", "2,0"), data=SplitSection(split="group", correlation=0.5))
    world, state = opened(fleet, name)
    members = {each.key: each for each in world.manifest.members}
    first = world.evaluate(state.parameters)
    for _ in range(4):
        for each in departures(world, state)[1]:
            needed = needed_bytes(members[each.work.member], rank=each.work.rank)
            assert needed <= each.device.memory_limit_bytes
        state = play_round(world, state)
    assert world.evaluate(state.parameters).loss < first.loss


def test_a_device_whose_layers_are_chosen_moves_these_alone(opened):
    world, state = opened(two_groups(per_round=4), "random-layers")
    _, leaving = departures(world, state)
    for each in leaving:
        update = world.train(each.work, state.parameters)
        rows = {row.name: row for row in world.manifest.parameters}
        assert len(each.work.layers) == 1
        assert {rows[name].layer for name in update.trained} == {"head", *each.work.layers}
        assert set(update.norms) == each.work.layers
        assert each.work.member.depth == 2 - min(each.work.layers)
    assert len({each.work.layers for each in leaving}) == 2  # not all drew the same


def test_weak_devices_are_not_even_asked_where_the_rule_shuts_them_out(opened):
    world, state = opened(two_groups(per_round=2, counts=(3, 2), holds=("1,1", "2,0")), "exclude-weak")
    asked, leaving = departures(world, state)
    assert {each.name for each in asked} == {each.device.name for each in leaving} == {"fast-1", "fast-2"}


def test_the_yardstick_trains_every_layer_on_devices_that_could_not_hold_them(opened):
    world, state = opened(two_groups(per_round=5, counts=(3, 2), holds=("1,1", "2,0")), "full-depth-everywhere")
    _, leaving = departures(world, state)
    assert len(leaving) == 5
    assert {(each.work.member.depth, each.work.member.quantized_layers) for each in leaving} == {(2, 0)}


def test_noise_and_stragglers_come_from_the_seed(opened):
    def closings(seed, **time):
        settings = SETTINGS.model_copy(update={"seed": seed})
        world, state = opened(two_groups(per_round=1, counts=(1, 1), time=TimeSection(**time)), settings=settings)
        return [each.closed_s for each in played(world, state, 3).facts.records]

    assert closings(1, noise=0.3) == closings(1, noise=0.3) != closings(1)
    assert np.diff(closings(1, straggler_share=1.0, straggler_factor=7.0)) == pytest.approx(7 * np.diff(closings(1)))


def test_a_plan_says_when_its_round_closes_and_to_play_it_is_to_play_the_round(opened):
    world, state = opened(two_groups(per_round=4, time=TimeSection(noise=0.5)))
    planned = plan_round(world, state)
    found = play_round(world, state, planned)
    assert found.facts == play_round(world, state).facts
    assert found.facts.now_s == planned.closed_s > 0


def test_a_device_that_is_left_out_gets_its_turn_when_it_was_asked_often_enough(opened):
    fleet = two_groups(per_round=4)
    slow = fleet.group[0].model_copy(update={"slowdown": 400.0})
    world, state = opened(fleet.model_copy(update={"group": (slow, fleet.group[1])}), "deadline-balanced")
    state = played(world, state, 8)
    updates = [each.updates for each in state.facts.records[1:]]
    assert updates == [2, 2, 2, 4, 2, 2, 2, 4]
    assert [each.sat_out for each in state.facts.records[1:]] == [4 - each for each in updates]


def test_a_server_that_shows_a_mean_of_rounds_has_devices_start_from_the_newest(opened):
    world, state = opened(two_groups(per_round=2), "fedquad")
    showing = replace(world, method=replace(world.method, mean_share=0.5))
    plain, found = [state], [state]
    for _ in range(3):
        plain.append(play_round(world, plain[-1]))
        found.append(play_round(showing, found[-1]))
    for name in state.parameters:
        for one, other in zip(plain, found, strict=True):
            np.testing.assert_array_equal(one.parameters[name], other.parameters[name])
        newest = [each.parameters[name] for each in plain]
        np.testing.assert_array_equal(found[1].judged[name], newest[1])
        np.testing.assert_array_equal(found[2].judged[name], newest[2])
        expected = newest[2] / 3 + newest[3] * 2 / 3
        np.testing.assert_allclose(found[3].judged[name], expected, rtol=0, atol=1e-6)
        assert plain[3].judged[name] is plain[3].parameters[name]
    assert any(not np.array_equal(found[3].judged[name], value) for name, value in found[3].parameters.items())


def test_devices_are_there_as_often_as_the_fleet_says(opened):
    world, state = opened(two_groups(per_round=4, time=TimeSection(availability=0.5)))
    there = [
        len(
            round_context(
                replace(world, settings=SETTINGS.model_copy(update={"seed": seed})), state.facts, busy=()
            ).devices
        )
        for seed in range(200)
    ]
    assert np.mean(there) == pytest.approx(2, abs=0.2)
    names = {each.name for each in round_context(world, state.facts, busy={"slow-1", "fast-2"}).devices}
    assert names <= {"slow-2", "fast-1"}


def test_files_that_are_not_installed_are_fetched_once(opened):
    world, state = opened(two_groups(per_round=4, files="fetched"))
    records = played(world, state, 2).facts.records
    members = {each.key: each for each in world.manifest.members}
    member = departures(world, state)[1][0].work.member
    shared = world.manifest.format_spec("onnx").weights.size_bytes + sum(
        blob.size_bytes for blob in world.manifest.tokenizer
    )
    files = members[member].graph.size_bytes + sum(blob.size_bytes for blob in members[member].companions) + shared
    assert records[1].downloaded_bytes - records[2].downloaded_bytes == 4 * files
