"""Named actors: what a name may be, which shard it belongs to, and how long an instance lives.

An actor class with `named = Named()` is addressed by name: one live instance per name in the fleet, one message at a
time, in the order of arrival. Names are hashed to a fixed number of shards, each a mailbox of its own
(`{agent}.{shard}.tasks`) that one worker at a time reads. Who that is, is settled in `murmur.worker.named_shards`.
"""

import zlib
from typing import Final

from attrs import field, frozen
from attrs.validators import ge, gt, instance_of

from murmur.errors import BadActorKey
from murmur.limits import MAX_ACTOR_KEY, SHARDS


@frozen
class Named:
    """How instances of a named actor live: let go `idle_after` seconds after their last message, and beyond `max_live`
    of them in one process, the one that has waited longest. Let go, a name comes back with its next message."""

    idle_after: float = field(default=300.0, validator=[instance_of((int, float)), gt(0)])
    max_live: int = field(default=10_000, validator=[instance_of(int), ge(1)])


_NONE: Final = "it must be a string"


def check_key(key: object) -> str:
    """Return `key` if an actor may be named so, else raise `BadActorKey`."""
    if not isinstance(key, str):
        raise BadActorKey(repr(key)[:MAX_ACTOR_KEY], _NONE)
    if not 1 <= len(key) <= MAX_ACTOR_KEY:
        raise BadActorKey(repr(key[:MAX_ACTOR_KEY]), f"it has {len(key):,} characters")
    if not key.isprintable():  # nor is a lone surrogate, which has no bytes
        raise BadActorKey(repr(key), "it has characters that cannot be shown")
    if key.isspace():
        raise BadActorKey(repr(key), "it has nothing but spaces")
    return key


def shard_of(key: str) -> int:
    """Return the shard of a name, 0 to `SHARDS` - 1; the same in every process."""
    return zlib.crc32(key.encode()) % SHARDS


def mailbox_of(agent: str, shard: int) -> str:
    """Return the mailbox of one shard of an agent: what stands before `.tasks` in its topic."""
    return f"{agent}.{shard}"


def mailbox_for(agent: str, key: str | None) -> str:
    """Return the mailbox of a name; of the agent itself, where there is none."""
    return agent if key is None else mailbox_of(agent, shard_of(key))


def mailboxes_of(agent: str) -> tuple[str, ...]:
    """Return the mailboxes of all shards of an agent."""
    return tuple(mailbox_of(agent, shard) for shard in range(SHARDS))
