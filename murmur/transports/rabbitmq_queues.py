"""The queues that stand in RabbitMQ for topics: their names and arguments, decided by the name alone.

Whoever finds a queue missing makes it, publisher, worker or reader, so all must make the same one.
All are quorum queues: what is confirmed is on disk, on a majority of the nodes. Delays are queues
that nobody reads, whose messages move on when their time is over; there are four to an octave.
"""

from typing import Any, Final

from pamqp import commands

LONGEST_DELAY: Final = 2_000_000.0  # seconds, 23 days: RabbitMQ counts milliseconds in 32 bits
DELAY_MARGIN: Final = 120.0  # seconds a delay queue outlives the last message it may hold
_INBOX_KEPT: Final = 3_600_000  # ms that an inbox nobody reads is kept
_HOLD_KEPT: Final = 600_000
_HELD_FOR: Final = 1_000  # ms until a held message whose holder is gone goes back
_NEVER: Final = 1_000_000  # deliveries: we count ourselves, and RabbitMQ 4 drops a message after 20
_LONG: Final = 31_536_000_000  # ms, a year: how long a delivery may go without an ack, where a queue may say so


def declaration(name: str, *, prefix: str) -> commands.Queue.Declare:
    """Return the method that makes a queue, or does nothing where it is. `prefix`: what a namespace puts before it."""
    arguments: dict[str, Any] = {"x-queue-type": "quorum", "x-delivery-limit": _NEVER}
    topic, is_delay, milliseconds = name.partition(".delay.")
    holder, is_hold, _ = name.partition(".hold.")
    if name.startswith(f"{prefix}inbox."):
        arguments["x-expires"] = _INBOX_KEPT
    elif is_delay:
        arguments |= _moving_on(topic, int(milliseconds), int(milliseconds) + round(DELAY_MARGIN * 1000))
    elif is_hold:
        arguments |= _moving_on(holder, _HELD_FOR, _HOLD_KEPT)
    else:
        arguments["x-consumer-timeout"] = _LONG
    return commands.Queue.Declare(queue=name, durable=True, arguments=arguments)


def delayed(topic: str, delay: float) -> str:
    """Return the queue in which a message for `topic` waits at least so many seconds, and at most a quarter longer."""
    milliseconds = max(1, -(-round(delay * 1_000_000) // 1000))
    step = 1 << max(0, (milliseconds - 1).bit_length() - 3)
    return f"{topic}.delay.{-(-milliseconds // step) * step}"


def held(topic: str, boot: str) -> str:
    """Return the queue in which one boot of a consumer keeps what takes longer than RabbitMQ allows."""
    return f"{topic}.hold.{boot}"


def _moving_on(topic: str, after: int, kept: int) -> dict[str, Any]:
    return {
        "x-message-ttl": after,
        "x-expires": kept,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": topic,
        "x-dead-letter-strategy": "at-least-once",  # else one that cannot move on at once is dropped
        "x-overflow": "reject-publish",  # which the strategy asks for
    }
