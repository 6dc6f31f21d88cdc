"""Inside a worker process: the same crew as in a worker without processes, over the link to its node.

To the crew, and to the publisher that actors speak through, the node is a task queue like any other.
"""

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, cast

import attrs
from loguru import logger

from murmur import errors, wiring
from murmur.bell import Feed
from murmur.envelope import ResultMessage, TaskMessage, decode_result, decode_task
from murmur.idempotency import Claimed, Kept, Token
from murmur.names import Topics
from murmur.policy import Redelivery
from murmur.redaction import LOGS_JSON, redacting
from murmur.registry import AnyActor, Registry, entry_of
from murmur.store import Admission, Claim, NewTask, Row, State, Store, Written
from murmur.task_queue import Ending, TaskQueue, Work
from murmur.transport import Delivery, Refusal
from murmur.worker import wire
from murmur.worker.crew import Crew
from murmur.worker.endings import Endings
from murmur.worker.guard import Idempotency
from murmur.worker.hooks import Hooks
from murmur.worker.host import Host
from murmur.worker.settler import Settler
from murmur.worker.slots import Slots
from supervisors.process import Link, ProcessContext

_IDLE: Final = 0.05  # seconds until the node is asked again after it said that there is nothing


@attrs.frozen
class Setting:
    """What a worker process has to know of its worker; it crosses once, at the start."""

    agents: Mapping[str, AnyActor]
    namespace: str
    worker_id: str
    concurrency: int
    prefetch: int
    max_deliveries: int | None
    broker: str  # as it may be shown
    is_idempotent: bool
    lease: float | None  # seconds


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

    async def call(self, verb: str, *arguments: object) -> Any:
        """Return what the node answers; raises what it raised."""
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = verb, future
        try:
            await self.send(wire.Asked(number, verb, wire.encode(arguments)))
            return await future
        finally:
            self._waiting.pop(number, None)

    async def send(self, message: wire.FromWorker) -> None:
        """Send a frame, whole and in order, even if the caller is cancelled."""
        await asyncio.shield(asyncio.ensure_future(self._send(wire.encode(message))))

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

    def __init__(self, line: _Line) -> None:
        self._line = line

    async def record(self, claim: Claim, name: str, value: bytes) -> bytes:
        return cast(bytes, await self._line.call("record", claim.task_id, claim.token, name, value))

    async def recorded(self, task_id: str, name: str) -> bytes | None:
        return cast(bytes | None, await self._line.call("recorded", task_id, name))

    async def read(self, task_ids: Sequence[str]) -> Sequence[Row | None]:
        return cast(Sequence[Row | None], await self._line.call("read", list(task_ids)))

    async def get(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return cast(Sequence[bytes | None], await self._line.call("get", list(keys)))

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> None:
        await self._line.call("put", key, value, ttl)

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

    def __init__(self, line: _Line, topics: Topics) -> None:
        self._line = line
        self.topics = topics
        self.store = cast(Store, _Store(line))
        self._seal = None

    async def open_tasks(self, agents: Sequence[str]) -> None:
        await self._line.call("open_tasks", list(agents))

    async def open_inbox(self, inbox: str) -> None:
        await self._line.call("open_inbox", inbox)

    async def submit(self, tasks: Sequence[NewTask]) -> Sequence[Admission | Refusal]:
        answers = await self._line.call("submit", list(tasks))
        return [admission or refusal for admission, refusal in answers]

    async def replies(self, inbox: str, *, wait: float) -> Sequence[Delivery]:
        bodies = await self._line.call("replies", inbox, wait)
        return [Delivery(inbox, body, {}, "", 1, None) for body in bodies]

    async def cancel(self, results: Mapping[str, bytes]) -> Mapping[str, State]:
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


class _Inside:
    def __init__(self, ctx: ProcessContext, setting: Setting) -> None:
        self._ctx = ctx
        self._setting = setting
        self._line = _Line(ctx.link)
        self._room = asyncio.Event()
        self._draining: float | None = None
        queue = _Queue(self._line, Topics(setting.namespace))
        publisher = wiring.publisher_over(
            queue,
            registry=Registry(),
            runtime_id=f"{setting.worker_id}.{os.getpid()}.{os.urandom(4).hex()}",
            broker=setting.broker,
        )
        self._settler = Settler(queue, on_stale=lambda _: None, on_delayed=lambda: None)
        self._crew = Crew(
            queue,
            Slots(setting.concurrency, on_free=self._room.set),
            self._settler,
            Endings(setting.worker_id),
            Hooks(),
            publisher,
            Idempotency(_Hook(self._line), setting.namespace, setting.lease) if setting.is_idempotent else None,
        )
        for name, actor in setting.agents.items():
            redelivery: Redelivery = actor.redelivery
            if setting.max_deliveries is not None:
                redelivery = attrs.evolve(redelivery, max_deliveries=setting.max_deliveries)
            self._crew.hosts[name] = Host(attrs.evolve(entry_of(actor), name=name), actor, redelivery, self._held)

    async def live(self) -> None:
        """Listen to the node and take its work, until cancelled."""
        listening = asyncio.ensure_future(self._listen())
        consuming = asyncio.ensure_future(self._consume())
        escalating = asyncio.ensure_future(self._crew.escalated.wait())
        try:
            self._ctx.ready(os.getpid())
            done, _ = await asyncio.wait([listening, consuming, escalating], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (consuming, escalating):
                task.cancel()
            await self._crew.stop_all()
            await self._settler.drained()
            listening.cancel()

    async def _listen(self) -> None:
        while True:
            message = wire.from_node.decode(await self._ctx.link.receive())
            match message:
                case wire.Answer():
                    self._line.answered(message)
                case wire.Lose():
                    self._crew.lose(message.task_id)
                case wire.Drain():
                    self._draining = message.seconds
                    self._room.set()

    async def _consume(self) -> None:
        while self._draining is None:
            await self._settler.has_room()
            self._room.clear()
            room = self._crew.room()
            if not room:
                await self._room.wait()
                continue
            credit = min(self._crew.slots.free, self._setting.prefetch)
            found: list[wire.Given] = await self._line.call("work", dict(room), credit)
            for one in found:
                message: TaskMessage = decode_task(one.body)
                self._crew.begin(Work(wire.claim_of(one, message.reply_to), message))
            if not found:
                await asyncio.sleep(_IDLE)
        await self._crew.drain(self._draining)
        await self._settler.drained()
        await self._line.call("drained")
        await asyncio.Event().wait()  # until the node ends this process

    def _held(self, host: Host, why: str | None) -> None:
        self._room.set()
        if why is not None:
            logger.error("this process does not serve {} now: {}", host.entry.name, why)


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
