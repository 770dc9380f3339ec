"""Full disks, damaged files and blocked folders under a real fleet: said clearly, and nothing lost once mended."""

import resource
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.faults.fleet import Fleet, FleetRun
from tests.faults.schedule import UNDISTURBED, Schedule
from tests.faults.verdict import check_run

SMALL_DISK_BYTES = 40_000
DIES_BEFORE_FOLDING = Schedule(None, {"server": ("round-closing-committed:1",)}, ())


def set_disk_limit(fleet: Fleet, size_bytes: int) -> None:
    """Let the server write no file beyond this size, as on a disk that has filled up."""
    assert fleet.server.process is not None
    resource.prlimit(fleet.server.process.pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


def finish(fleet: Fleet, undisturbed: FleetRun) -> None:
    fleet.until_devices_are_done()
    assert fleet.server.stop() == 0
    check_run(fleet.outcome(), undisturbed=undisturbed)


def ended_with_error(fleet: Fleet) -> str:
    """What a server says that ends by itself."""
    assert fleet.server.end() == 1, fleet.server.said()
    said = fleet.server.said()
    assert "remedy:" in said
    assert "Traceback" not in said.rpartition("continuing with")[2]
    return said


def test_a_disk_that_fills_up_and_is_freed_again_only_costs_time(undisturbed: FleetRun, tmp_path: Path) -> None:
    with Fleet(UNDISTURBED, family=undisturbed.family, work=tmp_path / "run") as fleet:
        fleet.server.start()
        fleet.let_devices_in()
        fleet.start_devices()
        fleet.until(lambda: bool(fleet.events_of("deep", "assigned")))
        set_disk_limit(fleet, SMALL_DISK_BYTES)
        fleet.until(lambda: any("507" in each["cause"] for each in fleet.events_of("deep", "retrying")))
        set_disk_limit(fleet, resource.RLIM_INFINITY)
        finish(fleet, undisturbed)


def test_an_adapter_that_cannot_be_written_ends_the_server_and_a_restart_writes_it(
    undisturbed: FleetRun, tmp_path: Path
) -> None:
    with Fleet(DIES_BEFORE_FOLDING, family=undisturbed.family, work=tmp_path / "run") as fleet:
        fleet.server.start()
        fleet.let_devices_in()
        blocked = fleet.state / "adapters/round-0001"
        blocked.write_bytes(b"")
        fleet.start_devices()
        with pytest.raises(AssertionError, match="the server ended with status 1"):
            fleet.until_devices_are_done()
        said = ended_with_error(fleet)
        assert f"{blocked} cannot be used" in said
        blocked.unlink()
        fleet.server.start()
        finish(fleet, undisturbed)


def test_an_unreadable_update_ends_the_server_with_its_name_and_is_never_left_out(
    undisturbed: FleetRun, tmp_path: Path
) -> None:
    with Fleet(DIES_BEFORE_FOLDING, family=undisturbed.family, work=tmp_path / "run") as fleet:
        fleet.server.start()
        fleet.let_devices_in()
        fleet.start_devices()
        fleet.until(lambda: fleet.server.died_at != [])
        fleet.server.kill()
        updates = [each for each in (fleet.state / "blobs").glob("??/*") if is_update(each)]
        assert len(updates) == 2
        kept = {each: each.read_bytes() for each in updates}
        for each in updates:
            each.write_bytes(b"damaged")
        fleet.server.start()
        said = ended_with_error(fleet)
        assert any(f"the stored file {each} does not have the content that was stored" in said for each in updates)
        for each, content in kept.items():
            each.write_bytes(content)
        fleet.server.start()
        finish(fleet, undisturbed)


def is_update(path: Path) -> bool:
    return b'"report"' in path.read_bytes()[:4000]


def damage_pages(database: Path) -> None:
    """Overwrite everything behind the header of the file, as a broken disk does."""
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (database.stat().st_size - 4096))


def copied_state(run: FleetRun, fleet: Fleet) -> Path:
    shutil.copytree(run.state, fleet.state, symlinks=True)
    return fleet.state / "server.db"


def test_a_database_with_damaged_pages_is_not_served(undisturbed: FleetRun, tmp_path: Path) -> None:
    with Fleet(UNDISTURBED, family=undisturbed.family, work=tmp_path / "run") as fleet:
        database = copied_state(undisturbed, fleet)
        damage_pages(database)
        fleet.server.start()
        said = ended_with_error(fleet)
        assert f"the database {database} is damaged" in said
        assert "restore the state folder from a backup" in said


def test_a_database_that_is_damaged_while_it_is_served_ends_the_server(undisturbed: FleetRun, tmp_path: Path) -> None:
    with Fleet(UNDISTURBED, family=undisturbed.family, work=tmp_path / "run") as fleet:
        database = copied_state(undisturbed, fleet)
        fleet.server.start()
        fleet.until(lambda: fleet.port() is not None)
        damage_pages(database)
        give_up_at_s = time.monotonic() + 30
        with ThreadPoolExecutor(8) as pool:  # so many that the server opens connections that have cached nothing
            while fleet.server.exit_code() is None and time.monotonic() < give_up_at_s:
                codes = {code for code in pool.map(list_devices, [fleet] * 8) if code is not None}
                assert codes <= {"database-damaged"}
        said = ended_with_error(fleet)
        assert f"the database {database} is damaged" in said


def list_devices(fleet: Fleet) -> str | None:
    """The code of the refusal, None without one or without a server."""
    token = (fleet.state / "admin-token").read_text().strip()
    try:
        answer = httpx.get(
            f"http://127.0.0.1:{fleet.port()}/v1/admin/devices", headers={"Authorization": f"Bearer {token}"}
        )
    except httpx.TransportError:
        return None
    return None if answer.is_success else str(answer.json()["code"])
