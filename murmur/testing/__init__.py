"""What users test with."""

from murmur.testing.clock import VirtualClock

__all__ = ["VirtualClock"]
