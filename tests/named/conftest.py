"""Named actors are tested on the same brokers as everything else."""

import pytest

from tests.named.agents import Brief, Fragile
from tests.runtime.conftest import broker

__all__ = ["broker", "fresh"]


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Forget what earlier tests broke and noted."""
    Fragile.broken.clear()
    Brief.log.clear()
