"""The supervision tree of one worker: what runs beside the actors, in the order it depends on one another.

    worker (rest_for_one)
    ├─ losses       deliveries that are no longer ours: their attempts are ended
    ├─ cancels      tasks that were cancelled: likewise
    ├─ leases       renews what the store does not renew by itself
    ├─ escalations  an actor's error that its class escalates restarts all that follows
    ├─ reclaimer    gives tasks of dead workers, and delayed ones, back to the mailboxes
    ├─ consumer     takes tasks, never more than there are free slots
    └─ announcer    says in the store who is here and what is served; last up, first down

A broker that is away is a state: its child waits and tries again. Only a bug ends a child,
and too many of those end the worker.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import attrs
from loguru import logger

from murmur import presence
from murmur.errors import BrokerUnreachable, OutcomeUnknown
from murmur.idempotency import IdempotencyHook
from murmur.patience import patiently
from murmur.policy import Redelivery
from murmur.presence import Presence
from murmur.publisher import Publisher
from murmur.registry import AgentEntry
from murmur.store import Claim
from murmur.task_queue import Ending, Release, TaskQueue, Work
from murmur.transport import Delivery
from murmur.worker.crew import Crew
from murmur.worker.endings import Endings
from murmur.worker.guard import Idempotency
from murmur.worker.hooks import Hooks
from murmur.worker.host import Host
from murmur.worker.inside import Setting
from murmur.worker.pool import Pool
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots
from supervisors import ChildContext, ChildSpec, Intensity, Strategy, SupervisorSpec, open_supervisor

_WAIT: Final = 5.0  # seconds one read of the mailboxes waits
_SWEEP_AT_LEAST: Final = 10.0  # seconds between two sweeps at most, however long the lease
_SETTLE_WITHIN: Final = 5.0


class Escalated(Exception):
    """An actor's error was escalated: everything after the escalations begins anew."""


