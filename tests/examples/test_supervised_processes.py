"""The example of supervised processes runs alone and tells what it promises."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_mail_is_read_though_one_reader_is_killed_and_one_hangs() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "supervised_processes.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stderr == ""
    assert "reader-1" in done.stdout
    assert "killed by signal 9" in done.stdout
    assert "hung at 'letter 5'" in done.stdout
    assert "in read_mail" in done.stdout
    assert done.stdout.endswith("11 letters read, 22 addresses found; put aside: letter 5\n")
