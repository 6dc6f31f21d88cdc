"""What all tests share."""

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow at everything; that is no finding.
settings.register_profile("murmur", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("murmur")

pytest_plugins = ["pytester", "tests.brokers.fixtures", "tests.hangs"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Coroutine tests marked `anyio` run on asyncio, unless `tests.backends` says otherwise.

    Of the widest scope, so that coroutine fixtures may have any.
    """
    return "asyncio"
