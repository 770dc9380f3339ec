"""`quadloom bench`: print the figures that the documentation quotes."""

import argparse
from pathlib import Path
from typing import get_args

from quadloom_benchmarks.commands.convergence import add_convergence_arguments, run_convergence
from quadloom_runtime.contract.manifest import Format
from quadloom_runtime.errors import QuadloomError

SUMMARY = "measure memory, speed and accuracy: training steps against PyTorch eager, quantized members, fleets, server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    kinds = parser.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    memory = kinds.add_parser("memory", help="step peak per member in fresh processes, against PyTorch eager + PEFT")
    step = kinds.add_parser("step", help="CPU time per step, interleaved with PyTorch eager + PEFT")
    frontier = kinds.add_parser("frontier", help="both in one table, also against what a user would pick instead")
    for each in (memory, step, frontier):
        each.add_argument(
            "--family",
            type=Path,
            nargs="+",
            metavar="DIR",
            help="exported families of one model; default: the 12-layer MiniLM shape, random weights",
        )
        each.add_argument(
            "--members",
            default="12,0 12,4 12,8 12,12",
            metavar='"D,Q ..."',
            help="members to measure; D,Q,R where a family has several recompute percents R",
        )
        each.add_argument(
            "--formats",
            default="onnx",
            metavar="LIST",
            help="onnx, executorch (or one of executorch-portable, executorch-xnnpack), ort-training, or all",
        )
        each.add_argument("--layers", type=int, default=12)
        each.add_argument("--batch-size", type=int, default=16)
        each.add_argument("--sequence-length", type=int, default=64)
        each.add_argument("--target-modules", default="query,value", metavar="NAMES", help="or all-linear")
        each.add_argument("--recompute", default="0", metavar="SHARES", help="e.g. 0,0.03,0.4: a family for each")
        each.add_argument("--bits", default="8", metavar="LIST", help="of the stash, e.g. 8,auto: a family for each")
        each.add_argument(
            "--accumulation",
            default="1",
            metavar="LIST",
            help="also make each step in N batches, --batch-size over N each, e.g. 1,2: a family for each",
        )
        each.add_argument("--error-budget", type=float, metavar="SHARE", help="of --bits auto, as in quadloom export")
        each.add_argument(
            "--ort-training-python",
            type=Path,
            metavar="PATH",
            help="has quadloom[lowering,ort-training], for members of that format and onnxruntime-training's artifacts",
        )
        each.add_argument(
            "--work", type=Path, default=Path("build/bench"), help="folder for the benchmark's own family"
        )
    _add_accuracy_arguments(
        kinds.add_parser("accuracy", help="held-out accuracy of members trained alike in one place")
    )
    add_convergence_arguments(
        kinds.add_parser("convergence", help="methods race to the central ceiling on a simulated fleet's virtual clock")
    )
    server = kinds.add_parser("server", help="check-ins, updates and blob bytes per second, and the server's memory")
    server.add_argument("--devices", default="10 100 1000", metavar='"N ..."', help="sizes of the fleets")
    server.add_argument("--work", type=Path, default=Path("build/bench"), help="folder for family and state")
    aggregation = kinds.add_parser("aggregation", help="what each way of aggregating mixed ranks costs the server")
    aggregation.add_argument("--devices", default="10 100 1000", metavar='"N ..."', help="updates of a round")
    memory.add_argument("--steps", type=int, default=3, help="steps per process; the largest peak counts")
    for each in (step, frontier):
        each.add_argument("--rounds", type=int, default=15, help="interleaved rounds; medians are printed")
    frontier.add_argument("--json", type=Path, metavar="FILE", help="also save what was measured")
    frontier.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing, show what --json saved")
    frontier.add_argument("--chart", type=Path, metavar="FILE.svg", help="also draw memory against step time")


