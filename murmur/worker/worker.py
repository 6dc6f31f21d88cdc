"""The worker: a supervision tree that takes tasks off a broker and runs them as actors in this process.

`Worker` is what users hold. It checks its settings, begins and ends; the tree beneath it is
`murmur.worker.tree`. Starting prints a banner; stopping drains: no new tasks, running
ones finish within `drain` seconds or are given back uncounted.
"""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
from loguru import logger

from murmur import wiring
from murmur.beats import EVERY, Command
from murmur.doctor import Finding
from murmur.errors import BadSetting, WrongForm
from murmur.idempotency import IdempotencyHook
from murmur.names import Topics
from murmur.publisher import Publisher
from murmur.registry import AnyActor, Registry, agents_by_name, entry_of
from murmur.signing import read_keys
from murmur.store import Store
from murmur.task_queue import TaskQueue
from murmur.transport import Transport
from murmur.worker import signals
from murmur.worker.banner import banner
from murmur.worker.failures import told_as_ours
from murmur.worker.hooks import Hook, Hooks
from murmur.worker.named import Names
from murmur.worker.report import Report
from murmur.worker.reporter import Reporter, checked_heartbeat
from murmur.worker.setting import Keeping, check_sendable
from murmur.worker.tree import Tree
from supervisors import ChildSpec, Limits

_SETTLE_WITHIN = 5.0  # seconds the last results may take to be written, beyond the drain


