"""The supervisor node: a worker whose actors run in supervised processes, one node per host."""

import os
from typing import Any

from murmur.errors import BadSetting
from murmur.worker.worker import Worker


class SupervisorNode(Worker):
    """A `Worker` with `processes=N`, by default one for each core. It alone talks to the broker, and runs no actor."""

    def __init__(self, *, processes: int | None = None, **settings: Any) -> None:
        if processes == 0:
            raise BadSetting(name="processes", value="0", expected="at least 1 for a SupervisorNode; or use Worker")
        super().__init__(processes=_cores() if processes is None else processes, **settings)


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
