"""Where this tier's runs live."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """Where this session's runs live; they share the cached base policy."""
    return tmp_path_factory.mktemp("runs")
