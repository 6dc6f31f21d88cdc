"""Messages to names that came by the agent's own topic, as programs in other languages send them.

They know nothing of shards. The worker that holds shard 0 alone reads `{agent}.tasks`, and passes on what bears a key,
in the order in which it came: as a child of the task, to the name's mailbox. The task waits, parked, for the child's
result, which is its own. Repeated, it meets the same child.
"""

import asyncio
from typing import Any, ClassVar

from attrs import evolve

from murmur.actor import Actor, Remote
from murmur.codec import codec_for
from murmur.worker.host import Host


class Door(Actor[Any, Any]):
    """Passes a message on to the name it is for."""

    turn: ClassVar[asyncio.Lock]  # of publishing: messages are passed on as they came

    async def receive(self, message: Any) -> Any:
        """Ask the name, and answer what it answers."""
        context = self.context
        async with self.turn:
            handle = await context.runtime.ref(Remote(context.agent), context.key).send(message)
        return (await handle.result()).unwrap()


def door_of(host: Host) -> Host:
    """Return the host of an agent's doors."""
    entry = evolve(host.entry, input=codec_for(Any), output=codec_for(Any))
    return Host(entry, type("Door", (Door,), {"turn": asyncio.Lock()}), host.redelivery, host.on_held)
