"""`quadloom simulate`: train a whole fleet on a virtual clock, in one process."""

import argparse
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from quadloom_runtime.errors import QuadloomError

if TYPE_CHECKING:
    from quadloom_server.simulation.evaluation_schedule import EvaluationSchedule
    from quadloom_server.simulation.result import SimulationResult
    from quadloom_server.simulation.virtual_clock import Closing
    from quadloom_server.simulation.world import RunSettings

SUMMARY = "Train a simulated fleet: real training, times from the cost model on a virtual clock."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--family", type=Path, required=True, metavar="DIR", help="folder of `quadloom export`")
    parser.add_argument("--fleet", type=Path, required=True, metavar="FILE", help="simulated fleet (TOML)")
    parser.add_argument("--train", type=Path, required=True, metavar="FILE", help="text to deal out to the devices")
    parser.add_argument("--eval", type=Path, required=True, metavar="FILE", help="held-out text")
    parser.add_argument("--text-field", default="text", help="field of the text (default %(default)s)")
    parser.add_argument("--label-field", default="label", help="field of the class index (default %(default)s)")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="checkpoint and result; continued if there"
    )
    parser.add_argument("--method", default="best", metavar="NAME", help="which (default %(default)s)")
    parser.add_argument("--rounds", type=int, metavar="N", help="end after so many rounds")
    parser.add_argument("--virtual-seconds", type=float, metavar="S", help="end when the virtual clock shows this")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="of a device in a round (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of LoRA (default %(default)s)")
    parser.add_argument("--head-learning-rate", type=float, default=1e-3, help="default %(default)s")
    parser.add_argument("--eval-every", type=int, default=1, metavar="N", help="rounds (default %(default)s)")
    parser.add_argument(
        "--evaluations", type=int, metavar="N", help="instead, at N equally spaced times of --virtual-seconds"
    )
    parser.add_argument("--eval-limit", type=int, metavar="N", help="use the first N held-out examples")
    parser.add_argument(
        "--updates-to-close", type=int, metavar="N", help="a round closes on N updates (default: the method's rule)"
    )
    parser.add_argument(
        "--largest-staleness",
        type=int,
        metavar="N",
        help="rounds that an update may then be late by (default: the method's)",
    )
    parser.add_argument(
        "--start",
        choices=("drawn", "family"),
        default="drawn",
        help="a LoRA adapter drawn from the seed, or the family's (default %(default)s)",
    )
    parser.add_argument("--no-logit-adjustment", action="store_true", help="leave label shares in the loss")
    parser.add_argument("--threads", type=int, default=1, help="of the engines (default %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Play the run, or what is left of it, and print what it found."""
    from pydantic import ValidationError

    from quadloom_server.simulation.fleet_file import load_simulated_fleet
    from quadloom_server.simulation.opening import Inputs
    from quadloom_server.simulation.result import Budget
    from quadloom_server.simulation.simulation import simulate

    try:
        settings = _settings(arguments)
        budget = Budget(rounds=arguments.rounds, virtual_s=arguments.virtual_seconds)
    except ValidationError as error:
        first = error.errors()[0]
        raise QuadloomError(
            f"{first['loc'][-1]} is {first['input']}", remedy=f"{first['msg']}: change that option"
        ) from None
    inputs = Inputs(
        family=arguments.family,
        train=arguments.train,
        held_out=arguments.eval,
        eval_limit=arguments.eval_limit,
        threads=arguments.threads,
        text_field=arguments.text_field,
        label_field=arguments.label_field,
    )
    fleet = load_simulated_fleet(arguments.fleet)
    print(_summary(simulate(inputs, fleet, arguments.method, settings, budget, arguments.out)))
    return 0


def _settings(arguments: argparse.Namespace) -> "RunSettings":
    from quadloom_runtime.contract.wire import TrainingSettings
    from quadloom_server.simulation.world import RunSettings

    training = TrainingSettings(
        learning_rate=arguments.learning_rate,
        head_learning_rate=arguments.head_learning_rate,
        max_steps=arguments.steps,
    )
    return RunSettings(
        seed=arguments.seed,
        training=training,
        evaluations=_evaluations(arguments),
        start=arguments.start,
        closing=_closing(arguments),
        adjust_logits=not arguments.no_logit_adjustment,
    )


def _evaluations(arguments: argparse.Namespace) -> "EvaluationSchedule":
    from quadloom_server.simulation.evaluation_schedule import EveryRounds, equally_spaced

    if arguments.evaluations is None:
        return EveryRounds(rounds=arguments.eval_every)
    if arguments.virtual_seconds is None:
        raise QuadloomError("--evaluations needs a budget of virtual time", remedy="give --virtual-seconds, too")
    return equally_spaced(arguments.evaluations, budget_s=arguments.virtual_seconds)


def _closing(arguments: argparse.Namespace) -> "Closing | None":
    from quadloom_server.simulation.methods import find_method
    from quadloom_server.simulation.virtual_clock import Closing

    if arguments.updates_to_close is None and arguments.largest_staleness is None:
        return None
    given = {"updates": arguments.updates_to_close, "largest_staleness": arguments.largest_staleness}
    rule = find_method(arguments.method).closing.model_dump()
    return Closing(**rule | {name: value for name, value in given.items() if value is not None})


def _summary(result: "SimulationResult") -> str:
    """A line per evaluated round, then the run as a whole."""
    lines = [f"{'round':>6} {'virtual s':>10} {'updates':>8} {'layers':>7} {'accuracy %':>11} {'loss':>8}"]
    ranks_differ = any(record.energy_above for record in result.records)
    if ranks_differ:
        lines[0] += f" {'above %':>8}"
        lines.insert(0, "above: energy of the adapter above the fleet's smallest rank, mean over layers")
    for record in result.records:
        if record.evaluation is not None:
            lines.append(
                f"{record.index:>6} {record.closed_s:>10.1f} {record.updates:>8} {record.layers:>7.1f} "
                f"{100 * record.evaluation.accuracy:>11.2f} {record.evaluation.loss:>8.4f}"
                + (f" {100 * fmean(record.energy_above.values()):>8.2f}" if ranks_differ else "")
            )
    lines.append(
        f"{result.method}, seed {result.settings.seed}: accuracy {100 * result.final.accuracy:.2f} % after "
        f"{result.ended_s:.1f} virtual s and {result.records[-1].index} rounds; {100 * result.waiting_share:.0f} % of "
        f"the devices' time is waiting; {result.transferred_bytes / 1e6:.1f} MB transferred"
    )
    return "\n".join(lines)
