"""Inside a worker process: the same crew as in a worker without processes, over the link to its node.

To the crew, and to the publisher that actors speak through, the node is a task queue like any other.
"""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any, Final, cast

import attrs
from loguru import logger
from msgspec.structs import replace

from murmur import errors, wiring
from murmur.bell import Feed
from murmur.envelope import ResultMessage, TaskMessage, decode_result, decode_task
from murmur.idempotency import Claimed, Kept, Token
from murmur.names import Topics
from murmur.policy import Redelivery
from murmur.redaction import LOGS_JSON, redacting
from murmur.registry import Registry, entry_of
from murmur.store import Admission, Claim, NewTask, Row, State, Store, Written
from murmur.task_queue import Ending, TaskQueue, Work
from murmur.transport import Delivery, Refusal
from murmur.worker import wire
from murmur.worker.attempt import Attempt
from murmur.worker.crew import Crew
from murmur.worker.death import RETIRED
from murmur.worker.endings import Endings
from murmur.worker.guard import Idempotency
from murmur.worker.hooks import Hooks
from murmur.worker.host import Host
from murmur.worker.marks import AT, mark_steps
from murmur.worker.named import Names
from murmur.worker.setting import Setting
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots
from supervisors.process import Link, ProcessContext


async def work(ctx: ProcessContext, setting: Setting) -> None:
    """Serve the node until it ends this process."""
    _log_without_secrets()
    await _Inside(ctx, setting).live()


class _Line:
    """Calls to the node, each answered under its number."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._sending = asyncio.Lock()
        self._posts: set[asyncio.Task[None]] = set()

    async def call(self, verb: str, *arguments: object) -> Any:
        """Return what the node answers; raises what it raised."""
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = verb, future
        try:
            await self.send(wire.Asked(number, verb, wire.encode(arguments)))
            return await future
        except asyncio.CancelledError:
            self.post(wire.Abandoned(number))
            raise
        finally:
            self._waiting.pop(number, None)

    async def send(self, message: wire.FromWorker) -> None:
        """Send a frame, whole and in order, even if the caller is cancelled."""
        await asyncio.shield(asyncio.ensure_future(self._send(wire.encode(message))))

    def post(self, message: wire.FromWorker) -> None:
        """Send a frame after all others, without waiting for it."""
        posting = asyncio.ensure_future(self._send(wire.encode(message)))
        self._posts.add(posting)
        posting.add_done_callback(self._posts.discard)

    def answered(self, answer: wire.Answer) -> None:
        """The node answered a call."""
        verb, future = self._waiting.get(answer.number, ("", None))
        if future is None or future.done():
            return
        if answer.error is not None:
            future.set_exception(_error_of(answer))
        else:
            future.set_result(wire.RESULTS[verb].decode(answer.value))

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            await self._link.send(frame)


class _Store:
    """The part of the store port that attempts and publishers use."""

    moves_messages: Final = True  # the node's queue does both
    keeps_leases: Final = True  # so does the node

    def __init__(self, line: _Line, *, keeps_rows: bool) -> None:
        self._line = line
        self.keeps_rows = keeps_rows

    async def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        return cast(bytes, await self._line.call("record", claim.task_id, claim.token, name, value))

    async def recorded(self, task_id: str, name: str) -> bytes | None:
        if not self.keeps_rows:
            raise errors.NeedsStore(what=f"context.once({name!r})")
        return cast(bytes | None, await self._line.call("recorded", task_id, name))

    async def read(self, task_ids: Sequence[str]) -> Sequence[Row | None]:
        return cast(Sequence[Row | None], await self._line.call("read", list(task_ids)))

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return cast(Sequence[bytes | None], await self._line.call("get", list(keys)))

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        await self._line.call("put", key, value, ttl)

    async def swap(
        self, key: str, expected: bytes | None, value: bytes | None, *, ttl: float | None = None
    ) -> bytes | None:
        return cast(bytes | None, await self._line.call("swap", key, expected, value, ttl))

    async def listed(self, prefix: str) -> Mapping[str, bytes]:
        return cast(Mapping[str, bytes], await self._line.call("listed", prefix))

    def cancelled(self) -> AsyncIterator[str]:
        return Feed()


class _Hook:
    """The worker's idempotency hook, which stays with the node."""

    def __init__(self, line: _Line) -> None:
        self._line = line

    async def claim(self, key: str, token: Token, digest: str, lease: float) -> Claimed:
        answer = await self._line.call("claim_key", key, token.task_id, token.number, digest, lease)
        return cast(Claimed, wire.heard(answer))

    async def renew(self, key: str, token: Token, lease: float) -> bool:
        return cast(bool, await self._line.call("renew_key", key, token.task_id, token.number, lease))

    async def complete(self, key: str, token: Token, output: bytes) -> Kept:
        answer = await self._line.call("complete_key", key, token.task_id, token.number, output)
        return cast(Kept, wire.heard(answer))

    async def abandon(self, key: str, token: Token) -> None:
        await self._line.call("abandon_key", key, token.task_id, token.number)

    async def close(self) -> None:
        """The node's to close."""