def _add_accuracy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--family", type=Path, nargs="+", metavar="DIR", help="exported families of one model")
    parser.add_argument("--train", type=Path, metavar="FILE", help="text to train on: JSONL, CSV or Parquet")
    parser.add_argument("--eval", type=Path, metavar="FILE", help="held-out text")
    parser.add_argument("--text-field", default="text", help="field of the text (default %(default)s)")
    parser.add_argument("--label-field", default="label", help="field of the class index (default %(default)s)")
    parser.add_argument(
        "--members",
        metavar='"D,Q ..."',
        help="of each family, all compared with the first; default: the deepest with q = 0 and q = d, as far as held",
    )
    parser.add_argument("--format", choices=get_args(Format), default="onnx")
    parser.add_argument("--seeds", default="0,1,2", metavar="LIST", help="each an order of the data and a LoRA start")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=4e-3, help="of LoRA, falling to 0 (default %(default)s)")
    parser.add_argument("--head-learning-rate", type=float, default=2e-3, help="the same (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of one training (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (default %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N examples of each file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also save what was measured")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="train nothing, show what --json saved")


def run(arguments: argparse.Namespace) -> int:
    """Dispatch."""
    if arguments.benchmark == "server":
        from quadloom_benchmarks.server import parse_fleet_sizes, report_server

        report_server(parse_fleet_sizes(arguments.devices), work=arguments.work)
        return 0
    if arguments.benchmark == "aggregation":
        from quadloom_benchmarks.aggregation import report_aggregation
        from quadloom_benchmarks.server import parse_fleet_sizes

        report_aggregation(parse_fleet_sizes(arguments.devices))
        return 0
    if arguments.benchmark == "frontier":
        return _run_frontier(arguments)
    if arguments.benchmark == "accuracy":
        return _run_accuracy(arguments)
    if arguments.benchmark == "convergence":
        return run_convergence(arguments)
    from quadloom_benchmarks.series import open_series

    compared = open_series(arguments)
    if arguments.benchmark == "memory":
        from quadloom_benchmarks.memory import report_memory

        report_memory(compared, steps=arguments.steps)
    else:
        from quadloom_benchmarks.step import report_step_times

        report_step_times(compared, rounds=arguments.rounds)
    return 0


def _run_frontier(arguments: argparse.Namespace) -> int:
    from quadloom_benchmarks.chart import draw_chart
    from quadloom_benchmarks.frontier import Frontier, measure_frontier, table
    from quadloom_benchmarks.saved import load_found, save_found
    from quadloom_benchmarks.series import open_series

    if arguments.from_json is not None:
        found = load_found(arguments.from_json, Frontier)
    else:
        found = measure_frontier(
            open_series(arguments),
            rounds=arguments.rounds,
            work=arguments.work,
            ort_training_python=arguments.ort_training_python,
        )
    print(table(found))
    if arguments.json is not None:
        save_found(found, arguments.json)
    if arguments.chart is not None:
        draw_chart(found, arguments.chart)
    return 0


def _run_accuracy(arguments: argparse.Namespace) -> int:
    from quadloom_benchmarks.accuracy import Accuracy, make_settings, measure_accuracy, parse_seeds, table
    from quadloom_benchmarks.central_training import CentralTraining
    from quadloom_benchmarks.saved import load_found, save_found

    if arguments.from_json is not None:
        found = load_found(arguments.from_json, Accuracy)
    else:
        for option in ("family", "train", "eval"):
            if getattr(arguments, option) is None:
                raise QuadloomError(f"--{option} is not given", remedy=f"give --{option}, or --from-json")
        settings = make_settings(
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            head_learning_rate=arguments.head_learning_rate,
        )
        training = CentralTraining(
            train=arguments.train,
            held_out=arguments.eval,
            settings=settings,
            threads=arguments.threads,
            limit=arguments.limit,
            text_field=arguments.text_field,
            label_field=arguments.label_field,
        )
        found = measure_accuracy(
            training,
            arguments.family,
            members=arguments.members,
            member_format=arguments.format,
            seeds=parse_seeds(arguments.seeds),
            jobs=arguments.jobs,
        )
    print(table(found))
    if arguments.json is not None:
        save_found(found, arguments.json)
    return 0
