"""The control plane port: small messages for whoever listens now, beside the tasks.

Heartbeats, commands to nodes and events go this way. Broadcast, best effort: each listener gets a copy
of what is published while it listens, nothing is kept for later, and nothing here may carry what must not be
lost. Adapters stand in `murmur.events`; which one serves a broker is said in `murmur.wiring`.
"""

from collections.abc import AsyncIterator
from typing import Protocol


class ControlPlane(Protocol):
    """One object per process and broker. Belongs to the loop that opened it. Topics are without namespace."""

    async def open(self) -> None:
        """Connect. Raises `BrokerUnreachable`, `BrokerRefused` within 10 s; may then be called again. Idempotent."""

    async def publish(self, topic: str, body: bytes) -> None:
        """Send to everybody who listens now. Raises `BrokerUnreachable`, `BrokerRefused` within 10 s; whoever heard it,
        heard it."""

    def subscribe(self, topic: str) -> AsyncIterator[bytes]:
        """Return what is published from now on; to be called after `open`.

        Listening begins within moments, comes back by itself after the broker was away, and ends with the iterator or
        with `close`. A listener that is too slow loses the oldest. Cancelling a wait loses nothing.
        """

    async def close(self) -> None:
        """End every subscription and disconnect, within 10 s. Idempotent."""
