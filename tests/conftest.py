"""What all tests share."""

import pytest

pytest_plugins = ["pytester", "tests.brokers.fixtures"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Coroutine tests marked `anyio` run on asyncio, unless `tests.backends` says otherwise.

    Of the widest scope, so that coroutine fixtures may have any.
    """
    return "asyncio"
