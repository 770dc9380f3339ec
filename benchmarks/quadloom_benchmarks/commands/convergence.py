"""The arguments of `quadloom bench convergence`, and what it does with them."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from quadloom_runtime.errors import QuadloomError

if TYPE_CHECKING:
    from quadloom_benchmarks.convergence.ceiling import Ceiling
    from quadloom_benchmarks.convergence.found import Convergence
    from quadloom_benchmarks.convergence.grid import Choice
    from quadloom_server.simulation.world import RunSettings


def add_convergence_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--family", type=Path, metavar="DIR", help="exported family; the settings' has six layers")
    parser.add_argument("--train", type=Path, metavar="FILE", help="text to deal out to the devices")
    parser.add_argument("--eval", type=Path, metavar="FILE", help="held-out text")
    parser.add_argument("--text-field", default="text", help="field of the text (default %(default)s)")
    parser.add_argument("--label-field", default="label", help="field of the class index (default %(default)s)")
    parser.add_argument("--setting", default="middle-group", metavar="NAME", help="default %(default)s")
    parser.add_argument("--fleet", type=Path, metavar="FILE", help="a simulated fleet instead of a setting")
    parser.add_argument(
        "--methods",
        default="best,fedquad,depth-only,uniform-depth,full-depth,exclude-weak,hetlora,flexlora,random-layers,"
        "importance-layers",
        metavar="LIST",
        help="all are compared with the first (default %(default)s)",
    )
    parser.add_argument("--seeds", default="0,1,2,3,4", metavar="LIST", help="default %(default)s")
    parser.add_argument("--budget-virtual-s", type=float, default=60.0, metavar="S", help="default %(default)s")
    parser.add_argument("--steps", type=int, default=8, help="of a device in a round (default %(default)s)")
    parser.add_argument(
        "--learning-rates",
        default="1e-3,3e-3",
        metavar="LIST",
        help="of LoRA; of several, each method's is chosen on validation text (default %(default)s)",
    )
    parser.add_argument(
        "--rates-from",
        type=Path,
        metavar="FILE",
        help="each method's learning rate as it was chosen in another race, which --json saved; nothing is tried",
    )
    parser.add_argument(
        "--ceiling-learning-rates", metavar="LIST", help="the same for central training (default: --learning-rates)"
    )
    parser.add_argument(
        "--ceiling-from",
        type=Path,
        metavar="FILE",
        help="the ceiling of another race on the same text, which --json saved, instead of central training",
    )
    parser.add_argument(
        "--validation-share", type=float, default=0.1, metavar="X", help="of --train (default %(default)s)"
    )
    parser.add_argument(
        "--tuning-share", type=float, default=0.5, metavar="X", help="of the budget (default %(default)s)"
    )
    parser.add_argument("--head-learning-rate", type=float, default=1e-3, help="default %(default)s")
    parser.add_argument(
        "--evaluations", type=int, default=8, metavar="N", help="of a run, the closer the earlier (default %(default)s)"
    )
    parser.add_argument("--ceiling-epochs", type=int, default=3, help="of central training (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of one run (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default %(default)s)")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("build/bench/convergence"),
        help="runs; continued if there (default %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save what was measured")
    parser.add_argument(
        "--from-json",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="train nothing, show what --json saved, of several races",
    )
    parser.add_argument("--chart", type=Path, metavar="FILE.svg", help="also draw accuracy over virtual time")


def run_convergence(arguments: argparse.Namespace) -> int:
    """Race, or show races again."""
    from quadloom_benchmarks.convergence.chart import draw_chart
    from quadloom_benchmarks.convergence.found import Convergence
    from quadloom_benchmarks.convergence.table import summary, table
    from quadloom_benchmarks.saved import load_found, save_found

    if arguments.from_json is None:
        races = [_race(arguments)]
    else:
        races = [load_found(path, Convergence) for path in arguments.from_json]
    for option in ("json", "chart"):
        if getattr(arguments, option) is not None and len(races) > 1:
            raise QuadloomError(f"--{option} is of one race, not of {len(races)}", remedy="name one file")
    print("\n\n".join([*map(table, races), *([summary(races)] if len(races) > 1 else [])]))
    if arguments.json is not None:
        save_found(races[0], arguments.json)
    if arguments.chart is not None:
        draw_chart(races[0], arguments.chart)
    return 0


def _race(arguments: argparse.Namespace) -> "Convergence":
    from quadloom_benchmarks.accuracy import parse_seeds
    from quadloom_benchmarks.convergence.found import Convergence
    from quadloom_benchmarks.convergence.grid import Grid, parse_rates
    from quadloom_benchmarks.convergence.play import Play
    from quadloom_benchmarks.convergence.race import Race, run_race
    from quadloom_benchmarks.convergence.settings import find_setting
    from quadloom_benchmarks.saved import load_found
    from quadloom_server.simulation.fleet_file import load_simulated_fleet
    from quadloom_server.simulation.opening import Inputs

    for option in ("family", "train", "eval"):
        if getattr(arguments, option) is None:
            raise QuadloomError(f"--{option} is not given", remedy=f"give --{option}, or --from-json")
    own = arguments.fleet is not None
    inputs = Inputs(
        family=arguments.family,
        train=arguments.train,
        held_out=arguments.eval,
        threads=arguments.threads,
        text_field=arguments.text_field,
        label_field=arguments.label_field,
    )
    grid = Grid(
        rates=parse_rates(arguments.learning_rates),
        validation_share=arguments.validation_share,
        budget_share=arguments.tuning_share,
    )
    race = Race(
        name=arguments.fleet.stem if own else arguments.setting,
        plays=Play(
            inputs=inputs,
            fleet=load_simulated_fleet(arguments.fleet) if own else find_setting(arguments.setting),
            settings=_settings(arguments),
            budget_s=arguments.budget_virtual_s,
        ),
        grid=grid,
        ceiling_grid=replace(grid, rates=parse_rates(arguments.ceiling_learning_rates or arguments.learning_rates)),
        ceiling=None
        if arguments.ceiling_from is None
        else _ceiling_of(load_found(arguments.ceiling_from, Convergence)),
        choices={} if arguments.rates_from is None else _choices_of(load_found(arguments.rates_from, Convergence)),
        methods=arguments.methods.split(","),
        seeds=parse_seeds(arguments.seeds),
        evaluations=arguments.evaluations,
        ceiling_epochs=arguments.ceiling_epochs,
        work=arguments.work,
    )
    return run_race(race, jobs=arguments.jobs)


def _choices_of(found: "Convergence") -> "dict[str, Choice]":
    """The learning rates of a race."""
    return {row.method: _made_for(row.choice, found) for row in found.rows}


def _ceiling_of(found: "Convergence") -> "Ceiling":
    """The ceiling of a race."""
    return found.ceiling.model_copy(update={"choice": _made_for(found.ceiling.choice, found)})


def _made_for(choice: "Choice", found: "Convergence") -> "Choice":
    """The choice with the race that it was made for, this one or that from which this one had it."""
    return choice.model_copy(update={"made_for": choice.made_for or found.name})


def _settings(arguments: argparse.Namespace) -> "RunSettings":
    from pydantic import ValidationError

    from quadloom_runtime.contract.wire import TrainingSettings
    from quadloom_server.simulation.world import RunSettings

    try:
        training = TrainingSettings(head_learning_rate=arguments.head_learning_rate, max_steps=arguments.steps)
        return RunSettings(training=training)
    except ValidationError as error:
        first = error.errors()[0]
        raise QuadloomError(
            f"{first['loc'][-1]} is {first['input']}", remedy=f"{first['msg']}: change that option"
        ) from None
