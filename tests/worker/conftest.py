"""Workers are tested on the same brokers as publishers."""

from tests.runtime.conftest import broker, fresh_counts

__all__ = ["broker", "fresh_counts"]
