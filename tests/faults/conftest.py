"""The run without faults that every other run is held against."""

import pytest
from tests.faults.fleet import FleetRun
from tests.faults.run import run_undisturbed


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> FleetRun:
    return run_undisturbed(tmp_path_factory.mktemp("faults"))
