"""Who sets out with work in a round, and the update that each will bring."""

from collections import Counter
from dataclasses import dataclass, replace

from quadloom_runtime.contract.manifest import MemberKey
from quadloom_runtime.contract.wire import TrainingSettings
from quadloom_server.planning.calibration import TrainingReport, TransferReport
from quadloom_server.planning.round_plan import PlannedDevice
from quadloom_server.planning.turns import Held
from quadloom_server.simulation.durations import Trip, true_trip
from quadloom_server.simulation.fleet import SimulatedDevice
from quadloom_server.simulation.local_training import LocalWork
from quadloom_server.simulation.planners_view import round_context
from quadloom_server.simulation.randomness import generator
from quadloom_server.simulation.selection import Places
from quadloom_server.simulation.state import Facts, State, Update, UpdateFacts
from quadloom_server.simulation.virtual_clock import Arrival
from quadloom_server.simulation.world import World


@dataclass(frozen=True)
class Departure:
    """A device with its work, and what its round will have taken; nothing is trained yet."""

    device: SimulatedDevice
    work: LocalWork
    steps: int
    trip: Trip
    arrival: Arrival


def departures(world: World, state: State) -> tuple[tuple[PlannedDevice, ...], list[Departure]]:
    """The devices that the planner was asked about, and those of them that get work."""
    busy = {update.facts.device for update in state.under_way}
    everyone = round_context(world, state.facts, busy=busy)
    random = generator(world.settings.seed, "selection", round_index=everyone.round_index)
    devices = {device.name: device for device in world.devices}
    places = Places(
        free=max(0, world.fleet.devices_per_round - len(busy)),
        fleet=Counter(device.group for device in world.devices),
        held=_held(world, state),
    )
    asked = world.method.selection(everyone, world.method.planner, places, random)
    context = replace(everyone, devices=asked)
    plan = world.method.planner(context)
    found = []
    for each in asked:
        member = plan[each.name].member
        if member is not None:
            layers = None if world.method.layers is None else world.method.layers(context, each)
            steps, rank = context.steps_of(each), plan[each.name].rank or context.rank_of(each)
            found.append(_departure(world, state.facts, devices[each.name], member, layers, steps=steps, rank=rank))
    return asked, found


def trained(world: World, state: State, departure: Departure) -> Update:
    """The update: trained now, from today's parameters, whenever it will arrive."""
    work, trip = departure.work, departure.trip
    update = world.train(work, world.aggregation.at_rank(state.parameters, work.rank))
    facts = UpdateFacts(
        device=departure.device.name,
        member=work.member,
        started_round=departure.arrival.started_round,
        started_s=state.facts.now_s,
        at_s=departure.arrival.at_s,
        examples=update.examples,
        norms=dict(update.norms),
        training=TrainingReport(work.member, departure.steps, trip.time.train_s),
        download=TransferReport(trip.downloaded_bytes, trip.time.download_s),
        upload=TransferReport(trip.uploaded_bytes, trip.time.upload_s),
    )
    return Update(facts, update.start, update.trained)


def _held(world: World, state: State) -> dict[str, Held]:
    """What devices have had of the places so far, by class."""
    now_s, started_s = state.facts.now_s, {each.facts.device: each.facts.started_s for each in state.under_way}
    found: dict[str, Held] = {}
    for device in world.devices:
        had, history = found.get(device.group, Held()), state.facts.histories[device.name]
        open_s = (now_s - started_s[device.name],) if device.name in started_s else ()
        found[device.group] = Held(had.works + history.works, had.works_s + history.works_s, (*had.open_s, *open_s))
    return found


def _training(world: World, *, steps: int, seed: int) -> TrainingSettings:
    """Settings of one device in one round."""
    balance = world.settings.training.class_balance or world.method.class_balance
    return world.settings.training.model_copy(update={"seed": seed, "max_steps": steps, "class_balance": balance})


def _departure(
    world: World,
    facts: Facts,
    device: SimulatedDevice,
    member: MemberKey,
    layers: frozenset[int] | None,
    *,
    steps: int,
    rank: int,
) -> Departure:
    seed, place = world.settings.seed, facts.next_round
    order = int(generator(seed, "order", round_index=place, device=device.name).integers(2**31))
    work = LocalWork(
        member=member,
        rows=world.rows[device.name],
        rank=rank,
        layers=layers,
        settings=_training(world, steps=steps, seed=order),
        adjust_logits=world.settings.adjust_logits,
    )
    trip = true_trip(
        device,
        work,
        world.references[member],
        world.manifest,
        steps=steps,
        fetched=facts.histories[device.name].fetched,
        time=world.fleet.time,
        random=generator(seed, "duration", round_index=place, device=device.name),
    )
    return Departure(device, work, steps, trip, Arrival(device.name, place, facts.now_s + trip.time.total_s))
