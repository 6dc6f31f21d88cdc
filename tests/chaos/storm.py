"""`python -m tests.chaos --tasks N --seed S`: a fleet on a real broker, and about one fault a second until it is done.

Workers and the publisher are real processes, each behind a network that is cut, swallowed, delayed and throttled; they
are killed, frozen for three leases, and drained; the server is killed, frozen and restarted. The lease is two seconds.
With `--processes N` each worker is a node with N worker processes, which are killed, frozen and crashed as well.
"""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import psutil
from attrs import define, field

from murmur import wiring
from murmur.ids import task_id_in_batch
from murmur.task_queue import TaskQueue
from murmur.transport import Outgoing, Receipt
from tests.brokers.proxy import Proxy
from tests.brokers.server import Server
from tests.chaos import processes
from tests.chaos.checker import Found, violations
from tests.chaos.history import events

LEASE: Final = 2.0  # seconds
WORKERS: Final = 3
BATCH: Final = "storm"
_SPARED: Final = 0  # the worker that is frozen and cut off, but not ended, in storms with worker processes
_STRIKES: Final = (  # what befalls worker processes: weight, name, signal
    (6, "process killed", signal.SIGKILL),
    (3, "process frozen", signal.SIGSTOP),
    (3, "process crashed", signal.SIGSEGV),
)
_ROOT: Final = Path(__file__).parents[2]


@define
class Report:
    """What a storm was, and what it broke."""

    tasks: int
    seconds: float
    faults: Counter[str]
    starts: int
    broken: list[str] = field(factory=list)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {what}" for what, count in self.faults.most_common())
        return (
            f"{self.tasks:,} tasks in {self.seconds:.0f} s, {self.starts:,} starts, "
            f"{self.faults.total()} faults ({faults}): {len(self.broken)} violations"
        )