class Worker:
    """Serves agents from a broker. See docs/reference for every argument; times are seconds unless named `_ms`."""

    def __init__(
        self,
        *,
        agents: Iterable[AnyActor | str] | Mapping[str, AnyActor],
        broker: str | Transport | None = None,
        runtime: Any = None,
        concurrency: int = 20,
        prefetch: int = 5,
        processes: int = 0,
        namespace: str | None = None,
        consumer_id: str | None = None,
        reclaim_min_idle_ms: int | None = 30_000,
        store: str | Store | None = None,
        idempotency: IdempotencyHook | None = None,
        signing_keys: str | Path | None = None,
        max_deliveries: int | None = None,
        drain: float = 60.0,
        strict: bool = False,
        hang_after: float = 30.0,
        recycle: int | None = None,
        preload: Sequence[str] = (),
        limits: Limits | None = None,
        heartbeat: float | None = EVERY,
    ) -> None:
        _check(concurrency=concurrency, prefetch=prefetch, processes=processes, drain=drain, lease=reclaim_min_idle_ms)
        self._heartbeat = checked_heartbeat(heartbeat)
        registry: Registry = runtime.registry if runtime is not None else Registry()
        self._agents = agents_by_name(agents, registry)
        for actor in self._agents.values() if processes else ():
            check_sendable(actor)
        self._broker = broker if broker is not None else getattr(runtime, "broker", None)
        if self._broker is None:
            raise BadSetting(
                name="broker", value="None", expected="a URL such as redis://localhost:6379, or a transport"
            )
        self.concurrency = concurrency
        self.prefetch = prefetch
        self.processes = min(processes, concurrency)  # more would never have anything to do
        self._processes_wanted = processes
        self.runtime_id = consumer_id or (runtime.runtime_id if runtime is not None else made_id())
        self.namespace = namespace if namespace is not None else getattr(runtime, "namespace", "")
        self.hooks = Hooks()
        self._registry = registry
        self._lease = reclaim_min_idle_ms / 1000 if reclaim_min_idle_ms else None
        self._max_deliveries = max_deliveries
        if idempotency is not None and not callable(getattr(idempotency, "claim", None)):
            raise BadSetting(
                name="idempotency", value=repr(idempotency), expected="a hook such as SqliteIdempotency(path), or None"
            )
        self._idempotency = idempotency
        self._drain = drain
        self._strict = strict
        self._keeping = Keeping(
            hang_after=hang_after, recycle=recycle, preload=preload, limits=Limits() if limits is None else limits
        )
        self._store = store if store is not None else getattr(runtime, "store", None)
        self._signing_keys = signing_keys if signing_keys is not None else getattr(runtime, "signing_keys", None)
        if self._signing_keys is not None:
            read_keys(self._signing_keys)  # a bad file is told now, not when the worker starts
        self._retention: float = getattr(runtime, "retention", 86_400.0)
        self._given: tuple[TaskQueue, Publisher] | None = None
        self._tree: Tree | None = None
        self._reporter: Reporter | None = None
        self._life: asyncio.Task[None] | None = None
        self._is_up: asyncio.Future[None] | None = None
        self._dumping: asyncio.Future[None] | None = None
        self._stopping = asyncio.Event()
        Topics(self.namespace)
        if isinstance(self._broker, str):
            wiring.shown(self._broker)  # a bad URL is told now, not when the worker starts

    @classmethod
    def embedded(
        cls, queue: TaskQueue, publisher: Publisher, registry: Registry, *, worker_id: str, lease: float
    ) -> Self:
        """Return the worker that an in-process runtime carries: no banner, agents added as they are used."""
        worker = cls.__new__(cls)
        worker._agents = {}
        worker._broker = None
        worker.concurrency = worker.prefetch = 10_000  # the publisher's windows are the limit here
        worker.processes = 0
        worker.runtime_id = worker_id
        worker.namespace = queue.topics.namespace
        worker.hooks = Hooks()
        worker._registry = registry
        worker._lease = lease
        worker._max_deliveries = None
        worker._idempotency = None
        worker._drain = 0.0
        worker._heartbeat = worker._reporter = None
        worker._keeping = Keeping()
        worker._given = (queue, publisher)
        worker._tree = worker._life = worker._is_up = None
        worker._dumping = None
        worker._stopping = asyncio.Event()
        return worker

    # -- hooks ------------------------------------------------------------------------------------

    def on_task_start(self, hook: Hook) -> Hook:
        """Add `async (task_id, agent_name)`, called before an attempt; a bug in it harms nothing."""
        self.hooks.start.append(hook)
        return hook

    def on_task_complete(self, hook: Hook) -> Hook:
        """Add `async (task_id, agent_name, duration_ms)`, called after an attempt returned."""
        self.hooks.complete.append(hook)
        return hook

    def on_task_error(self, hook: Hook) -> Hook:
        """Add `async (task_id, agent_name, error)`, called after an attempt raised."""
        self.hooks.error.append(hook)
        return hook

    # -- life -------------------------------------------------------------------------------------

    def start(self) -> Awaitable[None]:
        """Begin now, inside the running loop. Awaiting it returns once every mailbox is consumed, or raises
        `BrokerUnreachable`, `BrokerRefused` within 10 s."""
        if self._life is None:
            loop = asyncio.get_running_loop()
            self._stopping.clear()
            self._is_up = loop.create_future()
            self._life = loop.create_task(self._live(self._is_up))
        assert self._is_up is not None
        return asyncio.shield(self._is_up)

    async def stop(self) -> None:
        """Drain and end. Idempotent."""
        self._stopping.set()
        if self._life is not None:
            await asyncio.shield(self._life)

    async def run(self) -> None:
        """Start, work until SIGTERM or SIGINT, drain. A second signal ends at once, giving running tasks back.
        SIGQUIT writes all stacks to stderr. What cannot be ended ends with this process, 5 s after the drain."""
        with signals.heard(on_end=self._signalled, drain=lambda: self._drain, on_quit=self._dumped):
            await self.start()
            assert self._life is not None
            await asyncio.shield(self._life)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def serve(self, actor: AnyActor) -> None:
        """Serve one more agent from now on. Used by in-process runtimes."""
        if self._tree is None:
            raise WrongForm(used="Worker.serve before start()", instead="agents=")
        if actor.name not in self._agents or self._agents[actor.name] is not actor:
            self._agents[actor.name] = actor
            await self._tree.serve(entry_of(actor))

    @property
    def names(self) -> Names | None:
        """The named actors that live in this process, while it works. Used by in-process runtimes."""
        return None if self._tree is None else self._tree.names

    # -- inside -----------------------------------------------------------------------------------

    async def _live(self, is_up: asyncio.Future[None]) -> None:
        try:
            tree = self._tree = self._planted()
            if self._given is None:
                assert self._broker is not None
                found = await wiring.examined(
                    self._broker, store=self._store, namespace=self.namespace, strict=self._strict
                )
                try:
                    await tree.queue.open(owner=self.runtime_id, lease=self._lease)
                except BaseException:
                    await tree.queue.close(grace=0.0)  # what did open
                    raise
                sys.stderr.write(self._banner(tree.queue.topics, found))
                sys.stderr.flush()
            try:
                with told_as_ours({actor.__module__ for actor in self._agents.values()}):
                    await tree.live(is_up, until=self._stopping, drain=lambda: self._drain)
            finally:
                if self._idempotency is not None:
                    await self._idempotency.close()
                if self._reporter is not None:
                    await self._reporter.leave()
                if self._given is None:
                    await tree.publisher.aclose()
                    await tree.queue.close(grace=_SETTLE_WITHIN)
        except BaseException as error:
            if not is_up.done():
                is_up.set_exception(error)
                return
            raise
        finally:
            self._tree = self._life = None

    def _planted(self) -> Tree:
        if self._given is not None:
            queue, publisher = self._given
        else:
            assert self._broker is not None
            queue = wiring.connect(
                self._broker,
                store=self._store,
                namespace=self.namespace,
                consumer_id=self.runtime_id,
                lease=self._lease,
                retention=self._retention,
                signing_keys=self._signing_keys,
            )
            publisher = wiring.publisher_over(
                queue,
                registry=self._registry,
                runtime_id=f"{self.runtime_id}.{secrets.token_hex(4)}",
                broker=wiring.shown(self._broker),
            )
        reporter = self._reporter = self._reporting(queue.topics)
        tree = Tree(
            queue,
            publisher,
            worker_id=self.runtime_id,
            concurrency=self.concurrency,
            prefetch=self.prefetch,
            lease=self._lease,
            hooks=self.hooks,
            max_deliveries=self._max_deliveries,
            idempotency=self._idempotency,
            processes=self.processes,
            keeping=self._keeping,
            shown="" if self._broker is None else wiring.shown(self._broker),
            beside=() if reporter is None else (ChildSpec(id="reporter", start=reporter.live),),
            on_change=(lambda: None) if reporter is None else reporter.changed,
            is_private=self._broker is None,
        )
        if reporter is not None:
            reporter.look = Report(tree, reporter.incarnation, self.processes, reporter.every).beat
        for name, actor in self._agents.items():
            tree.add(attrs.evolve(entry_of(actor), name=name))
        return tree

    def _reporting(self, topics: Topics) -> Reporter | None:
        """Return what is to report on the control plane of the broker, if that has one and it is wanted."""
        if self._heartbeat is None or not isinstance(self._broker, str):
            return None
        return Reporter(
            wiring.control(self._broker, namespace=self.namespace),
            topics,
            None if self._signing_keys is None else read_keys(self._signing_keys),
            worker_id=self.runtime_id,
            every=self._heartbeat,
            obey=self._obey,
        )

    def _obey(self, command: Command) -> None:
        """Leave, as a command of the control plane says."""
        if command.verb == "stop":
            self._stop_now()
        elif command.within is not None and not self._stopping.is_set():
            self._drain = command.within
        self._stopping.set()

    def _stop_now(self) -> None:
        self._drain = 0.0
        if self._tree is not None:
            self._tree.hurry()

    def _banner(self, topics: Topics, found: Sequence[Finding]) -> str:
        assert self._broker is not None
        return banner(
            broker=wiring.shown(self._broker),
            store=wiring.shown_store(self._broker, self._store),
            runtime_id=self.runtime_id,
            agents=sorted(self._agents),
            topics=topics,
            concurrency=self.concurrency,
            prefetch=self.prefetch,
            processes=self.processes,
            processes_wanted=self._processes_wanted,
            lease=self._lease,
            findings=found,
        )

    def _dumped(self) -> None:
        """Write what all processes are at."""
        if self._tree is not None:
            self._dumping = asyncio.ensure_future(self._tree.dump_stacks())

    def _signalled(self) -> None:
        """Drain; told so again, end at once."""
        if self._stopping.is_set():
            logger.warning("second signal: running tasks are given back now")
            self._stop_now()
            return
        self._stopping.set()


def made_id() -> str:
    """Return an id for a process without a given one: host, pid, and four random bytes."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _check(*, concurrency: object, prefetch: object, processes: object, drain: object, lease: object) -> None:
    for name, value in (("concurrency", concurrency), ("prefetch", prefetch)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BadSetting(name=name, value=repr(value), expected="a whole number of at least 1")
    if not isinstance(processes, int) or isinstance(processes, bool) or processes < 0:
        raise BadSetting(name="processes", value=repr(processes), expected="a whole number, 0 or more")
    if not isinstance(drain, int | float) or not drain >= 0:  # nor NaN
        raise BadSetting(name="drain", value=repr(drain), expected="seconds, 0 or more")
    if lease is not None and (not isinstance(lease, int) or isinstance(lease, bool) or lease < 0 or 0 < lease < 100):
        raise BadSetting(
            name="reclaim_min_idle_ms", value=repr(lease), expected="milliseconds, at least 100; 0 or None for none"
        )
