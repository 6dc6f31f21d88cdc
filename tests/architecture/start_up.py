"""What starting something costs, and what it loads: measured in processes of their own.

CPU time rather than wall time, and the least of several runs: a busy machine adds to both, and
never takes anything away.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MOST_CPU: Final = 0.150  # seconds above the bare interpreter
MOST_CPU_OF_SUPERVISORS: Final = 0.090
_RUNS: Final = 5
HEAVY: Final = frozenset(
    {"aio_pika", "aiokafka", "anthropic", "faststream", "jinja2", "mcp", "nats", "opentelemetry", "pydantic"}
    | {"redis", "rich", "rocksdict", "starlette", "uvicorn", "watchfiles"}
)
"""What nobody pays for who did not ask for it."""


def cpu_above_bare(program: str, *, cwd: Path) -> float:
    """Return the CPU seconds, user and system, that a program takes beyond starting Python."""
    _cpu(program, cwd=cwd)  # writes the byte code
    # In turns, so that a slow minute of the machine meets both alike.
    pairs = [(_cpu("pass", cwd=cwd), _cpu(program, cwd=cwd)) for _ in range(_RUNS)]
    return min(whole for _, whole in pairs) - min(bare for bare, _ in pairs)


def heavy_modules(program: str, *, cwd: Path) -> Iterator[str]:
    """Name the heavy packages that a program has loaded when it ends."""
    report = "import atexit, sys; atexit.register(lambda: print(*sys.modules, sep='\\n', file=sys.stderr))\n"
    done = subprocess.run(
        [sys.executable, "-c", report + program], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise AssertionError(f"it ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    yield from sorted(HEAVY & {name.partition(".")[0] for name in done.stderr.split()})


def _cpu(program: str, *, cwd: Path) -> float:
    """Return the CPU seconds of one run. Raises AssertionError, when it fails."""
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    with process.stderr as errors:
        said = errors.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AssertionError(f"it ended with {process.returncode}:\n{said.decode(errors='replace')[-2_000:]}")
    return usage.ru_utime + usage.ru_stime