class Tree:
    """The children of one worker and what they share."""

    def __init__(
        self,
        queue: TaskQueue,
        publisher: Publisher,
        *,
        worker_id: str,
        concurrency: int,
        prefetch: int,
        lease: float | None,
        hooks: Hooks,
        max_deliveries: int | None,
        idempotency: IdempotencyHook | None = None,
        processes: int = 0,
        shown: str = "",
    ) -> None:
        self.queue = queue
        self.publisher = publisher
        self._worker_id = worker_id
        # At most half the slots in one read: while one half is fetched or written, the other works.
        self._read_at_most = min(prefetch, max(1, concurrency // 2))
        self._lease = lease
        self._max_deliveries = max_deliveries
        self._room = asyncio.Event()
        self._sweep_soon = asyncio.Event()
        self._hurry = asyncio.Event()
        self._began = time.time()
        self._receiving: asyncio.Task[Any] | None = None
        self._settler = Settler(queue, on_stale=_too_late, on_delayed=self._sweep_soon.set)
        self.crew = Crew(
            queue,
            Slots(concurrency, on_free=self._room.set),
            self._settler,
            Endings(worker_id),
            hooks,
            publisher,
            Idempotency(idempotency, queue.topics.namespace, lease) if idempotency is not None else None,
        )

        self._concurrency = concurrency
        self._processes = processes
        self._shown = shown
        self._hooks = hooks
        self._pool: Pool | None = None

    def add(self, entry: AgentEntry) -> None:
        """Serve an agent."""
        assert entry.actor is not None
        redelivery: Redelivery = entry.actor.redelivery
        if self._max_deliveries is not None:
            redelivery = attrs.evolve(redelivery, max_deliveries=self._max_deliveries)
        self.crew.hosts[entry.name] = Host(entry, entry.actor, redelivery, self._held)
        self._changed()

    def hurry(self) -> None:
        """End the drain now."""
        self._hurry.set()

    async def announced(self) -> None:
        """Tell the fleet at once what is served here."""
        await presence.announce(self.queue.store, self._note())

    async def live(self, is_up: asyncio.Future[None], *, until: asyncio.Event, drain: Callable[[], float]) -> None:
        """Run the tree until told to stop, then drain. Raises what ended the tree, if that was not we."""
        try:
            async with open_supervisor(self._spec()) as supervisor:
                hearing = None
                if self._pool is not None:
                    hearing = asyncio.ensure_future(self._pool.listen(supervisor.events(capacity=10_000)))
                if not is_up.done():
                    is_up.set_result(None)
                await until.wait()
                await supervisor.terminate_child("announcer")
                if self._pool is None:
                    await supervisor.terminate_child("consumer")
                await self._drained(drain())
            if hearing is not None:
                hearing.cancel()
        finally:
            if self._pool is not None:
                self._pool.give_all_back()
            await self.crew.stop_all()
            await self._written()

    # -- children ---------------------------------------------------------------------------------

    def _spec(self) -> SupervisorSpec:
        children: list[tuple[str, Callable[[ChildContext], Awaitable[None]]]] = [
            ("losses", self._losses),
            ("cancels", self._cancels),
            ("escalations", self._escalations),
            ("reclaimer", self._reclaimer),
            ("consumer", self._consumer),
            ("announcer", self._announcer),
        ]
        if self._lease is not None and not self.queue.store.keeps_leases:
            children.insert(2, ("leases", self._leases))
        specs = [ChildSpec(id=name, start=start) for name, start in children]
        if self._processes:
            self._pool = self._pooled()
            at = next(number for number, spec in enumerate(specs) if spec.id == "consumer")
            specs[at : at + 1] = [
                ChildSpec(id="mailboxes", start=self._mailboxes),
                ChildSpec(id="pool", start=self._pool.spec()),
            ]
        return SupervisorSpec(
            strategy=Strategy.REST_FOR_ONE, intensity=Intensity(max_restarts=10, period=60.0), children=specs
        )

    def _pooled(self) -> Pool:
        hosts = self.crew.hosts
        setting = Setting(
            agents={name: host.actor for name, host in hosts.items()},
            namespace=self.queue.topics.namespace,
            worker_id=self._worker_id,
            concurrency=max(1, math.ceil(self._concurrency / self._processes)),
            prefetch=self._read_at_most,
            max_deliveries=self._max_deliveries,
            broker=self._shown,
            is_idempotent=self.crew.idempotency is not None,
            lease=self._lease,
        )
        redelivery = {name: host.redelivery for name, host in hosts.items()}
        hook = None if self.crew.idempotency is None else self.crew.idempotency.hook
        return Pool(self.queue, self._settler, self._hooks, setting, self._processes, redelivery, hook)

    def _lose(self, claim_of: object) -> None:
        self.crew.lose(claim_of)
        if self._pool is not None:
            self._pool.lose(claim_of)

    async def _losses(self, ctx: ChildContext) -> None:
        ctx.ready()
        async for delivery in self.queue.lost():
            self._lose(delivery)

    async def _cancels(self, ctx: ChildContext) -> None:
        ctx.ready()
        async for task_id in self.queue.store.cancelled():
            self._lose(task_id)

    async def _leases(self, ctx: ChildContext) -> None:
        assert self._lease is not None
        ctx.ready()
        while True:
            await asyncio.sleep(self._lease / 3)
            if self._pool is not None:
                await self._pool.renew()
            claims = self.crew.claims()
            if claims:
                await patiently(lambda claims=claims: self._renew(claims))  # type: ignore[misc]  # a default, not an argument

    async def _renew(self, claims: list[Claim]) -> None:
        for claim, is_ours in zip(claims, await self.queue.store.renew(claims), strict=True):
            if not is_ours:
                self.crew.lose(claim.delivery)

    async def _escalations(self, ctx: ChildContext) -> None:
        self.crew.escalated.clear()
        ctx.ready()
        await self.crew.escalated.wait()
        await self.crew.stop_all()
        raise Escalated("an actor escalated an error")

    async def _reclaimer(self, ctx: ChildContext) -> None:
        ctx.ready()
        every = min((self._lease or _SWEEP_AT_LEAST * 3) / 3, _SWEEP_AT_LEAST)
        while True:
            self._sweep_soon.clear()
            due = await patiently(self._sweep)
            pause = every * random.uniform(0.8, 1.2)  # noqa: S311  jitter: not all workers at once
            if due is not None:
                pause = min(pause, max(due, 0.01))
            try:
                async with asyncio.timeout(pause):
                    await self._sweep_soon.wait()
            except TimeoutError:
                continue

    async def _sweep(self) -> float | None:
        return await self.queue.store.sweep([self.queue.topics.tasks(agent) for agent in self.crew.hosts])

    async def _mailboxes(self, ctx: ChildContext) -> None:
        await self._opened()
        ctx.ready()
        await asyncio.Event().wait()

    async def _opened(self) -> None:
        if self.crew.hosts:
            await patiently(lambda: self.queue.open_tasks(list(self.crew.hosts)))

    async def _consumer(self, ctx: ChildContext) -> None:
        await self._opened()
        ctx.ready()
        while True:
            await self._settler.has_room()
            self._room.clear()
            room = self.crew.room()
            if not room:
                await self._room.wait()
                continue
            deliveries = await self._received(room, min(self.crew.slots.free, self._read_at_most))
            if deliveries:
                await self._begun(deliveries)

    async def _received(self, room: Mapping[str, int], credit: int) -> Sequence[Delivery]:
        """Wait for messages; a change of what is served here ends the wait early."""
        task = self._receiving = asyncio.current_task()
        try:
            return await patiently(lambda: self.queue.receive(room, credit=credit, wait=_WAIT))
        except asyncio.CancelledError:
            if self._receiving is None and task is not None and not task.uncancel():
                return ()
            raise
        finally:
            self._receiving = None

    async def _begun(self, deliveries: Sequence[Delivery]) -> None:
        """Begin deliveries; what did not come granted has to be first."""
        for work in self.queue.granted(deliveries) or await self._granted(deliveries):
            self.crew.begin(work)

    async def _granted(self, deliveries: Sequence[Delivery]) -> Sequence[Work]:
        """Have deliveries granted. Ended meanwhile, give back what was granted: nothing new starts."""
        granting = asyncio.ensure_future(patiently(lambda: self.queue.grant(deliveries)))
        try:
            return await asyncio.shield(granting)
        except asyncio.CancelledError:
            granting.add_done_callback(self._given_back)
            raise

    def _given_back(self, granting: "asyncio.Future[Sequence[Work]]") -> None:
        if not granting.cancelled() and granting.exception() is None:
            for work in granting.result():
                self._settler.settle(Release(work.claim))

    def _changed(self) -> None:
        """What is served here changed: the consumer looks again."""
        self._room.set()
        if self._receiving is not None:
            receiving, self._receiving = self._receiving, None
            receiving.cancel()

    async def _announcer(self, ctx: ChildContext) -> None:
        try:
            await patiently(self.announced)
            ctx.ready()
            while True:
                await asyncio.sleep(presence.EVERY)
                await patiently(self.announced)
        finally:
            with_store = asyncio.ensure_future(self._withdrawn())
            await asyncio.shield(with_store)

    async def _withdrawn(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await presence.withdraw(self.queue.store, self._worker_id)
        except (TimeoutError, OutcomeUnknown, BrokerUnreachable):
            return  # the note vanishes by itself

    # -- ending -----------------------------------------------------------------------------------

    async def _drained(self, seconds: float) -> None:
        crew = self.crew.drain(seconds) if self._pool is None else self._pool.drain(seconds)
        draining = asyncio.ensure_future(crew)
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            draining.cancel()
            await self.crew.stop_all()
        await self._written()

    async def _written(self) -> None:
        try:
            async with asyncio.timeout(_SETTLE_WITHIN):
                await self._settler.drained()
        except TimeoutError:
            logger.error("the last results could not be written; their tasks run again elsewhere when the lease lapses")
            self._settler.abandon()

    def _note(self) -> Presence:
        hosts = self.crew.hosts.values()
        return Presence(
            worker_id=self._worker_id,
            agents=tuple(sorted(host.entry.name for host in hosts if host.serves)),
            concurrency=self.crew.slots.total,
            running=len(self.crew.running) + (self._pool.running if self._pool is not None else 0),
            started_at=self._began,
            broken={host.entry.name: host.held for host in hosts if host.held},
        )

    def _held(self, host: Host, why: str | None) -> None:
        if why is not None:
            logger.error("this worker does not serve {} now: {}", host.entry.name, why)
        self._changed()


def _too_late(ending: Ending) -> None:
    logger.warning(
        "E407: task {} moved on while token {} was at it; this ending is discarded",
        ending.claim.task_id,
        ending.claim.token,
    )
