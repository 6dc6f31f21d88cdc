"""The example of killed processes runs alone, kills some, and has every answer."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_answer_comes_though_processes_are_killed() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "killed_processes.py", "--seconds", "3"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill -9" in done.stdout
    told = re.search(r"60 of 60 answers from (\d+) processes; (\d+) tasks were", done.stdout)
    assert told is not None, done.stdout
    assert int(told[1]) >= 2
