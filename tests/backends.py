"""The event loops that tests run on; asyncio's own unless a test says otherwise.

    @every_backend
    async def test_...() -> None: ...

runs it on all three, `anyio` mark included. One loop alone: `@on(UVLOOP)`.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import pytest

T = TypeVar("T", bound=Callable[..., Any])  # a test: pytest calls it with whatever it names

ASYNCIO: Final = pytest.param("asyncio", id="asyncio")
UVLOOP: Final = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")
TRIO: Final = pytest.param("trio", id="trio")


def on(*backends: Any) -> Callable[[T], T]:  # ParameterSet is private to pytest
    """Run a coroutine test once on each of these loops."""

    def mark(test: T) -> T:
        pytest.mark.anyio(test)  # marks are kept on the function itself
        pytest.mark.parametrize("anyio_backend", backends)(test)
        return test

    return mark


every_backend: Final = on(ASYNCIO, UVLOOP, TRIO)
