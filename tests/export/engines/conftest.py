"""The formats as a fixture: what a test asks of one, it asks of all that are installed."""

import pytest
from tests.export.engines.formats import FORMATS, Format


@pytest.fixture(params=list(FORMATS))
def format_(request: pytest.FixtureRequest) -> Format:
    """Every format whose engine is installed."""
    found = FORMATS[request.param]
    found.require()
    return found
