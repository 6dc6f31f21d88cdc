"""Which shards of named agents this worker holds, and the reading of their mailboxes.

A shard is held under a lease in the store, by one worker at a time; only its holder reads its mailbox, so each name has
one home. Workers say that they are there, and the shards are dealt among those who are (rendezvous hashing: when one
comes or goes, no more of them move than must). Who takes a shard over begins to read when nothing of it is in hand
anywhere: what a dead holder had comes back first, in order. A lease that was not renewed in time is given up unasked.
"""

import asyncio
import hashlib
import math
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final, Protocol

from attrs import define, field
from loguru import logger

from murmur.errors import BadActorKey, BrokerRefused, BrokerUnreachable, NeedsStore, OutcomeUnknown
from murmur.named import check_key, mailbox_of, mailboxes_of, shard_of
from murmur.outcome import Answer
from murmur.registry import AnyActor
from murmur.store import Claim
from murmur.task_queue import Release, TaskQueue, Work
from murmur.worker.endings import Endings
from murmur.worker.intake import Intake
from murmur.worker.pools import Place
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots
from murmur.worker.together import together

KEEPER: Final = "keeper:"
SHARD: Final = "shard:"
_TICK: Final = 0.4  # seconds between two looks
_PATIENCE: Final = 30.0  # seconds a shard that should move may stay because its names are at work
_READ: Final = 0.5  # seconds one read of the mailboxes waits; never ended early, for what it brings has its order
_READ_ENDS: Final = _READ + 0.2  # seconds until a read that was under way has ended
_AT_ONCE: Final = 250  # messages of one read: what it brings and cannot keep would lose its place
_LEASE: Final = 30.0  # seconds, where tasks have none
_AHEAD: Final = 1_000  # messages that may wait here for their names


class Stage(Protocol):
    """Where the names of an agent live: this process, or a pool of others."""

    @property
    def held(self) -> int:
        """Messages in hand."""

    def serves(self, agent: str) -> bool:
        """Whether an agent can be served now."""

    def begin(self, work: Work) -> None:
        """Handle a granted task in its turn."""

    def lose(self, claim_of: object) -> None:
        """A delivery, or a task by its id, is no longer ours."""

    def claims(self) -> list[Claim]:
        """Return the rights to all that is in hand."""

    def is_at_work(self, agent: str, shard: int) -> bool:
        """Whether a name of a shard has mail."""

    def leave(self, agent: str, shard: int, *, is_lost: bool) -> Coroutine[Any, Any, None]:
        """Let all names of a shard go; return when nothing of it is in hand. Lost: end what they are at."""

    def drain(self, within: float) -> Coroutine[Any, Any, None]:
        """Let what is at hand end for so many seconds; give the rest back."""


@define
class _Held:
    """A shard that is ours."""

    renewed: float  # clock time from which its lease runs, at the earliest
    is_read: bool = False  # nothing of former holders is in hand any more
    moves_since: float | None = None  # another one should have it
    leaving: asyncio.Task[None] | None = None


def _or_default(lease: float | None) -> float:
    return lease or _LEASE


