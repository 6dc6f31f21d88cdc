"""What users test with: virtual time, a broker whose consumers can be killed, and fleets made of them."""

from murmur.stores.memory import MemoryStore
from murmur.stores.memory_tables import MemoryTables
from murmur.testing.clock import VirtualClock
from murmur.testing.fleet import SimulatedFleet
from murmur.testing.loop import VirtualLoop
from murmur.transports.memory import MemoryTransport
from murmur.transports.memory_broker import MemoryBroker

__all__ = [
    "MemoryBroker",
    "MemoryStore",
    "MemoryTables",
    "MemoryTransport",
    "SimulatedFleet",
    "VirtualClock",
    "VirtualLoop",
]
