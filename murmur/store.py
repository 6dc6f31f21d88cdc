"""The coordination store port: one row per task, every transition atomic and guarded.

The rows are the truth about tasks; messages only carry them around and results only ring a
bell. A grant hands out a token that rises with every grant of the task; completing, failing,
renewing, releasing and burying hold only while the row is LEASED under that very token.
Terminal states are never left. Source: docs/explanation/guarantees.md, "Protocol".

A store may live in the broker that also carries the messages. Then `moves_messages` is
true: `admit` enqueues, and `complete`, `fail`, `release`, `bury`, `cancel` settle the delivery
and ring the publisher's inbox in the same atomic step, and nobody repeats it. Everywhere
else `murmur.task_queue` does these steps, in the order the protocol wants.
"""

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from attrs import frozen
from msgspec import Struct

from murmur.envelope import ErrorNote, Stowed
from murmur.transport import Delivery


class State(enum.Enum):
    """Where a task stands. The first two move on; the others are terminal."""

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"  # with a result, success or error
    DEAD = "dead"  # given up: a dead letter and an error result
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Whether this state is never left."""
        return self not in (State.QUEUED, State.LEASED)


class NewTask(Struct, frozen=True):
    """A task to admit: its encoded TaskMessage and what the row must know of it."""

    task_id: str
    agent: str
    topic: str
    body: bytes
    reply_to: str | None = None
    headers: Mapping[str, str] = {}
    keep: bool = False  # part of a named batch: a bounded store must not forget it before the retention
    stowed: Stowed | None = None  # where its input lies, if that is too large for the body
    payload: bytes | None = None  # that input, for whoever submits it
    is_new: bool = False  # nobody else knows its id, and who submits it comes back for it: its row may wait for a grant


class Admission(Struct, frozen=True):
    """The answer to one admit. `fresh`: the row is new. Else it stands as it was, with its result if it has one."""

    task_id: str
    fresh: bool
    state: State
    result: bytes | None = None
    mark: str = ""  # of a fresh row: makes its first grant cheaper, if the request says it


class GrantRequest(Struct, frozen=True):
    """A delivery whose task may start, with what its envelope says."""

    delivery: Delivery
    task_id: str
    agent: str
    reply_to: str | None
    mark: str = ""  # see `Admission`; the row decides, whatever it says


class Claim(Struct, frozen=True, eq=False):
    """The right to run a task now. Whoever holds a later token of the task has overtaken this one."""

    task_id: str
    token: int  # 1 = first grant; rises with every grant
    delivery: Delivery
    reply_to: str | None
    attempts: int = 1  # grants so far, this one included
    failures: int = 0
    crashes: int = 0
    lapses: int = 0  # leases in a row that ran out
    errors: Sequence[ErrorNote] = ()


class Finished(Struct, frozen=True, eq=False):
    """The task of a delivery ended already: answer with `result` again if there is one, and settle."""

    task_id: str
    delivery: Delivery
    state: State
    result: bytes | None


class Busy(Struct, frozen=True, eq=False):
    """Somebody holds a valid lease on the task: give the delivery back for later."""

    task_id: str
    delivery: Delivery
    retry_after: float  # seconds


Grant = Claim | Finished | Busy


class Completion(Struct, frozen=True, eq=False):
    """A terminal result to write under a claim; `result` is the encoded ResultMessage."""

    claim: Claim
    result: bytes
    state: State = State.DONE


class Failure(Struct, frozen=True, eq=False):
    """An attempt that failed and may be tried again, not before `delay` seconds from now."""

    claim: Claim
    delay: float
    error: ErrorNote
    crashed: bool = False  # its process died of it: counts as a crash, not as a failure
    is_suspect: bool = False  # its process died of it or of another: counts as neither, and `error` says so

    @property
    def is_failure(self) -> bool:
        """Whether it counts as a failure."""
        return not (self.crashed or self.is_suspect)


class Burial(Struct, frozen=True, eq=False):
    """A task given up: its dead letter and its error result, both encoded."""

    claim: Claim
    reason: str
    letter: bytes
    result: bytes


class Written(enum.Enum):
    """What became of a guarded write."""

    STORED = "stored"
    REPEATED = "repeated"  # the same write under the same token was there already
    STALE = "stale"  # the token is no longer the valid one: nothing was changed


@frozen
class Row:
    """A task's row as it stands now, for those who ask."""

    task_id: str
    agent: str
    state: State
    token: int
    attempts: int
    failures: int
    crashes: int
    lapses: int
    owner: str | None  # who holds the lease
    result: bytes | None
    errors: Sequence[ErrorNote] = ()


