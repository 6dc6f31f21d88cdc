"""Messages of the Redis transport's tests, and receiving them."""

from murmur.transport import Delivery, Outgoing, TopicSpec
from murmur.transports.redis import RedisTransport
from tests.contracts.harness import until

TOPIC = "echo.tasks"
SPEC = TopicSpec(TOPIC, lease=30.0, dead_topic="echo.dead")


def messages(count: int, *, topic: str = TOPIC, start: int = 0) -> list[Outgoing]:
    """Return messages whose ids are numbers from `start` on."""
    return [Outgoing(topic, b"%d" % number, str(number)) for number in range(start, start + count)]


async def received(transport: RedisTransport, count: int, *, within: float = 60.0) -> list[Delivery]:
    """Receive so many; they stay held."""
    found: list[Delivery] = []

    async def all_came() -> bool:
        room = count - len(found)
        found.extend(await transport.receive("workers", {TOPIC: room}, credit=room, wait=0.2))
        return len(found) == count

    assert await until(all_came, within=within), f"{len(found)} of {count}"
    return found
