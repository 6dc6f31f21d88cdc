"""A test that hangs ends, alone, and shows where its coroutines stand."""

import sys

import pytest

HANGS = """
    import asyncio

    import pytest

    from tests import hangs

    hangs.GRACE = 1.0
    pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1)]

    async def waits_for_ever():
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.fixture
    async def teardown():
        yield
        await waits_for_ever()

    async def test_that_hangs():
        await waits_for_ever()

    async def test_that_fails_and_hangs_in_its_teardown(teardown):
        raise AssertionError

    async def test_of_another_process():
        pass
"""


@pytest.mark.soak
def test_a_test_that_hangs_is_ended_and_told(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    pytester.makepyfile(HANGS)

    run = pytester.runpytest_subprocess("-p", "tests.hangs", "-n", "1", timeout=60)

    run.assert_outcomes(passed=1, failed=3)
    run.stdout.fnmatch_lines(
        ["*crashed while running '*::test_that_hangs'", "*crashed while running '*::test_that_fails_and_hangs_*'"],
        consecutive=False,
    )
    run.stderr.fnmatch_lines(["*test_that_hangs is not done after 1 s*", "*in waits_for_ever*"])
