"""What all tests share."""

import pytest

pytest_plugins = ["pytester", "tests.brokers.fixtures"]


@pytest.fixture
def anyio_backend() -> str:
    """Coroutine tests marked `anyio` run on asyncio; a module for which trio matters overrides this."""
    return "asyncio"
