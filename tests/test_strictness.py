"""The project's pytest settings fail a test for every fault that Python itself only mutters about."""

from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]

# What a test file does → what pytest must say of it.
FAULTS: Final = {
    "warning": ("import warnings\ndef test_it(): warnings.warn('look out')", "UserWarning: look out"),
    "never_awaited": (
        """
        async def nap(): ...
        def test_it(): nap()
        """,
        "coroutine 'nap' was never awaited",
    ),
    "finalizer": (
        """
        class Late:
            def __del__(self): raise ValueError('too late')
        def test_it(): Late()
        """,
        "ValueError: too late",
    ),
    "unclosed": ("def test_it(): open('made', 'w')", "unclosed file"),
    "thread": (
        """
        import threading
        def boom(): raise ValueError('aside')
        def test_it():
            one = threading.Thread(target=boom)
            one.start()
            one.join()
        """,
        "ValueError: aside",
    ),
    "task": (
        """
        import asyncio, gc, pytest
        async def boom(): raise ValueError('unheard')
        @pytest.mark.anyio
        async def test_it():
            task = asyncio.create_task(boom())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            del task
            gc.collect()
        """,
        "ValueError: unheard",
    ),
    "unmarked": ("async def test_it(): ...", "async def functions are not natively supported"),
    "mistyped": ("import pytest\n@pytest.mark.mistyped\ndef test_it(): ...", "'mistyped' not found in `markers`"),
}


def test_a_muttered_fault_fails_its_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("import pytest\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'")
    pytester.makepyfile(**{f"test_{name}": body for name, (body, _) in FAULTS.items()})
    pytester.makepyfile(test_nothing_wrong="def test_it(): ...")
    result = pytester.runpytest_subprocess(
        *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(pytester.path), "-p", "no:cacheprovider"),
        *("--continue-on-collection-errors", str(pytester.path)),
    )
    report = result.stdout.str()
    for name, (_, said) in FAULTS.items():
        assert f"FAILED test_{name}.py" in report or f"ERROR test_{name}.py" in report
        assert said in report
    assert "test_nothing_wrong.py" not in report.partition("short test summary")[2]
