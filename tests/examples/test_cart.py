"""The example of named carts runs alone and adds up."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_carts_add_up_and_are_there_later() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "cart.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout == "ann: 4, then 18; bob: 31\nrefused: there is no yacht\nlater, ann: 22\n"
