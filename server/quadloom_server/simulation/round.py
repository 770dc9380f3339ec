"""One round of a simulated fleet: plan, train, close at the right virtual moment, aggregate."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from quadloom_runtime.engines.engine import FloatArray
from quadloom_server.aggregation.method import TrainedUpdate
from quadloom_server.aggregation.recent_mean import recent_mean
from quadloom_server.aggregation.staleness import staleness_weight
from quadloom_server.planning.importance import updated_importance
from quadloom_server.planning.round_plan import PlannedDevice
from quadloom_server.simulation.departures import Departure, departures, trained
from quadloom_server.simulation.state import DeviceHistory, Facts, RoundRecord, State, Update
from quadloom_server.simulation.virtual_clock import closing_time_s, staleness
from quadloom_server.simulation.world import World


@dataclass(frozen=True)
class PlannedRound:
    """The next round as it will be; nobody has trained yet.

    Attributes:
        asked: devices that the planner was asked about.
        leaving: those that got work.
        closed_s: virtual seconds at which it closes.
    """

    asked: tuple[PlannedDevice, ...]
    leaving: Sequence[Departure]
    closed_s: float


def plan_round(world: World, state: State) -> PlannedRound:
    """Who does what in the next round, and when it ends."""
    asked, leaving = departures(world, state)
    return PlannedRound(asked, leaving, _closing_time_s(world, state, leaving))


def play_round(world: World, state: State, planned: PlannedRound | None = None) -> State:
    """The state after one more round, not judged yet.

    A round in which nobody has work takes no time and changes nothing but how often those who were asked sat out.

    Args:
        planned: what `plan_round` says of this very state, None to have it planned here.
    """
    planned = planned or plan_round(world, state)
    facts, asked, leaving, closed_s = state.facts, planned.asked, planned.leaving, planned.closed_s
    updates = [*state.under_way, *(trained(world, state, each) for each in leaving)]
    arrived = sorted(
        (each for each in updates if each.facts.at_s <= closed_s), key=lambda each: (each.facts.at_s, each.facts.device)
    )
    aggregate = aggregated(world, state, arrived)
    parameters, moments = world.method.server_optimizer.step(
        state.moments, state.parameters, aggregate, round_index=facts.next_round
    )
    record = _record(facts, arrived, closed_s=closed_s, sat_out=len(asked) - len(leaving))
    return State(
        facts=Facts(
            records=(*facts.records, record),
            importance=updated_importance(facts.importance, [each.facts.norms for each in arrived]),
            histories=_histories(facts, asked, leaving, arrived, closed_s=closed_s),
        ),
        parameters=parameters,
        under_way=tuple(each for each in updates if each.facts.at_s > closed_s),
        moments=moments,
        mean=_mean(world, state, parameters),
    )


def aggregated(world: World, state: State, arrived: Sequence[Update]) -> dict[str, FloatArray]:
    """The mean of these updates by the different examples that each rests on, the less the staler it is."""
    sums = world.aggregation.begin()
    for each in arrived:
        late = staleness(each.facts.arrival, round_index=state.facts.next_round)
        weight = each.facts.examples * staleness_weight(late)
        sums = world.aggregation.fold(sums, TrainedUpdate(start=each.start, trained=each.trained, weight=weight))
    found: dict[str, FloatArray] = world.aggregation.finish(state.parameters, sums)
    return found


def _mean(world: World, state: State, parameters: Mapping[str, FloatArray]) -> dict[str, FloatArray] | None:
    """Over recent rounds, if the method has such a mean judged."""
    share = world.method.mean_share
    if share == 0:
        return None
    return recent_mean(state.judged, parameters, round_index=state.facts.next_round, share=share)


def _closing_time_s(world: World, state: State, leaving: Sequence[Departure]) -> float:
    arrivals = [update.facts.arrival for update in state.under_way] + [each.arrival for each in leaving]
    if not arrivals:
        return state.facts.now_s
    return closing_time_s(arrivals, world.settings.closing or world.method.closing, round_index=state.facts.next_round)


def _record(facts: Facts, arrived: Sequence[Update], *, closed_s: float, sat_out: int) -> RoundRecord:
    found = [each.facts for each in arrived]
    return RoundRecord(
        index=facts.next_round,
        opened_s=facts.now_s,
        closed_s=closed_s,
        updates=len(found),
        late=sum(each.started_round < facts.next_round for each in found),
        sat_out=sat_out,
        layers=fmean(each.member.depth for each in found) if found else 0.0,
        busy_s=sum(each.at_s - each.started_s for each in found),
        waiting_s=sum(closed_s - each.at_s for each in found),
        downloaded_bytes=sum(each.download.size_bytes for each in found),
        uploaded_bytes=sum(each.upload.size_bytes for each in found),
    )


def _histories(
    facts: Facts,
    asked: Collection[PlannedDevice],
    leaving: Sequence[Departure],
    arrived: Sequence[Update],
    *,
    closed_s: float,
) -> dict[str, DeviceHistory]:
    """What the server knows afterwards: who had work, who has which files, and what the arrived ones reported."""
    found = dict(facts.histories)
    members = {each.device.name: each.work.member for each in leaving}
    for device in asked:
        found[device.name] = found[device.name].after_being_asked(members.get(device.name))
    for each in arrived:
        name = each.facts.device
        found[name] = found[name].after_update(each.facts, closed_s=closed_s)
    return found
