"""The recipes for exactly-once effects do what they promise, against a real database and a real HTTP server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("example", "told"),
    [
        ("exactly_once_database.py", "booked 5 in 2 attempts\n"),
        ("exactly_once_http.py", "1 letter sent in 2 attempts\n"),
    ],
)
def test_a_lost_attempt_leaves_one_effect(example: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / example],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout == told
