"""Names of what runs: a name outlives its bearer, who is found under it again after a restart.

A child enters itself for as long as a block lasts; however the block ends, the entry is gone. So
nothing has to watch for deaths, and a crash leaves no stale entry behind.
"""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from anyio import Event

from supervisors.errors import AlreadyRegistered

V = TypeVar("V")


class Registry(Generic[V]):
    """What is registered under which name. `unique`: one value a name; else any number of them.

    async def cart(ctx: ChildContext, number: int) -> None:
        mailbox = Mailbox[str](capacity=100)
        with carts.register(number, mailbox):
            ctx.ready()
            ...
    """

    def __init__(self, *, unique: bool = True) -> None:
        self._is_unique = unique
        self._entries: dict[Hashable, list[V]] = {}
        self._waiting: dict[Hashable, Event] = {}

    @contextmanager
    def register(self, name: Hashable, value: V) -> Iterator[None]:
        """Stand under a name for as long as the block lasts. Raises AlreadyRegistered if it is taken and unique."""
        entries = self._entries.setdefault(name, [])
        if entries and self._is_unique:
            raise AlreadyRegistered(str(name))
        entries.append(value)
        if name in self._waiting:
            self._waiting.pop(name).set()
        try:
            yield
        finally:
            entries[:] = [entry for entry in entries if entry is not value]
            if not entries:
                self._entries.pop(name, None)

    def find(self, name: Hashable) -> V | None:
        """Return what stands under a name, the first of several; None if nothing does."""
        entries = self._entries.get(name)
        return entries[0] if entries else None

    def find_all(self, name: Hashable) -> tuple[V, ...]:
        """Return all that stand under a name, oldest first."""
        return tuple(self._entries.get(name, ()))

    async def wait(self, name: Hashable) -> V:
        """Return what stands under a name, as soon as something does: after a restart, too."""
        while (found := self.find(name)) is None:
            await self._waiting.setdefault(name, Event()).wait()
        return found

    def names(self) -> tuple[Hashable, ...]:
        """Return all names that are taken."""
        return tuple(self._entries)
