"""The example of supervised tasks runs alone and tells what it promises."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(30)
def test_a_shop_sells_on_though_three_things_go_wrong() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "supervised_tasks.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stderr == ""
    said = done.stdout
    assert "shop/till/sales crashed: RuntimeError: a customer fainted" in said
    assert "ConnectionError: the bank has hung up" in said
    assert "shop/till/bank starts again: connection" in said
    assert "shop/radio crashed: RuntimeError: the radio fell off the shelf" in said
    assert "├─ stock  up\n├─ till  up\n" in said
    assert said.endswith("10 sold, though three things went wrong\n")
