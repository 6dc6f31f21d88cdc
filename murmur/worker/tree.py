"""The supervision tree of one worker: what runs beside the actors, in the order it depends on one another.

    worker (rest_for_one)
    ├─ losses       deliveries that are no longer ours: their attempts are ended
    ├─ cancels      tasks that were cancelled: likewise
    ├─ leases       renews what the store does not renew by itself
    ├─ escalations  an actor's error that its class escalates restarts all that follows
    ├─ reclaimer    gives tasks of dead workers, and delayed ones, back to the mailboxes
    ├─ pools…       the worker processes, where there are some: one pool for all, one for each agent that wants its own
    ├─ consumer     takes tasks, never more than there are free slots, and gives them to the crew here or to a pool
    ├─ announcer    says in the store who is here and what is served; last up, first down
    └─ …            what the worker puts beside them: its reporter

A broker that is away is a state: its child waits and tries again. Only a bug ends a child,
and too many of those end the worker.
"""

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
from loguru import logger

from murmur import presence
from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.idempotency import IdempotencyHook
from murmur.policy import Redelivery
from murmur.presence import Presence
from murmur.publisher import Publisher
from murmur.redaction import one_safe_text
from murmur.registry import AgentEntry
from murmur.store import Claim
from murmur.task_queue import Ending, TaskQueue, Work
from murmur.worker.crew import Crew
from murmur.worker.desk import Desk
from murmur.worker.endings import Endings
from murmur.worker.guard import Idempotency
from murmur.worker.hooks import Hooks
from murmur.worker.host import Host
from murmur.worker.intake import Intake
from murmur.worker.memory import give_back
from murmur.worker.named import Names
from murmur.worker.named_shards import Shards
from murmur.worker.opening import opened_tree
from murmur.worker.pools import Place, Pools
from murmur.worker.setting import Keeping, Setting
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots
from murmur.worker.together import first, together
from supervisors import ChildContext, ChildInfo, ChildSpec, Intensity, Strategy, Supervisor, SupervisorSpec

