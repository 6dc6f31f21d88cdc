"""What a second delivery of the same work means: the idempotency hook of a worker, and two that are ready to use.

`Worker(idempotency=hook)`: before user code runs, the worker claims the key of its task; the output is kept
under the key before the result is written. Whoever brings the same work again, under whatever task id, a dead
letter that is replayed for instance, gets that output and nothing runs. The key is
`{namespace}/{agent}/{idempotency_key}`, by default the task's own id.

An effect outside is exactly once only where it commits together with the record, or where its receiver takes
`context.idempotency_key` or `context.token`: docs/how-to/idempotency.md.
"""

from typing import Protocol

from attrs import frozen


@frozen(order=False)
class Token:
    """Who claims: an attempt at a task. A later attempt of the same task overtakes an earlier one at once."""

    task_id: str
    number: int  # the fencing token of the attempt

    def overtakes(self, other: "Token") -> bool:
        """Whether this is a later attempt at the same task, or the same one again."""
        return self.task_id == other.task_id and self.number >= other.number


@frozen
class Run:
    """The work is ours to do, until the lease lapses."""


@frozen
class Duplicate:
    """It was done: this is its output, as JSON."""

    output: bytes


@frozen
class Busy:
    """Somebody is doing it."""

    retry_after: float  # seconds


@frozen
class Conflict:
    """The key belongs to another input."""


@frozen
class Stored:
    """The output is kept."""


@frozen
class Stale:
    """Somebody else has the key now: nothing was changed."""


Claimed = Run | Duplicate | Busy | Conflict
Kept = Stored | Duplicate | Stale


class IdempotencyHook(Protocol):
    """Keeps who does what work, and its output. Every verb is one atomic step, and may be repeated.

    A verb may raise whatever its store raises: a claim is then tried again later, an output until it is kept.
    Each call gets ten seconds.
    """

    async def claim(self, key: str, token: Token, digest: str, lease: float) -> Claimed:
        """Take a key for `lease` seconds, if nobody has it and nobody finished it. `digest` is the input's."""

    async def renew(self, key: str, token: Token, lease: float) -> bool:
        """Hold the key for `lease` seconds from now. False: it is no longer ours."""

    async def complete(self, key: str, token: Token, output: bytes) -> Kept:
        """Keep the output. `Duplicate` tells one that was kept before, which then counts."""

    async def abandon(self, key: str, token: Token) -> None:
        """Let the key go: the attempt ended without an output."""

    async def close(self) -> None:
        """Let go of connections. The worker calls it when it has stopped."""
