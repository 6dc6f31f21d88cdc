"""Coroutine tests run on the loop that they ask for."""

import asyncio

import pytest
import sniffio

from tests.backends import ASYNCIO, TRIO, UVLOOP, every_backend, on


def loop_module() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@pytest.mark.anyio
async def test_asyncio_is_the_default() -> None:
    assert loop_module() == "asyncio"


@on(ASYNCIO)
async def test_asyncio_can_be_asked_for() -> None:
    assert loop_module() == "asyncio"


@on(UVLOOP)
async def test_uvloop_can_be_asked_for() -> None:
    assert loop_module() == "uvloop"


@on(TRIO)
async def test_trio_can_be_asked_for() -> None:
    assert sniffio.current_async_library() == "trio"


@every_backend
async def test_every_backend_has_a_name(anyio_backend_name: str) -> None:
    assert sniffio.current_async_library() == anyio_backend_name


@pytest.fixture(scope="module")
async def opened_once() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


@pytest.mark.anyio
async def test_a_fixture_of_a_whole_module_may_be_a_coroutine(opened_once: asyncio.AbstractEventLoop) -> None:
    assert opened_once is asyncio.get_running_loop()
