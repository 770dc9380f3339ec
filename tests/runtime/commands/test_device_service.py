"""The systemd unit and the guide for boards: what they tell people to run is what the programs understand."""

import argparse
import configparser
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from quadloom_runtime.units import parse_bytes

DOCS = Path(__file__).parents[3] / "docs"
UNIT = DOCS / "quadloom-device.service"
GUIDE = (DOCS / "arm64.md").read_text()
PROGRAM = "/opt/quadloom/bin/quadloom"
LARGEST_EXPOSURE = "20"
"""In tenths, as systemd-analyze counts: 10.0 is a service without any sandbox."""


FIRST_OFFLINE_VERSION = 250


def systemd_version() -> int:
    """Of systemd-analyze; 0 where there is none."""
    if shutil.which("systemd-analyze") is None:
        return 0
    printed = subprocess.run(["systemd-analyze", "--version"], capture_output=True, text=True, check=False).stdout
    return int(re.search(r"systemd (\d+)", printed)[1])


def blocks(language: str) -> list[str]:
    """The guide's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def settings() -> dict[str, str]:
    """What the guide puts into device.env."""
    return dict(line.split("=", 1) for block in blocks("ini") for line in block.splitlines())


def started_by_the_unit() -> str:
    """ExecStart, with the names of the settings in it."""
    found = re.search("^ExecStart=(.*)$", UNIT.read_text().replace("\\\n", ""), re.MULTILINE)
    assert found is not None
    return found[1]


def unit_arguments() -> argparse.Namespace:
    """What the device gets from the unit and the guide's settings."""
    values = settings()
    line = re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]], started_by_the_unit())
    return parsed(shlex.split(line.removeprefix(PROGRAM)))


def quadloom_commands() -> Iterator[list[str]]:
    """The words behind `quadloom` of every command line in the guide."""
    for block in blocks("sh"):
        for line in block.replace("\\\n", "").splitlines():
            program, *words = shlex.split(re.sub(r"^sudo (-u \w+ )?", "", line))
            if program in ("quadloom", PROGRAM):
                yield words


def parsed(words: list[str]) -> argparse.Namespace:
    """Arguments as the subcommand understands them; it exits on what it does not."""
    (entry,) = entry_points(group="quadloom.commands", name=words[0])
    parser = argparse.ArgumentParser(prog=f"quadloom {words[0]}")
    import_module(entry.value).add_arguments(parser)
    return parser.parse_args(words[1:])


def test_the_unit_starts_a_device_with_options_that_there_are() -> None:
    arguments = unit_arguments()
    assert arguments.server == "https://fleet.example"
    assert arguments.threads == 2
    assert parse_bytes(arguments.memory_limit) == 160_000_000


def test_the_unit_uses_every_setting_of_the_guide() -> None:
    assert set(re.findall(r"\$\{(\w+)\}", started_by_the_unit())) == settings().keys()


def test_the_unit_writes_only_into_its_state_folder_and_reads_what_the_guide_installs() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.read(UNIT)
    service = unit["Service"]
    assert service["ProtectSystem"] == "strict"
    assert service["EnvironmentFile"] == "/etc/quadloom/device.env"
    arguments = unit_arguments()
    assert arguments.cache.is_relative_to(Path("/var/lib") / service["StateDirectory"])
    installed = {line.split()[-1] for block in blocks("sh") for line in block.splitlines() if "sudo install" in line}
    assert {str(arguments.enrolment_token_file), str(arguments.family_key), str(arguments.data)} <= installed


def test_the_guides_quadloom_commands_are_ones_that_there_are() -> None:
    understood = [words[0] for words in quadloom_commands() if words[-1] != "--help" and parsed(words)]
    assert understood == ["server", "device", "server"]


@pytest.mark.parametrize("block", blocks("sh"))
def test_the_guides_commands_are_well_formed_shell(block: str) -> None:
    done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(systemd_version() < FIRST_OFFLINE_VERSION, reason="systemd-analyze 250 or newer is not here")
def test_systemd_takes_the_unit_and_finds_it_well_locked_up(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(PROGRAM, shutil.which("true")))  # it must exist here
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    check = ["systemd-analyze", "security", "--offline=true", f"--threshold={LARGEST_EXPOSURE}", unit]
    judged = subprocess.run(check, capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr
