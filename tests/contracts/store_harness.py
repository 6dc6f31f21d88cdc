"""What a store's contract needs beyond the port: parties that hold a store each, and how messages reach them.

A store that moves no messages may be asked to grant anything, so its parties make up the
delivery. A store that lives in its broker grants what was received there; its parties
receive. One subclass of `StoreHarness` per adapter.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from murmur.envelope import ErrorNote, TaskMessage, decode_task, encode
from murmur.store import (
    Admission,
    Burial,
    Busy,
    Claim,
    Completion,
    Failure,
    Finished,
    Grant,
    GrantRequest,
    NewTask,
    Row,
    State,
    Store,
    Written,
)
from murmur.transport import Delivery, Outgoing, Transport
from tests.contracts.harness import now, until

WITHIN = 30.0  # seconds for what should take milliseconds
_serial = itertools.count(1)


def note(attempt: int = 1, message: str = "no") -> ErrorNote:
    """Return a failed attempt, as a row remembers it."""
    return ErrorNote(attempt=attempt, error_type="ValueError", message=message, at=1.5, worker_id="w")


class Party:
    """One process: its store, and where the broker moves rows and messages together, its transport."""

    def __init__(self, store: Store, harness: "StoreHarness", *, transport: Transport | None = None) -> None:
        self.store = store
        self.transport = transport
        self.agent = harness.agent
        self.topic = f"{self.agent}.tasks"
        self._messages = harness.messages
        self._granted: dict[str, Grant] = {}

    def task(self, task_id: str, *, reply_to: str | None = None, keep: bool = False) -> NewTask:
        """Return a task to admit."""
        message = TaskMessage(v=1, task_id=task_id, agent=self.agent, input=msgspec.Raw(b"1"), reply_to=reply_to)
        task = NewTask(task_id, self.agent, self.topic, encode(message), reply_to, keep=keep)
        self._messages.setdefault(task_id, task)
        return task

    async def admit(self, *task_ids: str, reply_to: str | None = None) -> Sequence[Admission]:
        """Admit plain tasks."""
        return await self.store.admit([self.task(task_id, reply_to=reply_to) for task_id in task_ids])

    async def publish_again(self, task_id: str, *, reply_to: str | None = None) -> None:
        """Bring a second copy of a task's message on its way, as a stranger would."""
        task = self.task(task_id, reply_to=reply_to)
        if self.transport is not None:
            await self.transport.publish([Outgoing(self.topic, task.body, "")])

    async def offer(self, *task_ids: str, patience: float) -> list[Grant | None]:
        """Ask for the grants of tasks; None for one whose message does not come within `patience` seconds."""
        if self.transport is None:
            return list(await self.store.grant([self._request(_made_up(self._messages[one])) for one in task_ids]))
        deadline = now() + patience
        while (missing := set(task_ids) - set(self._granted)) and (left := deadline - now()) > 0:
            room = len(missing)
            found = await self.transport.receive("workers", {self.topic: room}, credit=room, wait=left)
            for grant in await self.store.grant([self._request(one) for one in found]) if found else ():
                self._granted[grant.task_id] = grant
                if isinstance(grant, Busy):
                    await self.transport.release([grant.delivery], delay=grant.retry_after)
        return [self._granted.pop(task_id, None) for task_id in task_ids]

    async def claim(self, *task_ids: str, within: float = WITHIN) -> list[Claim]:
        """Lease tasks, polling until each is granted or the time is over."""
        claims: dict[str, Claim] = {}

        async def all_granted() -> bool:
            missing = [task_id for task_id in task_ids if task_id not in claims]
            for grant in await self.offer(*missing, patience=within):
                if isinstance(grant, Claim):
                    claims[grant.task_id] = grant
            return len(claims) == len(task_ids)

        assert await until(all_granted, within=within), f"granted only {sorted(claims)} of {task_ids}"
        return [claims[task_id] for task_id in task_ids]

    async def is_refused(self, task_id: str, *, patience: float = 0.3) -> bool:
        """Whether a task cannot be started now."""
        (grant,) = await self.offer(task_id, patience=patience)
        return not isinstance(grant, Claim)

    async def row(self, task_id: str) -> Row:
        """Return a row that must be there."""
        (row,) = await self.store.read([task_id])
        assert row is not None, f"no row of {task_id}"
        return row

    async def state(self, task_id: str) -> State | None:
        """Return where a task stands; None without a row."""
        (row,) = await self.store.read([task_id])
        return row.state if row else None

    async def complete(self, claim: Claim, result: bytes = b'"done"', state: State = State.DONE) -> Written:
        """Complete one task."""
        (written,) = await self.store.complete([Completion(claim, result, state)])
        return written

    async def fail(self, claim: Claim, *, delay: float = 0.0, crashed: bool = False, attempt: int = 1) -> Written:
        """Fail one attempt."""
        (written,) = await self.store.fail([Failure(claim, delay, note(attempt), crashed)])
        return written

    async def release(self, claim: Claim, *, delay: float = 0.0) -> Written:
        """Release one task."""
        (written,) = await self.store.release([claim], delay=delay)
        return written

    async def bury(self, claim: Claim, letter: bytes = b'{"reason":"test"}', result: bytes = b'"dead"') -> Written:
        """Bury one task."""
        (written,) = await self.store.bury([Burial(claim, "test", letter, result)])
        return written

    async def renew(self, claim: Claim) -> bool:
        """Renew one lease."""
        (holds,) = await self.store.renew([claim])
        return holds

    def _request(self, delivery: Delivery) -> GrantRequest:
        message = decode_task(delivery.body)
        return GrantRequest(delivery, message.task_id, message.agent, message.reply_to)


