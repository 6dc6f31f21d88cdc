"""`AgentRuntime`: publish tasks and get one typed result each, in process or over a broker.

Small on purpose: it resolves agents, opens the engine, and begins batches. The window, the
slots and the inbox stand beside it. Inside an actor `context.runtime` is this same class,
speaking for the task: what it publishes are that task's children.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Coroutine, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from murmur import wiring
from murmur.actor import Actor, Remote
from murmur.errors import BadSetting, NeedsStore, SpawnLimit, UnknownAgent, WrongForm
from murmur.ids import batch_id_of_children, check_task_id, uuid7
from murmur.limits import MAX_DEPTH
from murmur.named import mailbox_for
from murmur.publisher import Parent
from murmur.registry import AgentEntry, AgentRef, AnyActor, Registry
from murmur.runtime.batch import Batch, Terms
from murmur.runtime.engine import Engine
from murmur.runtime.handle import Handle
from murmur.runtime.inputs import Inputs, Stamp, check_terms
from murmur.runtime.manifest import Manifest
from murmur.runtime.progress import Progress, reporting
from murmur.runtime.ref import Gate, Office, Ref, check_store
from murmur.runtime.slots import Slot
from murmur.store import Store
from murmur.task import AgentResult, TaskSpec
from murmur.task_queue import TaskQueue
from murmur.transport import Transport
from murmur.worker.named import Names
from murmur.worker.worker import Worker, made_id

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")
Tasks = Iterable[In | TaskSpec[In]] | AsyncIterable[In | TaskSpec[In]]

_EMBEDDED_LEASE = 30.0


class AgentRuntime:
    """Publishes tasks to agents and collects their results.

    `broker`: a URL (`redis://…`, `memory://name`) or a transport; None: in process, with a private memory broker and an
    embedded worker. `store`: where rows and results are kept, default beside the broker. `retention`: seconds they are
    kept. `no_workers_after`: seconds after which slots end in `NoWorkers` when nobody serves their agent.
    `signing_keys`: a key file; what is published is signed with it, and only signed results are believed. `strict`:
    the first publishing raises `Unsafe` where the broker's settings cannot hold what murmur promises.
    Opens itself on first use; `async with`, or `aclose()`, ends it.
    """

    def __init__(
        self,
        broker: str | Transport | None = None,
        *,
        store: str | Store | None = None,
        runtime_id: str | None = None,
        namespace: str = "",
        retention: float = 86_400.0,
        no_workers_after: float = 60.0,
        signing_keys: str | Path | None = None,
        strict: bool = False,
    ) -> None:
        for name, value in (("retention", retention), ("no_workers_after", no_workers_after)):
            if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
                raise BadSetting(name=name, value=repr(value), expected="seconds, more than 0")
        self.broker = broker
        self.store = store
        self.runtime_id = check_task_id(runtime_id) if runtime_id is not None else made_id()
        self.namespace = namespace
        self.retention = retention
        self.signing_keys = signing_keys
        self._strict = strict
        self.registry = Registry()
        self._no_workers_after = no_workers_after
        self._shown = "this process" if broker is None else wiring.shown(broker)
        self._parent: Parent | None = None
        self._engine: Engine | None = None
        self._gate = Gate()
        self._embedded: Worker | None = None
        self._runner: asyncio.Runner | None = None
        self._queue = None if broker is None else self._connected(broker)

    @classmethod
    def over(cls, queue: TaskQueue, *, registry: Registry, runtime_id: str, broker: str) -> "AgentRuntime":
        """Return a runtime that publishes over a worker's own queue; the worker opens and closes that."""
        runtime = cls.__new__(cls)
        runtime.broker, runtime.store, runtime.namespace = None, None, queue.topics.namespace
        runtime.runtime_id, runtime.registry, runtime.retention = runtime_id, registry, 0.0
        runtime._no_workers_after = 60.0
        runtime._strict, runtime._shown = False, broker
        runtime._parent = runtime._embedded = runtime._runner = None
        runtime._queue, runtime._gate = queue, Gate()
        runtime._engine = Engine(queue, runtime_id=runtime_id, owns_queue=False)
        return runtime

    def register(self, actor: AnyActor, *, name: str | None = None) -> None:
        """Make a class usable by name with this runtime, and with workers that are given it."""
        self.registry.register(actor, name=name)

    # -- publishing -------------------------------------------------------------------------------

    @overload
    async def run(
        self, agent: type[Actor[In, Out]], task: In | TaskSpec[In], *, timeout: float | None = None
    ) -> AgentResult[Out]: ...
    @overload
    async def run(self, agent: str | Remote, task: object, *, timeout: float | None = None) -> AgentResult[Any]: ...
    async def run(self, agent: Any, task: Any, *, timeout: float | None = None) -> AgentResult[Any]:
        """Publish one task and return its result; a task's error is in it, not raised. Cancelled: so is the task."""
        (result,) = await self.gather(agent, [task], timeout=timeout)
        return result

    @overload
    async def gather(
        self,
        agent: type[Actor[In, Out]],
        tasks: "Tasks[In]",
        *,
        max_concurrency: int = 100,
        timeout: float | None = None,
        deadline: float | None = None,
        batch_id: str | None = None,
        progress: bool | Progress | None = None,
    ) -> list[AgentResult[Out]]: ...
    @overload
    async def gather(
        self,
        agent: str | Remote,
        tasks: "Tasks[Any]",
        *,
        max_concurrency: int = 100,
        timeout: float | None = None,
        deadline: float | None = None,
        batch_id: str | None = None,
        progress: bool | Progress | None = None,
    ) -> list[AgentResult[Any]]: ...
    async def gather(self, agent: Any, tasks: Any, **options: Any) -> list[AgentResult[Any]]:
        """Publish many tasks and return one result each, in input order.

        Args:
            agent: an actor class, a registered name, or `Remote`.
            tasks: inputs or `TaskSpec`s: any iterable, also async, also lazy.
            max_concurrency: tasks open at once.
            timeout: seconds per slot, from its publishing to its result.
            deadline: seconds for the whole batch. Finished slots are kept in both cases.
            batch_id: names the batch and makes it resumable: the same call again goes on where this one ended.
            progress: True for a bar on a terminal, or a function of (done, failed, total or None).
        Raises: UnknownAgent, InputError, DuplicateTaskId, BatchConflict, NeedsStore, BrokerUnreachable.
        """
        if self._parent is None:
            return await self._gathered(agent, tasks, **options)
        async with self._parent.parking.parked():
            return await self._gathered(agent, tasks, **options)

    @overload
    def as_completed(
        self,
        agent: type[Actor[In, Out]],
        tasks: "Tasks[In]",
        *,
        max_concurrency: int = 100,
        timeout: float | None = None,
        deadline: float | None = None,
        batch_id: str | None = None,
        progress: bool | Progress | None = None,
    ) -> AsyncIterator[AgentResult[Out]]: ...
    @overload
    def as_completed(
        self,
        agent: str | Remote,
        tasks: "Tasks[Any]",
        *,
        max_concurrency: int = 100,
        timeout: float | None = None,
        deadline: float | None = None,
        batch_id: str | None = None,
        progress: bool | Progress | None = None,
    ) -> AsyncIterator[AgentResult[Any]]: ...
    async def as_completed(self, agent: Any, tasks: Any, **options: Any) -> AsyncIterator[AgentResult[Any]]:
        """Publish many tasks and yield results as they come. Arguments as `gather`."""
        async with self._batch(agent, tasks, parks_waits=True, **options) as batch:
            while finished := await batch.next():
                for _, result in finished:
                    yield result

    @overload
    async def submit(self, agent: type[Actor[In, Out]], task: In | TaskSpec[In]) -> Handle[Out]: ...
    @overload
    async def submit(self, agent: str | Remote, task: object) -> Handle[Any]: ...
    async def submit(self, agent: Any, task: Any) -> Handle[Any]:
        """Publish one task; return its handle once the broker has it. Raises `SpawnError`, `InputError`."""
        return await self._submitted(self.registry.resolve(agent), task)

    async def _submitted(self, entry: AgentEntry, task: Any, key: str | None = None) -> Handle[Any]:
        engine = await self._opened(entry, key)
        prepared = self._stamp(entry, engine, key=key).prepare(0, task)
        handle: Handle[Any] = Handle(engine, self._parent)
        slot = Slot(handle, entry, 0, prepared.task, opened_at=asyncio.get_running_loop().time())
        await handle.published(slot)
        return handle

    @overload
    def ref(self, agent: type[Actor[In, Out]], key: str) -> Ref[In, Out]: ...
    @overload
    def ref(self, agent: str | Remote, key: str) -> Ref[Any, Any]: ...
    def ref(self, agent: Any, key: str) -> Ref[Any, Any]:
        """Return the actor of this name, wherever it lives. Raises `BadActorKey`, `NotNamed`, `UnknownAgent`."""
        office = Office(self._gate, self._parent, self._names_here, self._opened, self._asked, self._submitted)
        return Ref(office, self.registry.resolve(agent), key)

    def run_sync(self, agent: Any, task: Any, *, timeout: float | None = None) -> AgentResult[Any]:
        """`run` for scripts and notebooks without a running loop. May be called again and again."""
        return self._blocking(self.run(agent, task, timeout=timeout), "run_sync", "await runtime.run(…)")

    def gather_sync(self, agent: Any, tasks: Any, **options: Any) -> list[AgentResult[Any]]:
        """`gather` for scripts and notebooks without a running loop. May be called again and again."""
        return self._blocking(self.gather(agent, tasks, **options), "gather_sync", "await runtime.gather(…)")

    def speaking_for(self, parent: Parent) -> "AgentRuntime":
        """Return this runtime bound to a task: what it publishes are that task's children."""
        bound = type(self).__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._parent = parent
        bound._owner = self  # type: ignore[attr-defined]  # keeps what opens lazily in one place
        return bound

    # -- life -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._engine_of().begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening and disconnect. Tasks that are open on a broker stay there. Idempotent."""
        embedded, self._embedded = self._embedded, None
        engine, self._engine = self._engine, None
        if embedded is not None:
            await embedded.stop()
        if engine is not None:
            await engine.close()
        self._queue = None if self.broker is None else self._connected(self.broker)

    def close(self) -> None:
        """End what `run_sync` and `gather_sync` opened. Idempotent."""
        if self._runner is not None:
            self._runner.run(self.aclose())
            self._runner.close()
            self._runner = None

    # -- inside -----------------------------------------------------------------------------------

    async def _gathered(self, agent: AgentRef | AgentEntry, tasks: Any, **options: Any) -> list[AgentResult[Any]]:
        results: dict[int, AgentResult[Any]] = {}
        async with self._batch(agent, tasks, **options) as batch:
            while finished := await batch.next():
                results.update(finished)
        return [results[index] for index in range(len(results))]

    @contextlib.asynccontextmanager
    async def _batch(
        self,
        agent: AgentRef | AgentEntry,
        tasks: Any,
        *,
        max_concurrency: int = 100,
        timeout: float | None = None,
        deadline: float | None = None,
        batch_id: str | None = None,
        progress: bool | Progress | None = None,
        parks_waits: bool = False,
        key: str | None = None,
    ) -> AsyncGenerator[Batch, None]:
        check_terms(max_concurrency=max_concurrency, timeout=timeout, deadline=deadline, batch_id=batch_id)
        entry = agent if isinstance(agent, AgentEntry) else self.registry.resolve(agent)
        inputs = Inputs(tasks)
        engine = await self._opened(entry, key)
        stamp = self._stamp(entry, engine, batch_id=batch_id, deadline=deadline, timeout=timeout, key=key)
        manifest = None
        if batch_id is not None:
            if not engine.queue.store.keeps_rows:
                raise NeedsStore(what=f"the named batch {batch_id!r}")
            manifest = Manifest(engine.queue.store, batch_id, retention=self.retention)
            await manifest.open()
        with reporting(progress, agent=entry.name) as tell:
            terms = Terms(
                max_concurrency=max_concurrency,
                timeout=timeout,
                deadline=deadline,
                no_workers_after=self._no_workers_after,
                broker=self._shown,
                progress=tell,
                parking=self._parent.parking if self._parent is not None and parks_waits else None,
            )
            batch = Batch(engine, stamp, inputs, terms, manifest=manifest)
            try:
                yield batch
            finally:
                batch.close()

    def _stamp(
        self,
        entry: AgentEntry,
        engine: Engine,
        *,
        batch_id: str | None = None,
        deadline: float | None = None,
        timeout: float | None = None,
        key: str | None = None,
    ) -> Stamp:
        if self._parent is not None:
            if self._parent.depth + 1 > MAX_DEPTH:
                raise SpawnLimit(f"a task at depth {self._parent.depth + 1} below {self._parent.root_id}", MAX_DEPTH)
            batch = batch_id or batch_id_of_children(self._parent.task_id, self._parent.next_gather())
        else:
            batch = batch_id or uuid7()
        return Stamp(
            entry=entry,
            batch_id=batch,
            is_repeatable=batch_id is not None or self._parent is not None,
            keep=batch_id is not None,
            topic=engine.queue.topics.tasks(mailbox_for(entry.name, key)),
            key=key,
            reply_to=engine.inbox,
            expires_at=None if deadline is None or batch_id else time.time() + deadline,
            slot_timeout=None if batch_id else timeout,
            queue=engine.queue,
            parent=self._parent,
        )

    async def _opened(self, entry: AgentEntry, key: str | None = None) -> Engine:
        owner: AgentRuntime = getattr(self, "_owner", self)
        engine = owner._engine_of()
        if owner._strict and owner.broker is not None:
            await wiring.examined(owner.broker, store=owner.store, namespace=owner.namespace, strict=True)
            owner._strict = False  # once
        await engine.open()
        if owner._embedded is not None:
            if entry.actor is None:
                raise UnknownAgent(entry.name, self.registry.names)
            await owner._serving(entry.actor)
        check_store(engine.queue.store, entry.name, key)
        await engine.declare(mailbox_for(entry.name, key))
        return engine

    async def _asked(self, entry: AgentEntry, key: str, message: object, timeout: float | None) -> AgentResult[Any]:
        (result,) = await self._gathered(entry, [message], timeout=timeout, key=key)
        return result

    def _names_here(self, entry: AgentEntry) -> Names | None:
        owner: AgentRuntime = getattr(self, "_owner", self)
        names = None if owner._embedded is None else owner._embedded.names
        return names if names is not None and names.has(entry.name) else None

    def _engine_of(self) -> Engine:
        if self._engine is None:
            if self._queue is None:
                self._queue = self._connected("memory://")
                self._embedded = Worker.embedded(
                    self._queue, self, self.registry, worker_id=self.runtime_id, lease=_EMBEDDED_LEASE
                )
            lease = _EMBEDDED_LEASE if self.broker is None else None
            self._engine = Engine(self._queue, runtime_id=self.runtime_id, owns_queue=True, lease=lease)
        return self._engine

    async def _serving(self, actor: AnyActor) -> None:
        assert self._embedded is not None
        await self._embedded.start()
        await self._embedded.serve(actor)

    def _connected(self, broker: str | Transport) -> TaskQueue:
        return wiring.connect(
            broker,
            store=self.store,
            namespace=self.namespace,
            consumer_id=self.runtime_id,
            lease=_EMBEDDED_LEASE if self.broker is None else None,
            retention=self.retention,
            signing_keys=self.signing_keys,
        )

    def _blocking(self, work: Coroutine[Any, Any, T], used: str, instead: str) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._runner = self._runner or asyncio.Runner()
            return self._runner.run(work)
        work.close()
        raise WrongForm(used=f"{used} inside a running event loop", instead=instead)
