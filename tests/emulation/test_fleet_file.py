"""Reading a fleet file, and the devices that it names."""

from pathlib import Path

import pytest

from quadloom_runtime.emulation.fleet import serve_arguments
from quadloom_runtime.emulation.fleet_file import FleetFile, fleet_devices, load_fleet, needed_updates
from quadloom_runtime.emulation.profiles import profile
from quadloom_runtime.errors import QuadloomError

TASK = '[task]\nfamily = "family"\n'
DATA = '[data]\ntrain = "train.jsonl"\neval = "../eval.jsonl"\n'
DEVICE = '[[device]]\nprofile = "phone-mid"\n'


def written(folder: Path, content: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(content, encoding="utf-8")
    return path


def fleet_of(folder: Path, devices: str) -> FleetFile:
    return load_fleet(written(folder, TASK + DATA + devices))


def test_paths_are_relative_to_the_fleet_file_wherever_the_command_runs(tmp_path: Path) -> None:
    fleet = fleet_of(tmp_path, DEVICE)
    assert fleet.task.family == tmp_path / "family"
    assert fleet.data.train == tmp_path / "train.jsonl"
    assert fleet.data.eval.resolve() == tmp_path.parent / "eval.jsonl"


def test_a_family_given_besides_takes_the_place_of_the_files(tmp_path: Path) -> None:
    path = written(tmp_path, TASK + DATA + DEVICE)
    assert load_fleet(path, family=Path("other")).task.family == Path("other")


def test_absolute_paths_stay_as_they_are(tmp_path: Path) -> None:
    fleet = load_fleet(written(tmp_path, '[task]\nfamily = "/models/family"\n' + DATA + DEVICE))
    assert fleet.task.family == Path("/models/family")


def test_what_a_section_leaves_out_comes_from_its_profile(tmp_path: Path) -> None:
    (device,) = fleet_devices(fleet_of(tmp_path, DEVICE))
    assert (device.name, device.profile) == ("phone-mid-1", "phone-mid")
    assert device.memory_limit_bytes == profile("phone-mid").memory_limit_bytes
    assert "--slowdown" not in device.options
    assert "--link-mbps" not in device.options


def test_what_a_section_gives_reaches_every_one_of_its_devices(tmp_path: Path) -> None:
    section = (
        DEVICE + 'count = 2\nname = "kiosk"\nmemory_limit = "1.5MiB"\nthreads = 3\nslowdown = 2.5\nlink_mbps = 8\n'
        'formats = ["executorch", "onnx"]\nrank = 4\n'
    )
    first, second = fleet_devices(fleet_of(tmp_path, section))
    assert (first.name, second.name) == ("kiosk-1", "kiosk-2")
    assert first.options == second.options
    options = dict(zip(first.options[::2], first.options[1::2], strict=True))
    assert options.pop("--profile") == "phone-mid"
    assert options.pop("--formats") == "executorch,onnx"
    assert {name: float(value) for name, value in options.items()} == {
        "--memory-limit": 1.5 * 2**20,
        "--threads": 3,
        "--slowdown": 2.5,
        "--link-mbps": 8,
        "--rank": 4,
    }


def test_the_device_command_understands_the_options_of_every_device(tmp_path: Path) -> None:
    import argparse

    from quadloom_runtime.commands import device as command

    section = DEVICE + 'memory_limit = "90MB"\nthreads = 2\nslowdown = 1.5\nlink_mbps = 20\nrank = 4\n'
    (device,) = fleet_devices(fleet_of(tmp_path, section))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parsed = parser.parse_args(["--server", "http://localhost", "--data", "data.jsonl", *device.options])
    assert (parsed.profile, parsed.memory_limit, parsed.threads) == ("phone-mid", "90000000", 2)
    assert (parsed.slowdown, parsed.link_mbps, parsed.rank) == (1.5, 20.0, 4)


def test_the_serve_command_understands_the_task(tmp_path: Path) -> None:
    import argparse

    from quadloom_server.commands import serve as command

    task = TASK + 'class_balance = true\nmax_steps = 4\nplanner = "deadline-ranks"\nschedule = "linear"\n'
    task += "server_optimizer = 'fedavg'\nserver_learning_rate = 0.4\nserver_decay_rounds = 20\nmean_share = 0.33\n"
    fleet = load_fleet(written(tmp_path, task + DATA + DEVICE))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    parsed = parser.parse_args(serve_arguments(fleet, tmp_path / "work", devices=3, port=8765)[1:])
    assert (parsed.class_balance, parsed.max_steps, parsed.planner) == (True, 4, "deadline-ranks")
    assert parsed.server_optimizer == "fedavg"
    assert (parsed.server_learning_rate, parsed.server_decay_rounds, parsed.mean_share) == (0.4, 20, 0.33)
    assert (parsed.schedule, parsed.min_devices, parsed.eval_data) == ("linear", 3, fleet.data.eval)
    plain = serve_arguments(load_fleet(written(tmp_path, TASK + DATA + DEVICE)), tmp_path, devices=1, port=0)
    assert "--class-balance" not in plain


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (TASK + "epoch = 3\n" + DATA + DEVICE, r"task\.epoch\b"),
        (TASK + DATA + DEVICE + 'memory = "90MB"\n', r"device\.0\.memory\b"),
        (TASK + DATA + DEVICE + "[network]\nspeed = 1\n", r"\bnetwork\b"),
        (TASK + '[data]\ntrain = "t.jsonl"\n' + DEVICE, r"data\.eval\b"),
        (TASK + DATA, r"\bdevice\b"),
        (TASK + DATA + 'split = "random"\n' + DEVICE, r"data\.split.*'random'"),
        (TASK + DATA + 'split = "dirichlet"\nalpha = 0\n' + DEVICE, r"data\.alpha.*\b0\b"),
        (TASK + "target_accuracy = 80\n" + DATA + DEVICE, r"task\.target_accuracy.*\b80\b"),
        (TASK + "target_loss = 0\n" + DATA + DEVICE, r"task\.target_loss.*\b0\b"),
        (TASK + DATA + DEVICE + "count = 0\n", r"device\.0\.count.*\b0\b"),
        (TASK + DATA + DEVICE + "slowdown = 0.5\n", r"device\.0\.slowdown.*0\.5"),
        (TASK + DATA + DEVICE + "rank = 0\n", r"device\.0\.rank.*\b0\b"),
        (TASK + "largest_staleness = -1\n" + DATA + DEVICE, r"task\.largest_staleness.*-1\b"),
        (TASK + DATA + DEVICE + 'name = "../up"\n', r"device\.0\.name.*'\.\./up'"),
        ("[task\n", "cannot read the fleet file"),
    ],
)
def test_a_wrong_entry_is_refused_by_name_and_value(tmp_path: Path, content: str, named: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(QuadloomError, match=named) as refusal:
        load_fleet(path)
    assert str(path) in refusal.value.cause


def test_a_missing_fleet_file_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(QuadloomError, match=r"nowhere\.toml"):
        load_fleet(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("devices", "named"),
    [
        ('[[device]]\nprofile = "mainframe"\n', "'mainframe'"),
        (DEVICE + 'memory_limit = "plenty"\n', "'plenty'"),
        (DEVICE + DEVICE, "'phone-mid-1'"),
    ],
)
def test_devices_that_cannot_be_made_are_refused_by_the_value(tmp_path: Path, devices: str, named: str) -> None:
    fleet = fleet_of(tmp_path, devices)
    with pytest.raises(QuadloomError, match=named):
        fleet_devices(fleet)


def test_a_round_needs_every_device_unless_the_file_says_fewer(tmp_path: Path) -> None:
    devices = DEVICE + "count = 3\n"
    assert needed_updates(fleet_of(tmp_path, devices), 3) == 3
    fewer = load_fleet(written(tmp_path, TASK + "min_updates = 2\n" + DATA + devices))
    assert needed_updates(fewer, 3) == 2


def test_a_round_that_needs_more_updates_than_there_are_devices_is_refused_with_both_numbers(tmp_path: Path) -> None:
    fleet = load_fleet(written(tmp_path, TASK + "min_updates = 4\n" + DATA + DEVICE))
    with pytest.raises(QuadloomError, match=r"\b4 updates.*\b1 devices"):
        needed_updates(fleet, 1)
