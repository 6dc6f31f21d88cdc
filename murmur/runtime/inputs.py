"""Inputs to tasks: any iterable, also async, also lazy; read no further than there is room."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sized
from typing import Any, Final

from attrs import frozen
from msgspec import Raw

from murmur import stowage
from murmur.codec import Misfit
from murmur.envelope import VERSION, TaskMessage, encode
from murmur.errors import BadSetting, DuplicateTaskId, InputError, PayloadTooLarge, SpawnLimit
from murmur.ids import check_task_id, task_id_in_batch
from murmur.limits import MAX_CHILDREN
from murmur.publisher import Parent
from murmur.registry import AgentEntry
from murmur.runtime.manifest import digest_of
from murmur.store import NewTask
from murmur.task import TaskSpec
from murmur.task_queue import TaskQueue

_END: Final = object()


@frozen
class Prepared:
    """A task ready to publish, with its digest for a manifest."""

    task: NewTask
    digest: bytes


@frozen
class Stamp:
    """What all tasks of one batch have in common."""

    entry: AgentEntry
    batch_id: str
    is_repeatable: bool  # a rerun must make the same ids
    keep: bool
    topic: str
    reply_to: str
    expires_at: float | None  # UTC seconds
    slot_timeout: float | None  # seconds from publishing, after which nobody waits
    queue: TaskQueue  # says how large an envelope may be, and stows what is larger
    parent: Parent | None
    key: str | None = None  # of a named actor

    def prepare(self, index: int, item: object) -> Prepared:
        """Return the task for one input. Raises `InputError`, `PayloadTooLarge`, `NeedsStore`, `SpawnLimit`."""
        if self.parent is not None and index >= MAX_CHILDREN:
            raise SpawnLimit(f"task {index} of one gather inside {self.parent.task_id}", MAX_CHILDREN)
        spec = item if isinstance(item, TaskSpec) else None
        value = item if spec is None else spec.input
        if spec is None or (self.is_repeatable and spec.given_id is None):
            task_id = task_id_in_batch(self.batch_id, index)
        else:
            task_id = spec.id
        try:
            body = self.entry.input.encode_checked(value)
        except Misfit as misfit:
            raise InputError(
                agent=self.entry.name, expected=self.entry.input.type_name, problems=misfit.problems
            ) from misfit
        message = self._message(task_id, body, spec)
        envelope = encode(message)
        stowed = payload = None
        if len(envelope) > self.queue.inline:
            what = f"the input of task {index} for {self.entry.name}"
            message.stowed = stowed = stowage.reference(self.queue.store, what, task_id, body)
            message.input, payload = Raw(b"null"), body
            envelope = encode(message)
            if len(envelope) > self.queue.inline:  # not for its input
                what = f"the envelope of task {index} for {self.entry.name}, its input aside,"
                raise PayloadTooLarge(what, len(envelope), self.queue.inline)
        task = NewTask(
            task_id=task_id,
            agent=self.entry.name,
            topic=self.topic,
            body=envelope,
            reply_to=self.reply_to,
            keep=self.keep,
            stowed=stowed,
            payload=payload,
            is_new=not self.is_repeatable and self.key is None and (spec is None or spec.given_id is None),
        )
        return Prepared(task, digest_of(self.entry.name, task_id, body) if self.keep else b"")

    def _message(self, task_id: str, body: bytes, spec: TaskSpec[Any] | None) -> TaskMessage:
        now = time.time()
        message = TaskMessage(
            v=VERSION,
            task_id=task_id,
            batch_id=self.batch_id,
            agent=self.entry.name,
            key=self.key,
            input=Raw(body),
            reply_to=self.reply_to,
            deadline=self.expires_at if self.slot_timeout is None else now + self.slot_timeout,
            sent_at=now,
        )
        if spec is not None:
            message.idempotency_key = spec.idempotency_key
            message.timeout = spec.timeout
            message.headers = spec.headers
            message.priority = spec.priority
        if self.parent is not None:
            message.parent_id = self.parent.task_id
            message.root_id = self.parent.root_id
            message.depth = self.parent.depth + 1
        return message


class Inputs:
    """Reads tasks one by one. `ended` once there are no more."""

    def __init__(self, tasks: Iterable[object] | AsyncIterable[object]) -> None:
        self.ended = False
        self.count = 0  # read so far
        self._sync: Iterator[object] | None = None
        self._async: AsyncIterator[object] | None = None
        self._next: asyncio.Task[object] | None = None
        self.total: int | None = None
        if isinstance(tasks, AsyncIterable):
            self._async = aiter(tasks)
        elif isinstance(tasks, Iterable) and not isinstance(tasks, str | bytes):
            _refuse_duplicates(tasks)
            self.total = len(tasks) if isinstance(tasks, Sized) else None
            self._sync = iter(tasks)
        else:
            raise TypeError(f"tasks must be an iterable of inputs or TaskSpecs, got {type(tasks).__name__}")

    def take(self, most: int, waker: asyncio.Event) -> list[object]:
        """Return up to `most` inputs that are there now; an async source rings `waker` when it has one."""
        if self.ended or most <= 0:
            return []
        items = self._take_sync(most) if self._sync is not None else self._take_async(waker)
        self.count += len(items)
        return items

    def close(self) -> None:
        """Read no more."""
        self.ended = True
        if self._next is not None:
            self._next.cancel()

    def _take_sync(self, most: int) -> list[object]:
        items = []
        assert self._sync is not None
        for _ in range(most):
            item = next(self._sync, _END)
            if item is _END:
                self.ended = True
                break
            items.append(item)
        return items

    def _take_async(self, waker: asyncio.Event) -> list[object]:
        assert self._async is not None
        if self._next is None:
            self._next = asyncio.ensure_future(anext(self._async, _END))
            self._next.add_done_callback(lambda _: waker.set())
            return []
        if not self._next.done():
            return []
        done, self._next = self._next, None
        item = done.result()
        if item is _END:
            self.ended = True
            return []
        waker.set()  # come back for the next one
        return [item]


def _refuse_duplicates(tasks: object) -> None:
    """Raise `DuplicateTaskId` for a collection in which two specs bear one id; lazy ones are met as they come."""
    if not isinstance(tasks, list | tuple):
        return
    first_at: dict[str, int] = {}
    for index, item in enumerate(tasks):
        if isinstance(item, TaskSpec):
            first = first_at.setdefault(item.id, index)
            if first != index:
                raise DuplicateTaskId(item.id, first, index)


def check_terms(*, max_concurrency: object, timeout: object, deadline: object, batch_id: str | None) -> None:
    """Raise `BadSetting`, `BadTaskId` for what a batch cannot be told."""
    if not isinstance(max_concurrency, int) or isinstance(max_concurrency, bool) or max_concurrency < 1:
        raise BadSetting(name="max_concurrency", value=repr(max_concurrency), expected="a whole number of at least 1")
    for name, value in (("timeout", timeout), ("deadline", deadline)):
        if value is not None and (not isinstance(value, int | float) or value <= 0):
            raise BadSetting(name=name, value=repr(value), expected="seconds, more than 0, or None")
    if batch_id is not None:
        check_task_id(batch_id)
