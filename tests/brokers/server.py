"""A real server as a child process: start, stop, kill, pause, and start again where it was.

What all brokers share is here: a free port, a folder for its files, a log, waiting until it
answers, and dying with the test run. What one broker is told and how it shows that it is ready
is in its subclass. Blocking throughout; a coroutine calls `asyncio.to_thread(server.restart)`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

HOST: Final = "127.0.0.1"
LEASH: Final = Path(__file__).with_name("leash.py")
_PORT_TRIES: Final = 3

# PDEATHSIG fires when the *thread* that forked ends. A server that was started from a thread
# of some event loop would die with that loop, so all are started from one that stays.
_starter: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server-starter")


class ServerFailed(Exception):
    """A server did not do what it was told; the end of its log is in the text."""


class Server(ABC):
    """One server process at a time, on one port and one folder for as long as the object lives."""

    name: ClassVar[str]  # as people say it
    binary: ClassVar[str]  # what must be on the PATH
    get_it: ClassVar[str]  # a line to type where it is not
    ready_within: ClassVar[float] = 15.0  # seconds from the start to the first answer
    stop_within: ClassVar[float] = 10.0  # seconds from SIGTERM to SIGKILL

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log_file = folder / f"{self.binary}.log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_before = False

    @classmethod
    def is_installed(cls) -> bool:
        """Say whether the binary is on the PATH."""
        return shutil.which(cls.binary) is not None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where a client finds it, credentials included."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return what to execute in the foreground; write the files that it reads."""

    @abstractmethod
    def answers(self) -> bool:
        """Say whether it serves clients now, within a second and without a client library."""

    @property
    def pid(self) -> int:
        """The process that runs now, or ran last."""
        if self._process is None:
            raise ServerFailed(f"{self.name} was never started; call start() first")
        return self._process.pid

    def is_running(self) -> bool:
        """Say whether its process lives; a paused one does."""
        return self._process is not None and self._process.poll() is None

    def log(self, *, lines: int = 60) -> str:
        """Return the end of what it wrote, over all its starts."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def start(self) -> None:
        """Run it and return once it answers. It must not be running."""
        if self.is_running():
            raise ServerFailed(f"{self.name} runs already, as process {self.pid}; stop it first")
        for tries_left in reversed(range(1 if self._started_before else _PORT_TRIES)):
            try:
                self._start_once()
            except ServerFailed:
                # Somebody may have taken the port since it was found free.
                if not tries_left or "in use" not in self.log().lower():
                    raise
                self.port = free_port()
            else:
                self._started_before = True
                return

    def stop(self) -> None:
        """Ask it to end, as an operator does; its data stay. Nothing happens if it does not run."""
        self._end(signal.SIGTERM, within=self.stop_within)

    def kill(self) -> None:
        """End it and all its children at once, as `kill -9` does; its data stay."""
        self._end(signal.SIGKILL, within=self.stop_within)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same port with the same data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Hold it with SIGSTOP: its connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on with SIGCONT."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def _start_once(self) -> None:
        leashed = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *self.command()]
        self._process = _starter.submit(self._spawn, leashed).result()
        deadline = time.monotonic() + self.ready_within
        while not self.answers():
            exit_code = self._process.poll()
            if exit_code is not None:
                raise ServerFailed(f"{self.name} ended with {exit_code} before it answered. Its log:\n{self.log()}")
            if time.monotonic() >= deadline:
                self.kill()
                waited = f"{self.ready_within:.0f} s"
                raise ServerFailed(
                    f"{self.name} did not answer on port {self.port} in {waited}. Its log:\n{self.log()}"
                )
            time.sleep(0.005)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest; and its children can be killed with it
            )

    def _end(self, how: signal.Signals, *, within: float) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        os.killpg(self.pid, how)
        os.killpg(self.pid, signal.SIGCONT)  # a paused process does not hear SIGTERM
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(within)

    def _signal(self, number: signal.Signals) -> None:
        if not self.is_running():
            raise ServerFailed(f"{self.name} does not run, so it cannot get {number.name}. Its log:\n{self.log()}")
        os.killpg(self.pid, number)


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