class Store(Protocol):
    """Verbs take many tasks at once and answer in order. Every call ends within 10 s; raises `OutcomeUnknown`
    when it broke off, and may then be repeated: all verbs are idempotent under the same token."""

    @property
    def moves_messages(self) -> bool:
        """Whether rows and messages change in one atomic step here (see the module's text)."""

    @property
    def keeps_leases(self) -> bool:
        """Whether this store renews by itself what it granted, until it is settled."""

    @property
    def keeps_rows(self) -> bool:
        """Whether there are rows at all. Without them (`murmur.stores.broker_only`) a task is its message: nobody can
        be asked what became of it, and what has to be kept raises `NeedsStore`."""

    async def open(self, *, owner: str, lease: float | None) -> None:
        """Connect. `owner` stands in the rows it leases; `lease` in seconds, None: never lapses."""

    async def admit(self, tasks: Sequence[NewTask]) -> Sequence[Admission]:
        """Make a QUEUED row for each task that has none; that of one that `is_new` may be left to its first grant."""

    def granted(self, requests: Sequence[GrantRequest]) -> Sequence[Claim] | None:
        """Return the claims that came with the deliveries, if all did: then nobody need be asked. Else None."""

    async def grant(self, requests: Sequence[GrantRequest]) -> Sequence[Grant]:
        """QUEUED → LEASED with token + 1 and attempts + 1, stored before this returns. A row that is LEASED but lapsed
        is granted too (lapses + 1). A task without a row, published by a stranger, is admitted on the way."""

    async def renew(self, claims: Sequence[Claim]) -> Sequence[bool]:
        """Lengthen the leases to one lease from now. False: no longer ours."""

    async def complete(self, completions: Sequence[Completion]) -> Sequence[Written]:
        """LEASED → terminal with its result, written once. A row that is gone (lost by the server) is written anew."""

    async def fail(self, failures: Sequence[Failure]) -> Sequence[Written]:
        """LEASED → QUEUED, failures (or crashes) + 1, lapses back to 0."""

    async def release(self, claims: Sequence[Claim], *, delay: float = 0.0) -> Sequence[Written]:
        """LEASED → QUEUED, nothing counted."""

    async def bury(self, burials: Sequence[Burial]) -> Sequence[Written]:
        """LEASED → DEAD with dead letter and result; one letter per task, whatever is repeated."""

    async def sweep(self, topics: Sequence[str]) -> float | None:
        """Requeue every task of these topics whose lease lapsed and every delayed one that is due. Returns the seconds
        until the next delayed one is due, None if there is none."""

    async def cancel(self, results: Mapping[str, bytes]) -> Mapping[str, State]:
        """QUEUED or LEASED → CANCELLED with the given encoded result per task id; returns the state each row has now.
        Who runs it hears of it through `cancelled`. Unknown ids are left out of the answer."""

    def cancelled(self) -> AsyncIterator[str]:
        """Yield ids of tasks that were cancelled while somebody may be running them, within two seconds."""

    async def read(self, task_ids: Sequence[str]) -> Sequence[Row | None]:
        """Return the rows as they stand; None where there is none."""

    async def dead_letters(self, agent: str, *, limit: int = 100) -> Sequence[bytes]:
        """Return the newest encoded dead letters of an agent, newest first."""

    async def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:
        """Forget dead letters, given as `dead_letters` returned them; return how many there were."""

    async def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        """Journal a step of a task once and return what stands there: `value`, or what an earlier attempt wrote.
        Raises `LeaseLost` under an old token."""

    async def recorded(self, task_id: str, name: str) -> bytes | None:
        """Return the journalled value of a step, None if no attempt got that far."""

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Keep a value under a key (presence, manifests), for `ttl` seconds or the retention."""

    async def swap(
        self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None = None
    ) -> bytes | None:
        """Keep `value` (None: forget the key) if `expected` stands there (None: nothing); return what stands there now.

        It is done if, and only if, the answer is `value`, which also a repeat gets; so values that are to be told
        apart have to differ. Kept for `ttl` seconds from now; None: until it is swapped again, whatever the retention.
        """

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return the values under the keys; None where there is none."""

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        """Return everything kept under keys that begin with `prefix`; for small sets such as presence."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget keys; unknown ones are fine."""

    async def close(self) -> None:
        """Disconnect. Idempotent."""
