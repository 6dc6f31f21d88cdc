"""What a child gets beyond `ChildContext` when it runs in a process of its own, and what its other end is given."""

from collections.abc import Callable
from typing import Any

from attrs import field, frozen

from supervisors.channel import Channel
from supervisors.child import ChildContext
from supervisors.watchdog import Verdict


class Link:
    """One end of the bulk lane between a process child and its `ChildSpec.peer`: bytes, in order, against credit.

    Ends with the process: every call then raises ChannelClosed.
    """

    def __init__(self, channel: "Channel[Any]", pid: int) -> None:
        self.pid = pid  # of the process child, at either end
        self.verdict = Verdict.FRESH  # the watchdog's, at the peer's end; LATE: give it no new work now
        self._channel = channel

    async def send(self, payload: bytes) -> None:
        """Send when the other end has room for it. Cancelled, it was not sent."""
        await self._channel.send_bulk(payload)

    async def receive(self) -> bytes:
        """Wait for the next bytes. Cancelled, none is lost."""
        return await self._channel.receive_bulk()

    def take(self) -> list[bytes]:
        """Return the bytes that have arrived and wait for `receive`: the last words of a process that is dead."""
        return self._channel.take_bulk()


@frozen(kw_only=True)
class ProcessContext(ChildContext):
    """The context of a child with Isolation.PROCESS."""

    link: Link = field(repr=False)
    _done: Callable[[int], None] = field(alias="on_done", repr=False)

    def mark(self, note: str) -> None:
        """Say what is being done now, in at most 1 KiB. Costs about a microsecond: say it before each piece of work.

        Its supervisor reads it when this process has died or hangs: the `note` of the reason.
        """
        self._beat(note)

    def done(self, tasks: int = 1) -> None:
        """Say that so many tasks are done. After `Recycle.tasks` of them a fresh process takes over."""
        self._done(tasks)
