"""A simulated run from its inputs to its result: opened or continued, and played to the end of its budget."""

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

from quadloom_runtime.errors import QuadloomError
from quadloom_server.aggregation.rank_energy import energy_above
from quadloom_server.family import open_family
from quadloom_server.simulation.checkpoint import load_checkpoint, save_checkpoint
from quadloom_server.simulation.fleet_file import SimulatedFleet
from quadloom_server.simulation.methods import find_method
from quadloom_server.simulation.opening import Inputs, identity, initial_state, open_world
from quadloom_server.simulation.result import Budget, SimulationResult, load_result, save_result
from quadloom_server.simulation.round import plan_round, play_round
from quadloom_server.simulation.state import RoundRecord, State
from quadloom_server.simulation.world import RunSettings, World

ROUNDS_PER_CHECKPOINT = 5
MOST_EMPTY_ROUNDS = 100
"""So many rounds in a row in which nobody trained mean that nobody ever will."""


def simulate(
    inputs: Inputs, fleet: SimulatedFleet, method: str, settings: RunSettings, budget: Budget, folder: Path
) -> SimulationResult:
    """Play the run, or what is left of it, and keep it in `folder`.

    Raises:
        QuadloomError: an input cannot be used, `folder` holds another run or this one further on, nobody can train, or
            training diverged.
    """
    if budget == Budget():
        raise QuadloomError(
            "neither rounds nor virtual seconds are bounded", remedy="give --rounds or --virtual-seconds"
        )
    find_method(method)
    family = open_family(inputs.family)
    run = identity(inputs, family, fleet, method, settings)
    finished = load_result(folder, run=run, budget=budget)
    if finished is not None:
        return finished
    world = open_world(inputs, family, fleet, method, settings)
    state = load_checkpoint(folder, run=run) or initial_state(world, family)
    _check_not_beyond(budget, state.facts.records[-1], folder)
    state = _play(world, state, budget, folder, run=run, name=f"{method}, seed {settings.seed}")
    last = state.facts.records[-1]
    played_out = budget.rounds is not None and last.index >= budget.rounds
    result = SimulationResult(
        run=run,
        method=method,
        settings=settings,
        budget=budget,
        records=state.facts.records,
        final=last.evaluation or world.evaluate(state.judged),
        ended_s=last.closed_s if played_out or budget.virtual_s is None else budget.virtual_s,
    )
    save_result(folder, result)
    return result


def _check_not_beyond(budget: Budget, last: RoundRecord, folder: Path) -> None:
    rounds, virtual_s = budget.rounds or math.inf, budget.virtual_s or math.inf
    if last.index > rounds or last.closed_s > virtual_s:
        raise QuadloomError(
            f"the run in {folder} is at round {last.index} and {last.closed_s:.1f} virtual s, beyond its new end",
            remedy="give at least as many --rounds or --virtual-seconds, or another folder",
        )


def _play(world: World, state: State, budget: Budget, folder: Path, *, run: str, name: str) -> State:
    """Round after round until the budget is spent, with a checkpoint every few.

    A state is judged when the next round is planned: only then is it known how long it stands.
    """
    latest_s = math.inf if budget.virtual_s is None else budget.virtual_s
    started, saved, first = time.monotonic(), state, state.facts.next_round
    while True:
        planned = plan_round(world, state)
        state = _judged(world, state, until_s=planned.closed_s)
        last = state.facts.records[-1]
        if last.index >= first:
            _say(name, last, budget, real_s=time.monotonic() - started)
            if state.facts.next_round % ROUNDS_PER_CHECKPOINT == 0:
                save_checkpoint(folder, state, run=run)
                saved = state
        if planned.closed_s > latest_s or last.index == budget.rounds:
            break
        state = play_round(world, state, planned)
        _check_anybody_trains(state)
    if saved is not state:
        save_checkpoint(folder, state, run=run)
    return state


def _judged(world: World, state: State, *, until_s: float) -> State:
    """The state with its evaluation, if one is due while it stands."""
    last = state.facts.records[-1]
    due = world.settings.evaluations.judges(last.index, from_s=last.closed_s, until_s=until_s)
    if not due or last.evaluation is not None:
        return state
    energy = energy_above(world.layout, state.judged) if len(world.layout.ranks) > 1 else {}
    record = last.model_copy(update={"evaluation": world.evaluate(state.judged), "energy_above": energy})
    return replace(state, facts=state.facts.model_copy(update={"records": (*state.facts.records[:-1], record)}))


def _check_anybody_trains(state: State) -> None:
    last = state.facts.records[-MOST_EMPTY_ROUNDS:]
    if len(last) == MOST_EMPTY_ROUNDS and not state.under_way and all(each.updates == 0 for each in last):
        raise QuadloomError(
            f"nobody trained in the last {MOST_EMPTY_ROUNDS} rounds: the method has no work for these devices, or "
            "hardly any is ever there",
            remedy="raise memory limits or availability in the fleet file, export smaller members, or choose another "
            "method",
        )


def _say(name: str, record: RoundRecord, budget: Budget, *, real_s: float) -> None:
    rounds = f" of {budget.rounds}" if budget.rounds is not None else ""
    virtual = f" of {budget.virtual_s:.0f}" if budget.virtual_s is not None else ""
    judged = "" if record.evaluation is None else f", accuracy {100 * record.evaluation.accuracy:.2f} %"
    print(
        f"{name}: round {record.index}{rounds}, {record.closed_s:.1f}{virtual} virtual s, "
        f"{record.updates} updates of {record.layers:.1f} layers{judged}; {real_s:.0f} s",
        file=sys.stderr,
        flush=True,
    )