class _Queue(TaskQueue):
    """The node as a task queue."""

    def __init__(self, line: _Line, topics: Topics, *, keeps_rows: bool, inline: int) -> None:
        self._line = line
        self.topics = topics
        self.store = cast(Store, _Store(line, keeps_rows=keeps_rows))
        self._seal = None
        self._inline = inline

    async def open_tasks(self, agents: Sequence[str]) -> None:
        await self._line.call("open_tasks", list(agents))

    async def open_inbox(self, inbox: str) -> None:
        await self._line.call("open_inbox", inbox)

    @property
    def inline(self) -> int:
        return self._inline

    async def _admitted(self, tasks: Sequence[NewTask]) -> Sequence[Admission | Refusal]:
        # Payloads were stowed part by part: a frame takes only so much.
        light = [replace(task, payload=None) if task.payload is not None else task for task in tasks]
        answers = await self._line.call("submit", light)
        return [admission or refusal for admission, refusal in answers]

    async def replies(self, inbox: str, *, wait: float) -> Sequence[Delivery]:
        bodies = await self._line.call("replies", inbox, wait)
        return [Delivery(inbox, body, {}, "", 1, None) for body in bodies]

    async def cancel(self, results: Mapping[str, bytes], new: Sequence[NewTask] = ()) -> Mapping[str, State]:
        del new  # none is: whoever publishes in here has a parent
        return cast(Mapping[str, State], await self._line.call("cancel", dict(results)))

    async def is_empty(self, agent: str) -> bool:
        return cast(bool, await self._line.call("is_empty", agent))

    def result(self, body: bytes) -> ResultMessage:
        return decode_result(body)  # the node looked at its signature

    async def settle(self, endings: Sequence[Ending]) -> Sequence[Written]:
        await self._line.send(wire.Endings([wire.ended(one) for one in endings]))
        return [Written.STORED] * len(endings)  # the node writes them, whatever becomes of us

    async def disown(self, claim: Claim) -> None:
        await self._line.send(wire.Endings([wire.Ended(claim.task_id, claim.token, "disown")]))


class _Slots(Slots):
    """The slots are the node's: it gives no task without one. Only who parks has to tell."""

    def __init__(self, line: _Line) -> None:
        super().__init__(sys.maxsize)
        self._line = line

    @asynccontextmanager
    async def parking(self) -> AsyncIterator[None]:
        """See `Slots.parking`."""
        await self._line.send(wire.Parking(parks=True))
        try:
            yield
        except BaseException:
            await self._line.send(wire.Parking(parks=False))
            raise
        await self._line.call("resume")


