"""The yardstick measures what it says: every task comes back, each process's CPU time is counted."""

import pytest

from benchmarks.clocks import cpu_seconds
from benchmarks.session import session


@pytest.mark.parametrize(
    "broker",
    ["redis", *(pytest.param(name, marks=pytest.mark.soak) for name in ("nats", "kafka", "rabbitmq"))],
)
def test_the_raw_loop_brings_every_result_back_and_leaves_nothing_behind(broker: str) -> None:
    with session("raw", "echo", warm_up=1, broker=broker) as running:
        before = running.cpu()
        assert running.publisher.ask("fan_out", 500)["seconds"] > 0  # it checks every output itself
        used = running.cpu().since(before)
        assert min(used.publisher, used.worker, used.server) > 0
        assert len(running.publisher.ask("one_by_one", 3)["seconds"]) == 3
    with pytest.raises(OSError, match=r"."):
        cpu_seconds(running.server.pid)