class Storm:
    """One run. Belongs to a loop."""

    def __init__(self, server: Server, folder: Path, *, tasks: int, seed: int, processes: int = 0) -> None:
        self._server = server
        self._processes = processes
        self._folder = folder
        self._tasks = tasks
        self._dice = random.Random(seed)
        self._history, self._receiver = folder / "history.jsonl", folder / "receiver.db"
        self._proxies: list[Proxy] = []
        self._workers: list[subprocess.Popen[bytes]] = []
        self._publisher: subprocess.Popen[bytes] | None = None
        self._faults: Counter[str] = Counter()
        self._lasting: set[asyncio.Task[Any]] = set()  # faults that go on for a while
        self._broker = asyncio.Lock()  # one thing at a time happens to it
        self._leaks: list[str] = []

    async def run(self, *, calm_after: float = 1e9) -> Report:
        """Run it to its end; no faults any more after `calm_after` seconds."""
        with contextlib.closing(sqlite3.connect(self._receiver)) as sql:
            sql.execute("PRAGMA journal_mode = WAL")
            sql.execute("CREATE TABLE effects (key TEXT, token INTEGER)")
            sql.execute("CREATE INDEX effects_by_key ON effects (key)")
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(WORKERS + 1):
                self._proxies.append(await stack.enter_async_context(Proxy(self._server.port)))
            stack.callback(self._end)
            self._workers = [self._worker(number) for number in range(WORKERS)]
            self._publisher = self._published()
            garbling = asyncio.ensure_future(self._garble(self._tasks // 100))
            files = await processes.files_of(self._workers[_SPARED]) if self._processes else 0
            began = time.monotonic()
            while self._publisher.poll() is None or self._publisher.returncode != 0:
                if self._publisher.poll() is not None:
                    self._publisher = self._published()  # it was killed: the batch is resumed
                await asyncio.sleep(self._dice.uniform(0.5, 1.5))
                if time.monotonic() - began < calm_after:
                    self._fault()
                self._revive()
            if self._lasting:
                await asyncio.wait(self._lasting)  # the broker must be there to be asked
            await garbling
            if self._processes:
                self._leaks += await processes.leaked_files(self._workers[_SPARED], files)
        self._leaks += await processes.orphans(f"HISTORY={self._history}")
        seconds = time.monotonic() - began
        starts = sum(1 for _ in events(self._history, "start"))
        return Report(self._tasks, seconds, self._faults, starts, await self._checked())

    # -- faults -----------------------------------------------------------------------------------

    def _fault(self) -> None:
        faults: list[tuple[int, str, Callable[[], Any]]] = [
            (4, "worker killed", self._ended_one().kill),
            (3, "worker frozen", lambda: self._freeze(self._dice.randrange(WORKERS))),
            (2, "worker drained", self._ended_one().terminate),
            (4, "connections cut", lambda: self._dice.choice(self._proxies).cut()),
            (2, "requests swallowed", lambda: self._for_a_while("loses_requests", True)),
            (2, "replies swallowed", lambda: self._for_a_while("loses_replies", True)),
            (2, "delay", lambda: self._for_a_while("delay", 0.2)),
            (1, "throttle", lambda: self._for_a_while("bytes_per_second", 20_000)),
            (1, "publisher killed", lambda: self._publisher and self._publisher.kill()),
            (1, "broker killed", self._restart),
            (1, "broker frozen", self._freeze_broker),
        ]
        if self._processes:
            faults += [(weight, name, partial(self._strike, number)) for weight, name, number in _STRIKES]
        _, name, do = self._dice.choices(faults, [weight for weight, _, _ in faults])[0]
        self._faults[name] += 1
        done = do()
        if asyncio.iscoroutine(done):
            task = asyncio.ensure_future(done)
            self._lasting.add(task)
            task.add_done_callback(self._lasting.discard)

    def _ended_one(self) -> "subprocess.Popen[bytes]":
        """Return a worker that may end: with worker processes the first one stays, to see what it keeps of the dead."""
        return self._workers[self._dice.randrange(_SPARED + 1 if self._processes else 0, WORKERS)]

    def _strike(self, number: int) -> None:
        """Send a signal to any worker process of any node; a frozen one is thawed after three leases."""
        pids = [pid for worker in self._workers for pid in processes.below(worker)]
        if not pids:
            return
        struck = psutil.Process(self._dice.choice(pids))
        struck.send_signal(number)
        if number == signal.SIGSTOP:
            asyncio.get_running_loop().call_later(3 * LEASE, processes.thaw, struck)

    async def _freeze(self, number: int) -> None:
        worker = self._workers[number]
        if worker.poll() is not None:
            return
        worker.send_signal(signal.SIGSTOP)
        asyncio.get_running_loop().call_later(3 * LEASE, self._thaw, worker)

    def _thaw(self, worker: "subprocess.Popen[bytes]") -> None:
        if worker.poll() is None:
            worker.send_signal(signal.SIGCONT)

    async def _for_a_while(self, what: str, value: object) -> None:
        proxy = self._dice.choice(self._proxies)
        setattr(proxy, what, value)
        await asyncio.sleep(self._dice.uniform(0.5, 2 * LEASE))
        proxy.heal()
        proxy.cut()  # who missed something starts afresh

    async def _restart(self) -> None:
        async with self._broker:
            await asyncio.to_thread(self._server.kill)
            await asyncio.sleep(self._dice.uniform(0.0, LEASE))
            await asyncio.to_thread(self._server.start)

    async def _freeze_broker(self) -> None:
        async with self._broker:
            self._server.pause()
            await asyncio.sleep(self._dice.uniform(0.5, 1.5 * LEASE))
            self._server.resume()

    async def _garble(self, count: int) -> None:
        """Publish bytes that are no task, each once, whatever happens to the broker meanwhile."""
        queue = self._asked()
        await queue.open(owner="foe", lease=None)
        await queue.open_tasks(["storm"])
        for number in range(count):
            message = Outgoing("storm.tasks", f"garbage {number}".encode(), f"garbage-{number}")
            answers: Sequence[object] = (None,)
            while not isinstance(answers[0], Receipt):
                answers = await queue.transport.publish([message])
                await asyncio.sleep(self._dice.random() * 0.5)
        await queue.close()

    def _asked(self) -> TaskQueue:
        return wiring.connect(
            self._server.url, store=None, namespace="", consumer_id="checker", lease=None, retention=86_400.0
        )

    # -- processes --------------------------------------------------------------------------------

    def _revive(self) -> None:
        for number, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self._workers[number] = self._worker(number)

    def _worker(self, number: int) -> "subprocess.Popen[bytes]":
        app = ("--app", "tests.chaos.agents", "--consumer-id", f"w{number}", "--concurrency", "15", "--drain", "2")
        # Nobody watches, so no heartbeat.
        lease = ("--reclaim-min-idle-ms", str(round(LEASE * 1000)), "--heartbeat", "0")
        app += ("--processes", str(self._processes))
        return self._process(
            number, "-m", "murmur.cli.main", "worker", "start", *app, *lease, "--broker", self._url(number)
        )

    def _published(self) -> "subprocess.Popen[bytes]":
        arguments = (self._url(WORKERS), BATCH, str(self._tasks), str(self._history))
        return self._process(WORKERS, "-m", "tests.chaos.publisher", *arguments)

    def _process(self, number: int, *arguments: str) -> "subprocess.Popen[bytes]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MURMUR_")}
        files = {"HISTORY": str(self._history), "RECEIVER": str(self._receiver), "PYTHONPATH": str(_ROOT)}
        with (self._folder / f"process-{number}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *arguments], cwd=_ROOT, env={**clean, **files}, stdout=log, stderr=log
            )

    def _url(self, number: int) -> str:
        return self._server.url.replace(f":{self._server.port}", f":{self._proxies[number].port}")

    def _end(self) -> None:
        for process in (*self._workers, *([self._publisher] if self._publisher else ())):
            process.kill()
            process.wait()

    async def _checked(self) -> list[str]:
        queue = self._asked()
        await queue.open(owner="checker", lease=None)
        try:
            rows = await queue.store.read([task_id_in_batch(BATCH, number) for number in range(self._tasks)])
            letters = await queue.dead_letters("storm", limit=self._tasks * 2)
        finally:
            await queue.close()
        return self._leaks + violations(
            Found(self._tasks, BATCH, self._history, self._receiver, rows, letters, self._tasks // 100)
        )
