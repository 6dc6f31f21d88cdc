"""All names that live in this process: mail is sorted into cells, and cells that wait too long are let go.

Where mail comes from, and which names may live here, is not known here: a worker posts what it reads of the shards it
holds, an in-process runtime asks. Both are handled alike.
"""

import asyncio
import itertools
import secrets
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

from murmur.errors import GaveUp, TaskFailed
from murmur.named import Named, shard_of
from murmur.store import Claim
from murmur.task_queue import Work
from murmur.worker.attempt import Stop
from murmur.worker.crew import Crew
from murmur.worker.named_asks import Asked
from murmur.worker.named_cell import Cell
from murmur.worker.named_letters import Letter, Posted

_LOOK: Final = 0.5  # seconds between two looks at names that may be let go


class Names:
    """The live names of a crew's agents. `is_shared`: other processes may own the same names."""

    def __init__(self, crew: Crew, *, is_shared: bool) -> None:
        self._crew = crew
        self._is_shared = is_shared
        self.owner = secrets.token_hex(8)  # of this life of this process
        self._numbers = itertools.count(1)
        self._cells: dict[tuple[str, str], Cell] = {}
        self._counts: dict[str, int] = {}  # of cells, by agent
        self._idle: dict[str, dict[Cell, None]] = {}  # by agent, who has waited longest first
        self._shares: dict[str, AbstractAsyncContextManager[object]] = {}
        self._posted: dict[str, Posted] = {}  # by task id
        self._lives = asyncio.Event()  # set once anything lived here
        self.is_closed = False

    @property
    def held(self) -> int:
        """Messages of the fleet that are in hand here."""
        return len(self._posted)

    def has(self, agent: str) -> bool:
        """Whether names of an agent may live here."""
        return agent in self._crew.hosts

    def serves(self, agent: str) -> bool:
        """Whether an agent can be served now."""
        return self._crew.hosts[agent].serves

    def live(self, agent: str) -> int:
        """Return how many names of an agent are here."""
        return self._counts.get(agent, 0)

    def claims(self) -> list[Claim]:
        """Return the rights that are held here."""
        return [letter.work.claim for letter in self._posted.values()]

    def begin(self, work: Work) -> None:
        """Handle a granted task in its turn. It has a key, of a shard that is ours."""
        crew, task_id = self._crew, work.claim.task_id
        self.lose(task_id)  # an earlier grant of the same task: it lapsed
        self._posted[task_id] = letter = Posted(
            work, endings=crew.endings, settler=crew.settler, queue=crew.queue, on_end=self._ended
        )
        self._post(letter)

    async def ask(self, agent: str, key: str, body: bytes, *, timeout: float | None) -> bytes:
        """Return what an actor here answers, encoded. Raises `TaskFailed`, `GaveUp`."""
        letter = self.asked((agent, key), body)
        try:
            async with asyncio.timeout(timeout):
                return await letter.reply
        except TimeoutError as error:
            if isinstance(error, TaskFailed):
                raise
            raise GaveUp(letter.task_id, agent, "timeout", timeout or 0.0) from None
        finally:
            if letter.reply.cancelled():
                self.abandon(letter)

    def asked(self, address: tuple[str, str], body: bytes) -> Asked:
        """Have an actor here handle a message, and return that: its `reply` is the answer, encoded."""
        letter = Asked(address, body, (self.owner, next(self._numbers)), asyncio.get_running_loop(), self._post)
        self._post(letter)
        return letter

    def abandon(self, letter: Letter) -> None:
        """Nobody waits for it any more: end it, if it is at hand."""
        cell = self._cells.get(letter.address)
        if cell is not None and cell.at is letter:
            cell.end(Stop.LOST)

    def lose(self, claim_of: object) -> None:
        """A delivery, or a task by its id, is no longer ours: write nothing of it."""
        letters = [self._posted.get(claim_of)] if isinstance(claim_of, str) else list(self._posted.values())
        for letter in letters:
            if letter is not None and (isinstance(claim_of, str) or letter.work.claim.delivery is claim_of):
                letter.is_wanted = False
                self.abandon(letter)

    def let_go_of_idle(self) -> None:
        """Let the instances go that have waited longer than their class says."""
        now = asyncio.get_running_loop().time()
        for agent, idle in self._idle.items():
            after = self._policy(agent).idle_after
            for cell in [cell for cell in idle if now - cell.idle_since >= after]:
                del idle[cell]
                cell.let_go("idle")

    async def look_at_idle(self) -> None:
        """Let go of idle instances in time, until cancelled."""
        await self._lives.wait()
        while True:
            await asyncio.sleep(_LOOK)
            self.let_go_of_idle()

    def is_at_work(self, agent: str, shard: int) -> bool:
        """Whether a name of a shard has mail."""
        return any(cell.task is not None for cell in self._of(agent, shard))

    async def leave(self, agent: str, shard: int, *, is_lost: bool) -> None:
        """Let all names of a shard go. Lost: end what they are at, for it counts no more."""
        cells = self._of(agent, shard)
        for cell in cells if is_lost else ():
            cell.end(Stop.DRAIN)  # its task may be ours all the same: it is given back
        await asyncio.gather(*(cell.close("moved") for cell in cells))

    async def drain(self, within: float) -> None:
        """Let messages at hand end for `within` seconds; give the others back."""
        self.is_closed = True
        closing = [asyncio.ensure_future(cell.close("drain")) for cell in list(self._cells.values())]
        if closing:
            _, late = await asyncio.wait(closing, timeout=within)
            if late:
                await self.stop_all()

    async def stop_all(self) -> None:
        """Give everything back, uncounted; wait for what is at hand to end, but not for ever."""
        for cell in list(self._cells.values()):
            cell.is_closing = True
            cell.end(Stop.DRAIN)
        working = [cell.task for cell in self._cells.values() if cell.task is not None]
        if working:
            await asyncio.wait(working, timeout=5.0)
        for letter in list(self._posted.values()):  # of one that ignores its cancellation
            letter.is_wanted = False
            letter.give_back()

    # -- inside -----------------------------------------------------------------------------------

    def _post(self, letter: Letter) -> None:
        if self.is_closed:
            letter.refuse()
            return
        cell = self._cells.get(letter.address)
        if cell is None:
            cell = self._cells[letter.address] = self._made(*letter.address)
        elif cell.task is None:
            self._idle[cell.entry.name].pop(cell, None)
        cell.post(letter)

    def _made(self, agent: str, key: str) -> Cell:
        host = self._crew.hosts[agent]
        idle = self._idle.setdefault(agent, {})
        count = self._counts.get(agent, 0)
        if count >= self._policy(agent).max_live and idle:
            longest = next(iter(idle))
            del idle[longest]
            longest.let_go("idle")
        self._counts[agent] = count + 1
        self._lives.set()
        if agent not in self._shares:
            most = host.actor.concurrency
            self._shares[agent] = nullcontext() if most is None else asyncio.Semaphore(most)
        return Cell(
            host.entry,
            host.actor,
            host.redelivery,
            host.on_held,
            key=key,
            crew=self._crew,
            owner=self.owner,
            is_shared=self._is_shared,
            share=self._shares[agent],
            on_idle=self._rests,
        )

    def _rests(self, cell: Cell) -> None:
        agent = cell.entry.name
        if cell.is_live and not cell.is_closing:
            cell.idle_since = asyncio.get_running_loop().time()
            self._idle[agent][cell] = None
            return
        self._idle[agent].pop(cell, None)
        if self._cells.get((agent, cell.key)) is cell:
            del self._cells[agent, cell.key]
            self._counts[agent] -= 1

    def _ended(self, letter: Posted) -> None:
        if self._posted.get(letter.work.claim.task_id) is letter:
            del self._posted[letter.work.claim.task_id]

    def _of(self, agent: str, shard: int) -> list[Cell]:
        return [cell for (name, key), cell in self._cells.items() if name == agent and shard_of(key) == shard]

    def _policy(self, agent: str) -> Named:
        return self._crew.hosts[agent].actor.named or Named()
