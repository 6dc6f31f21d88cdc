"""What users test with: virtual time, as a clock that a test moves or as a whole event loop."""

from murmur.testing.clock import VirtualClock
from murmur.testing.loop import VirtualLoop

__all__ = ["VirtualClock", "VirtualLoop"]