# Every way in which a claim may be used, by what it is to leave untouched when it is stale.
VERBS: dict[str, Callable[[Party, Claim], Awaitable[Written]]] = {
    "complete": lambda party, claim: party.complete(claim, b'"stale"'),
    "fail": lambda party, claim: party.fail(claim),
    "crash": lambda party, claim: party.fail(claim, crashed=True),
    "release": lambda party, claim: party.release(claim),
    "bury": lambda party, claim: party.bury(claim, b'{"reason":"stale"}', b'"stale"'),
}


class StoreHarness(ABC):
    """One store under test, and everything a test opened on it."""

    lease = 2.0  # seconds
    slack = 5.0  # seconds that a busy machine may add to anything

    def __init__(self) -> None:
        self.messages: dict[str, NewTask] = {}  # as first sent, for parties without a transport
        self._parties: list[Party] = []
        self._place = next(_serial)

    @property
    def agent(self) -> str:
        """The agent of this test alone."""
        return f"s{self._place}-echo"

    @property
    def inbox(self) -> str:
        """The inbox of this test alone."""
        return f"inbox.s{self._place}"

    @property
    def lapsed_within(self) -> float:
        """Seconds in which a lease that nobody renews is over, at the latest."""
        return self.lease * 4 / 3 + self.slack

    def ids(self, count: int) -> list[str]:
        """Return task ids of this test alone."""
        return [f"s{self._place}.{number}" for number in range(count)]

    @abstractmethod
    async def make(self, owner: str, *, lease: float | None, retention: float) -> Party:
        """Return a new party, its store and topics open."""

    async def party(
        self, owner: str, *, lease: float | None = None, endless: bool = False, retention: float = 3_600.0
    ) -> Party:
        """Return a party with the harness's lease, another, or one without an end; closed when the test ends."""
        party = await self.make(owner, lease=None if endless else lease or self.lease, retention=retention)
        self._parties.append(party)
        return party

    async def silence(self, party: Party) -> None:  # noqa: B027  most stores renew nothing by themselves
        """Let a party renew nothing any more, as if its process were frozen; for stores that renew by themselves."""

    async def lapse(self, party: Party, sweeper: Party, *task_ids: str) -> None:
        """Silence a party, and sweep until its leases on these tasks are over."""
        await self.silence(party)

        async def is_over() -> bool:
            await sweeper.store.sweep([sweeper.topic])
            return all([await sweeper.state(task_id) is not State.LEASED for task_id in task_ids])

        assert await until(is_over, within=self.lapsed_within)

    @abstractmethod
    async def wipe(self) -> None:
        """Make the server forget everything."""

    async def close(self) -> None:
        """Close all that was opened."""
        for party in reversed(self._parties):
            await party.store.close()
            if party.transport is not None:
                await party.transport.close(grace=1.0)


def is_over(grant: Grant | None, state: State, result: bytes) -> bool:
    """Whether an offer said that a task ended like this, or that there is nothing to run."""
    return grant is None or (isinstance(grant, Finished) and (grant.state, grant.result) == (state, result))


def _made_up(task: NewTask) -> Delivery:
    return Delivery(task.topic, task.body, task.headers, task.task_id, 1, None)
