"""What an actor may know about the task it is receiving, and do in its name."""

import typing
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from murmur.codec import codec_for, returned_type
from murmur.publisher import Parent, Publisher

if TYPE_CHECKING:
    from loguru import Logger

T = TypeVar("T")


class Journal(Protocol):
    """Records steps of one task under its token. See `Store.record`."""

    async def record(self, name: str, value: bytes) -> bytes:
        """Write a step once; return what stands there. Raises `LeaseLost` under an old token."""

    async def recorded(self, name: str) -> bytes | None:
        """Return what an earlier attempt, or this one, recorded; None if nobody did."""


class Context:
    """One task as its actor sees it. A new one for every attempt."""

    __slots__ = (
        "_journal",
        "_parent",
        "_publisher",
        "agent",
        "attempt",
        "batch_id",
        "deadline",
        "headers",
        "idempotency_key",
        "key",
        "task_id",
        "token",
    )

    def __init__(
        self,
        *,
        task_id: str,
        agent: str,
        batch_id: str | None,
        attempt: int,
        token: int,
        deadline: float | None,
        idempotency_key: str,
        headers: Mapping[str, str],
        journal: Journal,
        publisher: Publisher,
        parent: Parent,
        key: str | None = None,
    ) -> None:
        self.task_id = task_id
        self.agent = agent
        self.batch_id = batch_id
        self.attempt = attempt  # 1-based
        self.token = token  # rises with every start of this task; give it to receivers that can compare it
        self.deadline = deadline  # UTC seconds, None: none
        self.idempotency_key = idempotency_key
        self.key = key  # the name of the actor, of one that has a name
        self.headers = headers
        self._journal = journal
        self._publisher = publisher
        self._parent = parent

    @property
    def runtime(self) -> Any:
        """An `AgentRuntime` over the same broker: what it publishes are children of this task."""
        return self._publisher.speaking_for(self._parent)

    @property
    def log(self) -> "Logger":
        """A logger that knows the task, its agent and the attempt."""
        from loguru import logger  # noqa: PLC0415  costs 100 ms to import; most tasks never log

        return logger.bind(task_id=self.task_id, agent=self.agent, attempt=self.attempt)

    async def once(self, name: str, fn: Callable[[], Awaitable[T]]) -> T:
        """Run `fn` once per task and journal what it returned; later attempts get that instead of running it.

        What `fn` returns must have a JSON form; annotate its return type to get the same type back.
        A crash between `fn`'s end and the journal's write runs it again: at least once, and mostly once.
        Raises `LeaseLost` if another worker has overtaken this attempt.
        """
        codec = codec_for(returned_type(fn))
        written = await self._journal.recorded(name)
        if written is None:
            written = await self._journal.record(name, codec.encode(await fn()))
        return typing.cast(T, codec.decode(written))