@define(eq=False)
class Shards:
    """The shards of one worker, and a place for their tasks."""

    queue: TaskQueue
    settler: Settler
    endings: Endings
    slots: Slots
    owner: str
    lease: float = field(converter=_or_default)
    stage_of: Callable[[str], Stage]
    place_of: Callable[[str], Place]  # that begins what came by the agent's own mailbox
    is_private: bool = field(default=False, kw_only=True)  # no broker: nothing is read
    agents: dict[str, float] = field(factory=dict)  # with the clock time at which we said that we are there
    _held: dict[str, _Held] = field(factory=dict)  # by mailbox
    _tasks: set[asyncio.Task[None]] = field(factory=set)
    _is_closing: bool = False
    _intake: Intake = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._intake = Intake(
            self.queue, self.settler, self.slots, _AT_ONCE, lambda: [self], self._place_for, wait=_READ
        )

    def add(self, agent: str, actor: AnyActor) -> None:
        """Serve an agent, if its instances have names."""
        if actor.named is not None and not self.is_private:
            if not self.queue.store.keeps_rows:
                raise NeedsStore(what=f"serving {agent}, whose instances have names,")
            self.agents[agent] = -math.inf

    def beside(self, agents: Collection[str]) -> tuple[str, ...]:
        """Return all mailboxes of these agents: their own, and those of their shards."""
        return (*agents, *(mailbox for agent in self.agents for mailbox in mailboxes_of(agent)))

    @property
    def reading(self) -> tuple[str, ...]:
        """Those that are ours to read now."""
        return tuple(mailbox for mailbox, held in self._held.items() if held.is_read)

    async def run(self) -> None:
        """Hold what is ours to hold, and read it, until cancelled."""
        if self.agents:
            await together(self._keep(), self._intake.run())
        await asyncio.Event().wait()

    async def _keep(self) -> None:
        while not self._is_closing:
            for agent in list(self.agents):
                try:
                    await self._look(agent)
                except BrokerRefused as error:
                    self.settler.rights.missing(error)
                except (OutcomeUnknown, BrokerUnreachable) as error:
                    logger.info("the shards of {} cannot be looked after: {}", agent, error)
                self._give_up_lapsed(agent)
            await asyncio.sleep(_TICK * random.uniform(0.8, 1.2))  # noqa: S311  jitter

    # -- a place for tasks ------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """How many more messages may wait here."""
        return max(_AHEAD - sum(stage.held for stage in self._stages()), 0)

    @property
    def broken(self) -> dict[str, str]:
        """None: who hosts the agents tells."""
        return {}

    def room(self) -> Mapping[str, int]:
        """Return how many messages each mailbox may take now."""
        if not (free := self.free):
            return {}
        serving = {agent for agent in self.agents if self.stage_of(agent).serves(agent)}
        room = {mailbox: free for mailbox in self.reading if mailbox.partition(".")[0] in serving}
        fronts = {agent: self.place_of(agent).room().get(agent, 0) for agent in serving if mailbox_of(agent, 0) in room}
        return room | {agent: most for agent, most in fronts.items() if most > 0}

    def _place_for(self, work: Work) -> Place:
        is_shard = self.queue.topics.is_shard(work.claim.delivery.topic)
        return self if is_shard else self.place_of(work.message.agent)

    def begin(self, work: Work) -> None:
        """Have a granted task handled by its name; one that came too late goes back."""
        message = work.message
        mailbox = self.queue.topics.mailbox_of(work.claim.delivery.topic)
        held = self._held.get(mailbox)
        if held is None or not held.is_read:
            self.settler.settle(Release(work.claim))
            return
        if (error := _misplaced(message.agent, message.key, mailbox)) is not None:
            self.settler.settle(self.endings.failed(work.claim, message, error, Answer(), duration_ms=0))
            return
        self.stage_of(message.agent).begin(work)

    def lose(self, claim_of: object) -> None:
        """A delivery, or a task by its id, is no longer ours."""
        for stage in self._stages():
            stage.lose(claim_of)

    def claims(self) -> list[Claim]:
        """Return the rights to all that is in hand."""
        return [claim for stage in self._stages() for claim in stage.claims()]

    async def drain(self, seconds: float) -> None:
        """Read no more, let what is at hand end, and leave the shards to others."""
        self._is_closing = True
        for held in self._held.values():
            held.is_read = False
        self._intake.wake()
        await asyncio.gather(*(stage.drain(seconds) for stage in self._stages()))
        try:
            async with asyncio.timeout(1.0):
                await self.settler.drained()
                await self.queue.store.delete([f"{KEEPER}{agent}:{self.owner}" for agent in self.agents])
                await asyncio.gather(*(self._release(mailbox) for mailbox in list(self._held)))
        except (TimeoutError, OutcomeUnknown, BrokerUnreachable, BrokerRefused):
            return  # the leases lapse

    # -- holding ----------------------------------------------------------------------------------

    async def _look(self, agent: str) -> None:
        store, now = self.queue.store, _now()
        if now - self.agents[agent] >= self.lease / 3:
            await store.put(f"{KEEPER}{agent}:{self.owner}", b"", ttl=self.lease)
            self.agents[agent] = now
        found = await store.listed(f"{KEEPER}{agent}:")
        keepers = {key.rpartition(":")[2] for key in found} | {self.owner}
        await asyncio.gather(*(self._step(mailbox, keepers) for mailbox in mailboxes_of(agent)))

    async def _step(self, mailbox: str, keepers: Collection[str]) -> None:
        held, is_ours = self._held.get(mailbox), dealt_to(mailbox, keepers) == self.owner
        if held is None:
            if is_ours and not self._is_closing and (now := await self._leased(mailbox, None)) is not None:
                held = self._held[mailbox] = _Held(now)
                await self._begin_reading(mailbox, held)
            return
        if _now() - held.renewed >= self.lease / 3:
            now = await self._leased(mailbox, self.owner)
            if now is None:
                self._lost(mailbox)
                return
            held.renewed = now
        if is_ours:
            held.moves_since = None
            await self._begin_reading(mailbox, held)
        else:
            self._hand_over(mailbox, held)

    async def _leased(self, mailbox: str, expected: str | None) -> float | None:
        """Take, or renew, the lease; return from when it runs, None where another holds it."""
        now, owner = _now(), self.owner.encode()
        before = None if expected is None else expected.encode()
        stands = await self.queue.store.swap(SHARD + mailbox, before, owner, ttl=self.lease)
        return now if stands == owner else None

    async def _begin_reading(self, mailbox: str, held: _Held) -> None:
        """Read from now on, unless something of a former holder has not come back yet."""
        if held.is_read or held.leaving is not None or self._is_closing:
            return
        if await self.queue.is_settled(mailbox):
            held.is_read = True
            self._intake.wake()

    def _hand_over(self, mailbox: str, held: _Held) -> None:
        """Another one should have it: let it go when its names are not at work, or after a while all the same."""
        now = _now()
        if held.moves_since is None:
            held.moves_since = now
        agent, _, shard = mailbox.partition(".")
        is_at_work = self.stage_of(agent).is_at_work(agent, int(shard))
        if held.leaving is None and (not is_at_work or now - held.moves_since >= _PATIENCE):
            held.leaving = self._aside(self._left(mailbox, held))

    async def _left(self, mailbox: str, held: _Held) -> None:
        held.is_read = False
        self._intake.wake()
        agent, _, shard = mailbox.partition(".")
        await asyncio.sleep(_READ_ENDS)
        await self.stage_of(agent).leave(agent, int(shard), is_lost=False)
        try:
            await self._release(mailbox)
        except (OutcomeUnknown, BrokerUnreachable, BrokerRefused):
            self._held.pop(mailbox, None)  # its lease lapses

    async def _release(self, mailbox: str) -> None:
        await self.queue.store.swap(SHARD + mailbox, self.owner.encode(), None)
        self._held.pop(mailbox, None)

    def _give_up_lapsed(self, agent: str) -> None:
        for mailbox in mailboxes_of(agent):
            held = self._held.get(mailbox)
            if held is not None and _now() - held.renewed >= self.lease:
                self._lost(mailbox)

    def _lost(self, mailbox: str) -> None:
        logger.warning("the shard {} was lost: its lease was not renewed in time", mailbox)
        self._held.pop(mailbox, None)
        self._intake.wake()
        agent, _, shard = mailbox.partition(".")
        self._aside(self.stage_of(agent).leave(agent, int(shard), is_lost=True))

    # -- inside -----------------------------------------------------------------------------------

    def _stages(self) -> list[Stage]:
        stages: dict[int, Stage] = {id(stage): stage for stage in map(self.stage_of, self.agents)}
        return list(stages.values())

    def _aside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def dealt_to(mailbox: str, keepers: Collection[str]) -> str:
    """Return who should hold a shard, of those who are there; the same for everybody who asks."""
    return max(keepers, key=lambda keeper: hashlib.blake2b(f"{keeper}/{mailbox}".encode()).digest())


def _now() -> float:
    return asyncio.get_running_loop().time()


def _misplaced(agent: str, key: str | None, mailbox: str) -> BadActorKey | None:
    """Return what is wrong with a message of this key in this mailbox."""
    try:
        right = mailbox_of(agent, shard_of(check_key(key)))
    except BadActorKey as error:
        return error
    return None if right == mailbox else BadActorKey(repr(key), f"its mailbox is {right}, and it came to {mailbox}")
