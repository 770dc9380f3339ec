"""`quadloom bench`: print the figures that the documentation quotes."""

import argparse
from pathlib import Path

SUMMARY = "measure memory and speed: training steps against PyTorch eager, and the server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    kinds = parser.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    memory = kinds.add_parser("memory", help="step peak per member in fresh processes, against PyTorch eager + PEFT")
    step = kinds.add_parser("step", help="CPU time per step, interleaved with PyTorch eager + PEFT")
    for each in (memory, step):
        each.add_argument(
            "--family", type=Path, help="an exported family; default: the 12-layer MiniLM shape, random weights"
        )
        each.add_argument("--members", default="12,0 12,4 12,8 12,12", metavar='"D,Q ..."', help="members to measure")
        each.add_argument(
            "--formats", default="onnx", metavar="LIST", help="onnx, executorch, ort-training, several of them, or all"
        )
        each.add_argument("--layers", type=int, default=12)
        each.add_argument("--batch-size", type=int, default=16)
        each.add_argument("--sequence-length", type=int, default=64)
        each.add_argument(
            "--work", type=Path, default=Path("build/bench"), help="folder for the benchmark's own family"
        )
    server = kinds.add_parser("server", help="check-ins, updates and blob bytes per second, and the server's memory")
    server.add_argument("--devices", default="10 100 1000", metavar='"N ..."', help="sizes of the fleets")
    server.add_argument("--work", type=Path, default=Path("build/bench"), help="folder for family and state")
    memory.add_argument("--steps", type=int, default=3, help="steps per process; the largest peak counts")
    step.add_argument("--rounds", type=int, default=15, help="interleaved rounds; medians are printed")


def run(arguments: argparse.Namespace) -> int:
    """Dispatch."""
    if arguments.benchmark == "server":
        from quadloom_benchmarks.server import parse_fleet_sizes, report_server

        report_server(parse_fleet_sizes(arguments.devices), work=arguments.work)
        return 0
    from quadloom_benchmarks.series import open_series

    compared = open_series(arguments)
    if arguments.benchmark == "memory":
        from quadloom_benchmarks.memory import report_memory

        report_memory(compared, steps=arguments.steps)
    else:
        from quadloom_benchmarks.step import report_step_times

        report_step_times(compared, rounds=arguments.rounds)
    return 0