_SWEEP_AT_LEAST: Final = 10.0  # seconds between two sweeps at most, however long the lease
_SETTLE_WITHIN: Final = 5.0
_NOTES_A_TRIM: Final = 12  # presence notes after which a node gives freed memory back: once a minute


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
        keeping: Keeping | None = None,
        shown: str = "",
        beside: Sequence[ChildSpec] = (),
        on_change: Callable[[], object] = lambda: None,
        is_private: bool = False,
    ) -> None:
        self.queue = queue
        self.publisher = publisher
        self._worker_id = worker_id
        self._lease = lease
        self._max_deliveries = max_deliveries
        self._sweep_soon = asyncio.Event()
        self._hurry = asyncio.Event()
        self._began = time.time()
        self._beside = beside
        self._on_change = on_change
        self.is_draining = False
        self._supervisor: Supervisor | None = None
        self.settler = Settler(queue, on_stale=_too_late, on_delayed=self._sweep_soon.set)
        slots = Slots(concurrency)
        # At most half the slots in one read: while one half is fetched or written, the other works.
        self._intake = Intake(
            queue,
            self.settler,
            slots,
            min(prefetch, max(1, concurrency // 2)),
            lambda: [self.crew, *self.pools],
            self._place_of,
        )
        slots.on_free = self._freed
        self.crew = Crew(
            queue,
            slots,
            self.settler,
            Endings(worker_id),
            hooks,
            publisher,
            Idempotency(idempotency, queue.topics.namespace, lease) if idempotency is not None else None,
        )
        self.names = Names(self.crew, is_shared=not is_private)
        self.shards = Shards(
            queue,
            self.settler,
            self.crew.endings,
            slots,
            self.names.owner,
            lease,
            lambda agent: self.pools.stage_of(agent) or self.names,
            lambda agent: self.pools.of(agent) or self.crew,
            is_private=is_private,
        )
        self._intake.away = self.shards.agents
        setting = Setting(
            agents={},
            namespace=queue.topics.namespace,
            worker_id=worker_id,
            max_deliveries=max_deliveries,
            broker=shown,
            is_idempotent=idempotency is not None,
            lease=lease,
            keeps_rows=queue.store.keeps_rows,
            inline=queue.inline,
        )
        self.pools = Pools(
            queue,
            self.settler,
            slots,
            self.crew.endings,
            hooks,
            Desk(queue, idempotency),
            setting,
            keeping or Keeping(),
            processes=processes,
            concurrency=concurrency,
            on_room=self._intake.roomier,
            supervisor=lambda: self._supervisor,
        )

    def add(self, entry: AgentEntry) -> None:
        """Serve an agent, before the tree lives."""
        assert entry.actor is not None
        redelivery: Redelivery = entry.actor.redelivery
        if self._max_deliveries is not None:
            redelivery = attrs.evolve(redelivery, max_deliveries=self._max_deliveries)
        if not self.pools.add(entry.name, entry.actor, redelivery):
            self.crew.hosts[entry.name] = Host(entry, entry.actor, redelivery, self._held)
        self.shards.add(entry.name, entry.actor)
        self._intake.look_again()

    async def serve(self, entry: AgentEntry) -> None:
        """Serve one more agent of a tree that lives."""
        self.add(entry)
        await self.queue.open_tasks([entry.name])
        if (pool := self.pools.of(entry.name)) is not None and self._supervisor is not None:
            await self._supervisor.start_child(ChildSpec(id=pool.id, start=pool.spec()))
        await self.announced()

    @property
    def agents(self) -> tuple[str, ...]:
        """The names of all that are served here, sorted."""
        return tuple(sorted({*self.crew.hosts, *self.pools.agents}))

    @property
    def children(self) -> Sequence[ChildInfo]:
        """What is supervised here; nothing before it all is up."""
        return () if self._supervisor is None else self._supervisor.which_children()

    def hurry(self) -> None:
        """End the drain now."""
        self._hurry.set()

    async def announced(self) -> None:
        """Tell the fleet at once what is served here."""
        await presence.announce(self.queue.store, self.note())

    def note(self) -> Presence:
        """Return what the fleet is told of this worker."""
        broken = {agent: why for place in self._places for agent, why in place.broken.items()}
        stopped = {name for name, host in self.crew.hosts.items() if host.is_stopped}
        return Presence(
            worker_id=self._worker_id,
            agents=tuple(agent for agent in self.agents if agent not in broken and agent not in stopped),
            concurrency=self.crew.slots.total,
            running=len(self.crew.running) + sum(pool.running for pool in self.pools),
            started_at=self._began,
            broken=broken,
        )

    async def live(self, is_up: asyncio.Future[None], *, until: asyncio.Event, drain: Callable[[], float]) -> None:
        """Run the tree until told to stop, then drain. Raises what ended the tree, if that was not we."""
        hearing: asyncio.Future[None] | None = None
        try:
            async with opened_tree(self._spec, processes=self.pools.processes) as supervisor:
                self._supervisor = supervisor
                hearing = asyncio.ensure_future(self.pools.listen(supervisor.events(capacity=10_000)))
                self.settler.rights.is_serving = True
                if not is_up.done():
                    is_up.set_result(None)
                self._on_change()
                await first(until.wait(), self.pools.hopeless())
                self.is_draining = True
                self._on_change()
                await supervisor.terminate_child("announcer")
                await supervisor.terminate_child("consumer")
                await self._drained(drain())
        finally:
            await cancelled([hearing])
            self._supervisor = None
            await self.pools.stop_all()
            await asyncio.gather(self.crew.stop_all(), self.names.stop_all())
            await self._written()

    async def dump_stacks(self) -> None:
        """Write to stderr what the worker processes are at, those too that hang."""
        if self._supervisor is None:
            return
        for path, stacks in sorted((await self._supervisor.dump_stacks()).items()):
            sys.stderr.write(one_safe_text(f"\n{path}\n{stacks}\n"))
        sys.stderr.flush()

    # -- children ---------------------------------------------------------------------------------

    def _spec(self) -> SupervisorSpec:
        children: list[tuple[str, Callable[[ChildContext], Awaitable[None]]]] = [
            ("losses", self._losses),
            ("cancels", self._cancels),
            ("escalations", self._escalations),
            ("reclaimer", self._reclaimer),
            ("consumer", self._consumer),
            ("names", self._names),
            ("announcer", self._announcer),
        ]
        if self._lease is not None and not self.queue.store.keeps_leases:
            children.insert(2, ("leases", self._leases))
        specs = [ChildSpec(id=name, start=start) for name, start in children]
        at = next(number for number, spec in enumerate(specs) if spec.id == "consumer")
        specs[at:at] = [ChildSpec(id=pool.id, start=pool.spec()) for pool in self.pools]
        specs += self._beside
        return SupervisorSpec(
            strategy=Strategy.REST_FOR_ONE, intensity=Intensity(max_restarts=10, period=60.0), children=specs
        )

    @property
    def _places(self) -> list[Place]:
        return [self.crew, *self.pools, self.shards]  # the shards' mailboxes are read apart

    def _freed(self) -> None:
        self.pools.stir()
        self._intake.roomier()

    def _place_of(self, work: Work) -> Place:
        return self.pools.of(work.message.agent) or self.crew

    def _lose(self, claim_of: object) -> None:
        for place in self._places:
            place.lose(claim_of)

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
            claims = [claim for place in self._places for claim in place.claims()]
            if claims:
                await self.settler.rights.patiently(lambda claims=claims: self._renew(claims))  # type: ignore[misc]  # a default, not an argument

    async def _renew(self, claims: list[Claim]) -> None:
        for claim, is_ours in zip(claims, await self.queue.store.renew(claims), strict=True):
            if not is_ours:
                self._lose(claim.delivery)

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
            due = await self.settler.rights.patiently(self._sweep)
            pause = every * random.uniform(0.8, 1.2)  # noqa: S311  jitter: not all workers at once
            if due is not None:
                pause = min(pause, max(due, 0.01))
            try:
                async with asyncio.timeout(pause):
                    await self._sweep_soon.wait()
            except TimeoutError:
                continue

    async def _sweep(self) -> float | None:
        return await self.queue.store.sweep([self.queue.topics.tasks(one) for one in self.shards.beside(self.agents)])

    async def _consumer(self, ctx: ChildContext) -> None:
        if self.agents:
            await self.settler.rights.patiently(lambda: self.queue.open_tasks(self.shards.beside(self.agents)))
        ctx.ready()
        await self._intake.run()

    async def _names(self, ctx: ChildContext) -> None:
        ctx.ready()
        await together(self.names.look_at_idle(), self.shards.run())

    async def _announcer(self, ctx: ChildContext) -> None:
        try:
            await self.settler.rights.patiently(self.announced)
            ctx.ready()
            for number in itertools.count():
                await asyncio.sleep(presence.EVERY)
                await self.settler.rights.patiently(self.announced)
                if self.pools.agents and number % _NOTES_A_TRIM == 2:
                    give_back()
        finally:
            with_store = asyncio.ensure_future(self._withdrawn())
            await asyncio.shield(with_store)

    async def _withdrawn(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await presence.withdraw(self.queue.store, self._worker_id)
        except (TimeoutError, OutcomeUnknown, BrokerUnreachable, BrokerRefused):
            return  # the note vanishes by itself

    # -- ending -----------------------------------------------------------------------------------

    async def _drained(self, seconds: float) -> None:
        draining = asyncio.ensure_future(self._places_drained(seconds))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not draining.done():
            draining.cancel()
            await self.pools.stop_all()
            await asyncio.gather(self.crew.stop_all(), self.names.stop_all())
        await self._written()

    async def _places_drained(self, seconds: float) -> None:
        await asyncio.gather(*(place.drain(seconds) for place in self._places), self.names.drain(seconds))

    async def _written(self) -> None:
        try:
            async with asyncio.timeout(_SETTLE_WITHIN):
                await self.settler.drained()
        except TimeoutError:
            logger.error("the last results could not be written; their tasks run again elsewhere when the lease lapses")
            self.settler.abandon()

    def _held(self, host: Host, why: str | None) -> None:
        if why is not None:
            logger.error("this worker does not serve {} now: {}", host.entry.name, why)
        self._intake.look_again()
        self._on_change()


def _too_late(ending: Ending) -> None:
    logger.warning(
        "E407: task {} moved on while token {} was at it; this ending is discarded",
        ending.claim.task_id,
        ending.claim.token,
    )
