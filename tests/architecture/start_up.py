"""What starting something loads: seen in processes of their own.

Modules are counted rather than seconds: what a start costs follows from what it loads, and the
count is the same on every machine, idle or busy.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOST_MODULES: Final = {"import murmur": 40, "import supervisors": 40, "murmur --help": 110}
"""Beyond those that Python itself loads: some 50 ms of CPU time for the first two, 150 ms for the third."""
HEAVY: Final = frozenset(
    {"aio_pika", "aiokafka", "anthropic", "faststream", "jinja2", "mcp", "nats", "opentelemetry", "pydantic"}
    | {"redis", "rich", "rocksdict", "starlette", "uvicorn", "watchfiles"}
)
"""What nobody pays for who did not ask for it."""


def modules_above_bare(program: str, *, cwd: Path) -> frozenset[str]:
    """Return the modules that a program has loaded when it ends, beyond those of starting Python."""
    return _loaded(program, cwd=cwd) - _loaded("pass", cwd=cwd)


def heavy_modules(program: str, *, cwd: Path) -> Iterator[str]:
    """Name the heavy packages that a program has loaded when it ends."""
    yield from sorted(HEAVY & {name.partition(".")[0] for name in _loaded(program, cwd=cwd)})


def _loaded(program: str, *, cwd: Path) -> frozenset[str]:
    """Return what is loaded when a program ends. Raises AssertionError, when it fails."""
    report = "import atexit, sys; atexit.register(lambda: print(*sys.modules, sep='\\n', file=sys.stderr))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + program], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise AssertionError(f"it ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    return frozenset(done.stderr.split())
