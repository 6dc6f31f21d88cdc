"""A named actor as its publishers see it: a name to ask and to tell, wherever in the fleet it lives.

In process an ask goes straight to the actor; over a broker it is a task like any other, in the mailbox of the
name's shard. A ref owns nothing: making one is free, and starts nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen

from murmur.codec import Misfit
from murmur.errors import InputError, NeedsStore, NotNamed, OutputError, PayloadTooLarge
from murmur.limits import MAX_ENVELOPE
from murmur.named import check_key
from murmur.publisher import Parent
from murmur.registry import AgentEntry
from murmur.runtime.handle import Handle
from murmur.store import Store
from murmur.task import AgentResult
from murmur.worker.named import Names

In = TypeVar("In")
Out = TypeVar("Out")


@define
class Gate:
    """Lets those through who ask before a name's home is open, one after another, in the order they came."""

    waiting: int = 0
    lock: asyncio.Lock = field(factory=asyncio.Lock)


@frozen
class Office:
    """What a runtime lends its refs."""

    gate: Gate
    parent: Parent | None  # the task it speaks for
    names: Callable[[AgentEntry], Names | None]  # of this process, where those are all there are, and open
    open: Callable[[AgentEntry, str], Awaitable[object]]
    ask: Callable[[AgentEntry, str, object, float | None], Awaitable[AgentResult[Any]]]
    submit: Callable[[AgentEntry, object, str], Awaitable[Handle[Any]]]


class Ref(Generic[In, Out]):
    """One name of an agent. `ask` and `tell` reach it in the order in which they are called."""

    __slots__ = ("_address", "_entry", "_names", "_office", "key")

    def __init__(self, office: Office, entry: AgentEntry, key: str) -> None:
        if entry.actor is not None and entry.actor.named is None:
            raise NotNamed(entry.name)
        self.key = check_key(key)
        self._office = office
        self._entry = entry
        self._address = (entry.name, key)
        self._names: Names | None = None  # of this process, once they were found

    async def ask(self, message: In, *, timeout: float | None = None) -> Out:
        """Return what the actor answers; raise what its answer says, `GaveUp` after `timeout` seconds.

        Inside an actor it waits like a gather: its slot is free for others meanwhile.
        """
        office, names = self._office, self._names
        if names is None or names.is_closed or office.gate.waiting:
            names = await self._home()
        if names is None or timeout is not None or office.parent is not None:
            return await self._asked(names, message, timeout)
        letter = names.asked(self._address, self._encoded(message))
        try:
            answer = await letter.reply
        except asyncio.CancelledError:
            names.abandon(letter)
            raise
        return self._decoded(answer)

    async def tell(self, message: In) -> None:
        """Send a message and wait for no answer: return once the broker has it. Raises `SpawnError`, `InputError`."""
        names = await self._home()
        if names is None:
            await self.send(message)
        else:
            letter = names.asked(self._address, self._encoded(message))
            letter.reply.add_done_callback(_unasked)

    async def send(self, message: In) -> Handle[Out]:
        """Publish a message over the broker; return its handle once that has it. Raises `SpawnError`, `InputError`."""
        return await self._office.submit(self._entry, message, self.key)

    def __repr__(self) -> str:
        return f"Ref({self._entry.name!r}, {self.key!r})"

    async def _home(self) -> Names | None:
        """Return the names of this process, open; None where they live in the fleet. Whoever asks first, goes first."""
        office, gate = self._office, self._office.gate
        if (names := office.names(self._entry)) is not None and not gate.waiting:
            self._names = names
            return names
        gate.waiting += 1
        try:
            async with gate.lock:
                if (names := office.names(self._entry)) is None:
                    await office.open(self._entry, self.key)
                    names = office.names(self._entry)
        finally:
            gate.waiting -= 1
        self._names = names
        return names

    async def _asked(self, names: Names | None, message: In, timeout: float | None) -> Out:
        office, entry = self._office, self._entry
        async with nullcontext() if office.parent is None else office.parent.parking.parked():
            if names is None:
                return (await office.ask(entry, self.key, message, timeout)).unwrap()  # type: ignore[no-any-return]
            return self._decoded(await names.ask(entry.name, self.key, self._encoded(message), timeout=timeout))

    def _decoded(self, answer: bytes) -> Out:
        entry = self._entry
        try:
            return entry.output.decode(answer)  # type: ignore[no-any-return]
        except Misfit as misfit:
            raise OutputError(entry.name, "", entry.output.type_name, misfit.problems) from misfit

    def _encoded(self, message: In) -> bytes:
        entry = self._entry
        try:
            body = entry.input.encode_checked(message)
        except Misfit as misfit:
            raise InputError(entry.name, entry.input.type_name, misfit.problems) from misfit
        if len(body) > MAX_ENVELOPE:
            raise PayloadTooLarge(f"a message to {entry.name}", len(body), MAX_ENVELOPE)
        return body


def _unasked(reply: asyncio.Future[bytes]) -> None:
    """What a told message ended in stands in the log, if it was an error."""
    if not reply.cancelled():
        reply.exception()


def check_store(store: Store, agent: str, key: str | None) -> None:
    """Raise `NeedsStore` where a name is asked for and nothing could keep its state."""
    if key is not None and not store.keeps_rows:
        raise NeedsStore(what=f"asking {agent} by name")
