"""A storm's server and folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brokers.fixtures import NatsStarter
from tests.brokers.redis_server import RedisServer
from tests.chaos.storm import Storm


@pytest.fixture
def storm(start_redis: Callable[..., RedisServer], tmp_path: Path) -> Callable[..., Storm]:
    def made(*, tasks: int, seed: int, processes: int = 0) -> Storm:
        # `everysec` lets a write wait behind a slow sync, and a kill takes that with it.
        return Storm(start_redis(aof=True, fsync="always"), tmp_path, tasks=tasks, seed=seed, processes=processes)

    return made


@pytest.fixture
def nats_storm(start_nats: NatsStarter, tmp_path: Path) -> Callable[..., Storm]:
    def made(*, tasks: int, seed: int) -> Storm:
        return Storm(start_nats(), tmp_path, tasks=tasks, seed=seed)

    return made
