"""`quadloom emulate`: a whole fleet on this machine."""

import argparse
from pathlib import Path

from quadloom_runtime.errors import MissingExtraError

SUMMARY = "run a server and a fleet of memory-limited device processes on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--fleet", type=Path, required=True, metavar="FILE", help="fleet file (TOML)")
    parser.add_argument(
        "--family", type=Path, metavar="DIR", help="use this family instead of the one that the fleet file names"
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="server state, caches, logs; default: beside the fleet file"
    )
    parser.add_argument("--port", type=int, default=0, help="port of the server, 0 for a free one")


def run(arguments: argparse.Namespace) -> int:
    """Run the fleet; status 1 if targets were set and none was reached."""
    from quadloom_runtime.emulation.fleet_file import load_fleet

    try:
        from quadloom_runtime.emulation.fleet import emulate
    except ModuleNotFoundError as error:
        raise MissingExtraError(package=str(error.name), extra="emulate") from None
    fleet = load_fleet(arguments.fleet, family=arguments.family)
    result = emulate(fleet, work=arguments.work or arguments.fleet.parent / "emulation", port=arguments.port)
    for target, reached in result.reached.items():
        print(f"target {target}: {'reached' if reached else 'NOT reached'}")
    return 0 if not result.reached or any(result.reached.values()) else 1