class _Inside:
    def __init__(self, ctx: ProcessContext, setting: Setting) -> None:
        self._ctx = ctx
        self._setting = setting
        self._line = _Line(ctx.link)
        self._changed = asyncio.Event()
        self._drain: float | None = None
        self._is_retiring = False  # the node was asked
        self._may_end = False  # and agreed
        self._done = 0
        self._leaving: set[asyncio.Task[None]] = set()
        self._topics = Topics(setting.namespace)
        queue = _Queue(self._line, self._topics, keeps_rows=setting.keeps_rows, inline=setting.inline)
        publisher = wiring.publisher_over(
            queue,
            registry=Registry(),
            runtime_id=f"{setting.worker_id}.{os.getpid()}.{os.urandom(4).hex()}",
            broker=setting.broker,
        )
        self._settler = Settler(queue, on_stale=lambda _: None, on_delayed=lambda: None)
        self._crew = Crew(
            queue,
            _Slots(self._line),
            self._settler,
            Endings(setting.worker_id),
            Hooks(),
            publisher,
            Idempotency(_Hook(self._line), setting.namespace, setting.lease) if setting.is_idempotent else None,
            on_ended=self._ended,
        )
        self._names = Names(self._crew, is_shared=True)
        for name, actor in setting.agents.items():
            redelivery: Redelivery = actor.redelivery
            if setting.max_deliveries is not None:
                redelivery = attrs.evolve(redelivery, max_deliveries=setting.max_deliveries)
            self._crew.hosts[name] = Host(attrs.evolve(entry_of(actor), name=name), actor, redelivery, self._held)

    async def live(self) -> None:
        """Listen to the node and do its work, until cancelled, or until it may be replaced."""
        mark_steps(asyncio.get_running_loop(), self._ctx.mark)
        listening = asyncio.ensure_future(self._listen())
        ending = asyncio.ensure_future(self._end())
        escalating = asyncio.ensure_future(self._crew.escalated.wait())
        resting = asyncio.ensure_future(self._names.look_at_idle())
        try:
            self._ctx.ready(os.getpid())
            done, _ = await asyncio.wait([listening, ending, escalating], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (ending, escalating, resting):
                task.cancel()
            await self._names.stop_all()
            await self._crew.stop_all()
            await self._settler.drained()
            listening.cancel()
        if ending in done:
            raise SystemExit(RETIRED)

    async def _listen(self) -> None:
        while True:
            message = wire.from_node.decode(await self._ctx.link.receive())
            match message:
                case wire.Work():
                    for one in message.given:
                        self._begin(one)
                case wire.Answer():
                    self._line.answered(message)
                case wire.Lose():
                    self._crew.lose(message.task_id)
                    self._names.lose(message.task_id)
                case wire.Leave():
                    self._leave(message)
                case wire.Drain():
                    self._drain = message.seconds
                    self._changed.set()
                case wire.Retire():
                    self._may_end = True
                    self._changed.set()

    def _begin(self, one: wire.Given) -> None:
        message: TaskMessage = decode_task(one.body)
        context = copy_context()
        context.run(AT.set, message.task_id)
        begin = self._names.begin if self._topics.is_shard(one.topic) else self._crew.begin
        context.run(begin, Work(wire.claim_of(one, message.reply_to), message))

    def _leave(self, message: wire.Leave) -> None:
        leaving = asyncio.ensure_future(self._names.leave(message.agent, message.shard, is_lost=message.is_lost))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _end(self) -> None:
        """Wait until told to drain, and do so; or until this process may be replaced and nothing runs in it."""
        while self._drain is None:
            if self._may_end and not self._crew.running and not self._names.held:
                return
            self._changed.clear()
            await self._changed.wait()
        await asyncio.gather(self._crew.drain(self._drain), self._names.drain(self._drain))
        await self._settler.drained()
        await self._line.call("drained")
        await asyncio.Event().wait()  # until the node ends this process

    def _ended(self, attempt: Attempt) -> None:
        """An attempt is over, as far as the node is concerned."""
        self._done += 1
        self._changed.set()
        if attempt.is_stuck:
            self._retire(f"task {attempt.claim.task_id} cannot be ended: it ignores its cancellation")
        elif self._setting.recycle is not None and self._done >= self._setting.recycle:
            self._retire(f"{self._done} tasks done")

    def _retire(self, why: str) -> None:
        if not self._is_retiring:
            self._is_retiring = True
            self._line.post(wire.Retiring(why))

    def _held(self, host: Host, why: str | None) -> None:
        self._line.post(wire.Held(host.entry.name, why, for_good=host.is_stopped))


def _log_without_secrets() -> None:
    """Log as the node does, unless the modules of the actors have seen to that themselves."""
    try:
        logger.remove(0)  # loguru's own handler, which shows the values of variables
    except ValueError:
        return
    line = f"{{time:HH:mm:ss}} {{level: <7}} [{os.getpid()}] {{message}}"
    as_json = os.environ.get(LOGS_JSON) == "1"
    logger.add(redacting(sys.stderr.write), format=line, serialize=as_json, diagnose=False, backtrace=False)


def _error_of(answer: wire.Answer) -> Exception:
    text = answer.value.decode("utf-8", "replace")
    if answer.error == "LeaseLost":
        task_id, _, token = text.rpartition(" ")
        return errors.LeaseLost(task_id=task_id, token=int(token))
    return errors.OutcomeUnknown(call=answer.error or "a call of the node", problem=text)
