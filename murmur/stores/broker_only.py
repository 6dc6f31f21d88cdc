"""No coordination store: what `murmur.broker_queue` stands on where there is nothing but the broker.

It keeps no rows and grants whatever is delivered, its counters as the message tells them. What a store would tell to
all, who serves what and what is cancelled, is said on the control plane to whoever listens, and remembered for a while:
a task that was cancelled while it waited is known when it comes. Everything that has to be kept raises `NeedsStore`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, NoReturn

import msgspec
from loguru import logger
from msgspec import Raw

from murmur import presence, tally
from murmur.bell import Feed
from murmur.cancelling import cancelled
from murmur.control import ControlPlane
from murmur.doctor import Finding, Severity
from murmur.envelope import decode_result
from murmur.errors import BadEnvelope, NeedsStore, TaskCancelled
from murmur.limits import CANCELS_KEPT
from murmur.signing import Seal
from murmur.store import (
    Admission,
    Burial,
    Claim,
    Completion,
    Failure,
    Finished,
    Grant,
    GrantRequest,
    NewTask,
    Row,
    State,
    Written,
)

CANCELS: Final = "cancels"  # control topic: JSON arrays of ResultMessages, as their publishers wrote them
NOTES: Final = "notes"  # control topic: `_Said`
_NAMED: Final = "Name one: --store redis://…"


class _Said(msgspec.Struct, omit_defaults=True):
    """A note under a key, for `ttl` seconds. Without a key: whoever has notes out, say them again."""

    key: str = ""
    value: bytes = b""
    ttl: float = 0.0


class BrokerOnlyStore:
    """The store port without a store. With a `seal`, a cancel counts only if it is signed."""

    keeps_rows: Final = False
    moves_messages: Final = False
    keeps_leases: Final = True  # the transport's, of its deliveries

    def __init__(
        self,
        control: ControlPlane,
        *,
        retention: float = 86_400.0,
        seal: Seal | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._control = control
        self._retention = retention
        self._seal = seal
        self._clock = clock
        self._cancelled: dict[str, tuple[float, bytes]] = {}  # task id → until when it is remembered, its result
        self._notes: dict[str, tuple[float, bytes]] = {}  # key → until when it holds, its value
        self._mine: dict[str, tuple[float, _Said]] = {}  # what was put here, to be said again
        self._feeds: list[Feed[str]] = []
        self._hearing: list[asyncio.Task[None]] = []
        self._token = 0

    async def open(self, *, owner: str, lease: float | None) -> None:  # noqa: ARG002  the transport leases
        """Listen, and ask who is there."""
        if self._hearing:
            return
        await self._control.open()
        for topic, hear in ((CANCELS, self._hear_cancels), (NOTES, self._hear_note)):
            self._hearing.append(asyncio.ensure_future(_heard(self._control.subscribe(topic), hear)))
        await self._control.publish(NOTES, msgspec.json.encode(_Said()))

    async def admit(self, tasks: Sequence[NewTask]) -> Sequence[Admission]:
        """Every task is new to who keeps nothing, but those that are cancelled."""
        return [self._admitted(task.task_id) for task in tasks]

    def granted(self, requests: Sequence[GrantRequest]) -> None:
        """No claim comes with a delivery here."""

    async def grant(self, requests: Sequence[GrantRequest]) -> Sequence[Grant]:
        """Whoever has the delivery may run it, unless it is known to be cancelled."""
        return [self._granted(request) for request in requests]

    async def renew(self, claims: Sequence[Claim]) -> Sequence[bool]:
        """The transport renews."""
        return [True] * len(claims)

    async def complete(self, completions: Sequence[Completion]) -> Sequence[Written]:
        """Nothing to write: the result goes to the inbox."""
        return [Written.STORED] * len(completions)

    async def fail(self, failures: Sequence[Failure]) -> Sequence[Written]:
        """Nothing to write: the counters go with the message."""
        return [Written.STORED] * len(failures)

    async def release(self, claims: Sequence[Claim], *, delay: float = 0.0) -> Sequence[Written]:  # noqa: ARG002
        """Nothing to write: the message is given back."""
        return [Written.STORED] * len(claims)

    async def bury(self, burials: Sequence[Burial]) -> Sequence[Written]:
        """Nothing to write: the letter goes to the broker."""
        return [Written.STORED] * len(burials)

    async def sweep(self, topics: Sequence[str]) -> None:
        """Leases and delays are the broker's."""

    async def cancel(self, results: Mapping[str, bytes]) -> Mapping[str, State]:
        """Tell all who listen now. Raises `BrokerUnreachable`, `BrokerRefused`."""
        self._remember(results)
        await self._control.publish(CANCELS, msgspec.json.encode([Raw(result) for result in results.values()]))
        return dict.fromkeys(results, State.CANCELLED)

    def cancelled(self) -> AsyncIterator[str]:
        """Yield ids that anybody cancels from now on, whoever runs them; ends at `close`."""
        feed: Feed[str] = Feed()
        self._feeds.append(feed)
        return feed

    async def read(self, task_ids: Sequence[str]) -> Sequence[Row | None]:
        """Return what is known: which are cancelled."""
        return [self._row(task_id) for task_id in task_ids]

    async def dead_letters(self, agent: str, *, limit: int = 100) -> Sequence[bytes]:  # noqa: ARG002
        """None are here: they lie on the broker."""
        return ()

    async def forget_letters(self, agent: str, letters: Sequence[bytes]) -> int:  # noqa: ARG002
        """None are here."""
        return 0

    async def record(self, claim: Claim, name: str, value: bytes) -> bytes:  # noqa: ARG002
        """Raise `NeedsStore`."""
        _needs_store(f"context.once({name!r})")

    async def recorded(self, task_id: str, name: str) -> bytes | None:  # noqa: ARG002
        """Raise `NeedsStore`, before the step runs."""
        _needs_store(f"context.once({name!r})")

    async def swap(
        self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None = None
    ) -> NoReturn:
        """Raises `NeedsStore`."""
        del expected, value, ttl
        _needs_store(f"changing {key!r}")

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        """Say a note of presence. Raises `NeedsStore` for anything else."""
        if not key.startswith(presence.PREFIX):
            _needs_store(f"keeping {key!r}")
        said = _Said(key, value, self._retention if ttl is None else ttl)
        self._mine[key] = (self._clock() + said.ttl, said)
        await self._say(said)

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Raise `NeedsStore`."""
        _needs_store(f"keeping {', '.join(map(repr, keys))}")

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        """Return the notes that were heard and still hold. While there are none, ask for them."""
        now = self._clock()
        self._notes = {key: note for key, note in self._notes.items() if note[0] > now}
        found = {key: value for key, (_, value) in self._notes.items() if key.startswith(prefix)}
        if not found:
            await self._control.publish(NOTES, msgspec.json.encode(_Said()))
        return found

    async def delete(self, keys: Sequence[str]) -> None:
        """Take notes back."""
        for key in keys:
            if self._mine.pop(key, None) is not None:
                await self._say(_Said(key))

    async def close(self) -> None:
        """Stop listening."""
        hearing, self._hearing = self._hearing, []
        await cancelled(hearing)
        for feed in self._feeds:
            feed.close()
        self._feeds.clear()
        await self._control.close()

    # -- what is known ----------------------------------------------------------------------------

    def _admitted(self, task_id: str) -> Admission:
        result = self._cancel_of(task_id)
        return Admission(task_id, result is None, State.QUEUED if result is None else State.CANCELLED, result)

    def _granted(self, request: GrantRequest) -> Grant:
        result = self._cancel_of(request.task_id)
        if result is not None:
            return Finished(request.task_id, request.delivery, State.CANCELLED, result)
        # By the clock: nobody counts the grants of a task, and whoever compares tokens wants the later one greater.
        self._token = max(self._token + 1, time.time_ns() // 1_000)
        return tally.claim_of(request, token=self._token)

    def _row(self, task_id: str) -> Row | None:
        result = self._cancel_of(task_id)
        if result is None:
            return None
        return Row(task_id, "", State.CANCELLED, 0, 0, 0, 0, 0, None, result)

    def _cancel_of(self, task_id: str) -> bytes | None:
        until, result = self._cancelled.get(task_id, (0.0, None))
        return result if until > self._clock() else None

    def _remember(self, results: Mapping[str, bytes]) -> None:
        until = self._clock() + self._retention
        for task_id, result in results.items():
            if task_id not in self._cancelled:
                self._cancelled[task_id] = until, result
                for feed in self._feeds:
                    feed.give(task_id)
        while len(self._cancelled) > CANCELS_KEPT:
            del self._cancelled[next(iter(self._cancelled))]

    # -- what is heard ----------------------------------------------------------------------------

    async def _hear_cancels(self, body: bytes) -> None:
        for result in msgspec.json.decode(body, type=list[Raw]):
            encoded = bytes(result)
            message = decode_result(encoded if self._seal is None else self._seal.opened(encoded))
            if message.error_type == TaskCancelled.__name__:
                self._remember({message.task_id: encoded})

    async def _hear_note(self, body: bytes) -> None:
        said = msgspec.json.decode(body, type=_Said)
        now = self._clock()
        if said.key:
            self._notes[said.key] = now + said.ttl, said.value
            return
        for until, mine in list(self._mine.values()):
            if until > now:
                await self._say(msgspec.structs.replace(mine, ttl=until - now))

    async def _say(self, said: _Said) -> None:
        await self._control.publish(NOTES, msgspec.json.encode(said))


def findings() -> list[Finding]:
    """Return what does not hold without a coordination store, each with its invariant."""
    told = {
        "I2": "a result is sent to its publisher once more or less, and kept nowhere: two that differ are possible",
        "I5": "nothing fences: a worker that wakes late may still answer, and context.once is refused",
        "I6": "a task may run again after its result was sent",
        "I7": "an effect happens once only if its receiver takes the task's key, or with an idempotency hook",
        "I8": "the same task id published again runs again, unless the broker remembers it",
        "I13": "a named batch is refused: a publisher that dies takes its results with it",
        "I14": "no budget is kept",
        "I15": "a parent that is tried again spawns its children again",
    }
    return [Finding(Severity.BROKEN, number, f"no store: {what}", _NAMED) for number, what in told.items()]


async def _heard(messages: AsyncIterator[bytes], hear: Callable[[bytes], object]) -> None:
    """Hear for ever. What is no message of ours is told and left aside."""
    async for body in messages:
        try:
            await hear(body)  # type: ignore[misc]
        except (BadEnvelope, msgspec.MsgspecError) as error:
            logger.warning("a message on the control plane was left aside: {}", error)
        except ConnectionError as error:
            logger.info("a note could not be said: {}", error)


def _needs_store(what: str) -> NoReturn:
    raise NeedsStore(what=what)
