"""A simulated fleet: real workers and a real publisher over one memory broker, in virtual time.

Workers are killed, frozen and replaced by a test in one line, leases lapse in no real time,
and the same scenario takes the same course every time: a failing seed can be replayed. What
runs is the production code, on the memory adapters; only processes and sockets are missing.

    async def scenario(fleet: SimulatedFleet) -> None:
        await fleet.start("w1", agents=[Researcher])
        ...

    SimulatedFleet.run(scenario)
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Self, TypeVar

from murmur.events.listeners import Listeners
from murmur.events.memory import MemoryControl
from murmur.runtime.runtime import AgentRuntime
from murmur.store import Store
from murmur.stores.broker_only import BrokerOnlyStore
from murmur.stores.memory import MemoryStore
from murmur.stores.memory_tables import MemoryTables
from murmur.testing.loop import VirtualLoop
from murmur.testing.network import Network, linked
from murmur.transports.memory import MemoryTransport
from murmur.transports.memory_broker import MemoryBroker
from murmur.worker import Worker

T = TypeVar("T")


class SimulatedFleet:
    """One broker, one publisher (`runtime`), and workers by name. Made by `run`."""

    def __init__(
        self, network: Network | None = None, tables: type[MemoryTables] = MemoryTables, *, has_store: bool = True
    ) -> None:
        clock = asyncio.get_running_loop().time
        self._everybody = None if has_store else Listeners()
        self.broker = MemoryBroker(clock=clock)
        self.tables = tables(clock=clock)
        self._network = network
        self._workers: dict[str, Worker] = {}
        self._publishers: dict[str, AgentRuntime] = {}
        self.runtime = self.publisher("publisher")

    @classmethod
    def run(
        cls,
        scenario: Callable[[Self], Coroutine[Any, Any, T]],
        *,
        network: Network | None = None,
        tables: type[MemoryTables] = MemoryTables,
        has_store: bool = True,
    ) -> T:
        """Play a scenario on a loop of its own, and return what it returns. Must not be called from a running loop.

        Args:
            scenario: what happens, given the fleet.
            network: between every node and the broker; None: calls arrive at once.
            tables: the class of the rows, for tests that watch or break them.
            has_store: False: the broker alone, without rows.
        """
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(cls._play(scenario, network, tables, has_store=has_store))

    def publisher(self, name: str) -> AgentRuntime:
        """Return one more publisher, which can be killed by its name."""
        transport, store = self._reach(name)
        publisher = AgentRuntime(broker=transport, store=store, runtime_id=name)
        self._publishers[name] = publisher
        return publisher

    async def start(self, name: str, *, agents: Iterable[Any], lease: float = 30.0, **settings: Any) -> Worker:
        """Start a worker under a name, or its next boot after a kill; `settings` are those of `Worker`."""
        transport, store = self._reach(name)
        worker = Worker(
            agents=agents,
            broker=transport,
            store=store,
            consumer_id=name,
            reclaim_min_idle_ms=round(lease * 1000),
            **settings,
        )
        await worker.start()
        self._workers[name] = worker
        return worker

    def kill(self, name: str) -> None:
        """End a worker, or a publisher, as `kill -9` of its host: nothing it says arrives, and its leases lapse.

        Its coroutines live on unheard, as what user code did just before a death is not undone either.
        """
        self.broker.kill(name)
        self._workers.pop(name, None)
        self._publishers.pop(name, None)

    def stall(self, name: str) -> None:
        """Freeze a worker's host, as a long pause does: it comes back to a world that went on."""
        self.broker.stall(name)

    def resume(self, name: str) -> None:
        """Let a stalled worker go on."""
        self.broker.resume(name)

    async def stop(self, name: str) -> None:
        """Drain a worker and end it in order."""
        await self._workers.pop(name).stop()

    def wipe(self) -> None:
        """Let the broker come back empty: every message, row and key is lost."""
        self.broker.wipe()
        self.tables.wipe()

    def _reach(self, name: str) -> tuple[MemoryTransport, Store]:
        """Return broker and rows as a node of this name reaches them; stalled or killed, it reaches neither."""
        transport = MemoryTransport(self.broker, consumer_id=name)
        store: Store = MemoryStore(self.tables, beside=transport)
        if self._everybody is not None:
            store = BrokerOnlyStore(MemoryControl(self._everybody, prefix=""), clock=self.broker.clock)
        if self._network is None:
            return transport, store
        return linked(transport, self._network, name), linked(store, self._network, name)

    @classmethod
    async def _play(
        cls,
        scenario: Callable[[Self], Coroutine[Any, Any, T]],
        network: Network | None,
        tables: type[MemoryTables],
        *,
        has_store: bool,
    ) -> T:
        fleet = cls(network, tables, has_store=has_store)
        result = await scenario(fleet)
        for name in list(fleet._workers):
            fleet.resume(name)
            await fleet.stop(name)
        for name, publisher in list(fleet._publishers.items()):
            fleet.resume(name)
            await publisher.aclose()
        return result
