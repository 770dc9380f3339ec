"""The `quadloom` command: finds subcommands through entry points and imports only the one that runs."""

import argparse
import sys
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol

from quadloom_runtime import __version__
from quadloom_runtime.errors import QuadloomError


class Command(Protocol):
    """A module behind a subcommand; importing it must be cheap."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the subcommand's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit status."""


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand. A `QuadloomError` is printed without a traceback and ends with status 1."""
    words = sys.argv[1:] if argv is None else argv
    modules = {entry.name: entry.value for entry in entry_points(group="quadloom.commands")}
    parser = argparse.ArgumentParser(prog="quadloom", description="On-device LoRA training.")
    parser.add_argument("--version", action="version", version=f"quadloom {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = [word for word in words[:1] if word in modules] or sorted(modules)
    commands: dict[str, Command] = {}
    for name in wanted:
        commands[name] = command = import_module(modules[name])
        command.add_arguments(subparsers.add_parser(name, help=command.SUMMARY, description=command.SUMMARY))
    arguments = parser.parse_args(words)
    try:
        return commands[arguments.command].run(arguments)
    except QuadloomError as error:
        print(f"quadloom {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nquadloom {arguments.command}: interrupted", file=sys.stderr)
        return 130
