"""A picker between real backends and a real Envoy."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from picker_bench import Start


@pytest.fixture
def start(tmp_path: Path) -> Iterator["Start"]:
    """Starts a bench of a mode."""
    from envoy_bench import ENVOY
    from picker_bench import starter  # needs the extra serve

    if ENVOY is None:
        pytest.skip("needs the extra envoy")
    with starter(tmp_path) as start:
        yield start
