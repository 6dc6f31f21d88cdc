"""A fork server of our own: guarded, modules preloaded, and apart from what else the program does with multiprocess.

multiprocess has one for the whole program, which anybody may have started before us without our guard. Ours is
another instance of the same class, and our processes are made by it. The main script is not run again in children:
what they need of it is sent (see `target`). All calls come from one thread, see `spawner`.
"""

import contextlib
import io
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any

from multiprocess import context, forkserver, popen_forkserver, reduction, spawn, util

from supervisors.process import preload
from supervisors.process.strays import kill_descendants


class ForkServer(forkserver.ForkServer):  # type: ignore[misc]  # multiprocess has no types
    """One fork server process, started when it is needed and again when it died."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        super().__init__()
        self._modules = modules
        self.set_forkserver_preload([preload.__name__])
        self._pidfd: int | None = None

    @property
    def pid(self) -> int:
        """The server that runs now, or ran last; 0 before there was any."""
        return int(self._forkserver_pid or 0)

    def is_alive(self, pid: int = 0) -> bool:
        """Whether it runs, and is still the one of this pid, if one is given."""
        return self._pidfd is not None and not is_readable(self._pidfd) and pid in (0, self.pid)

    def ensure_running(self) -> None:
        """Start it if it does not run. Called by multiprocess before each child, too."""
        if self.is_alive():
            return
        with _environment(self._orders()):
            super().ensure_running()
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._pidfd = pidfd_of(self.pid)

    def kill(self) -> None:
        """End it at once. From any thread: also when the one that talks to it waits for ever."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def close(self) -> None:
        """End it, if it runs, with all that it adopted, and give back what is held of it."""
        if self.is_alive():
            kill_descendants(self.pid)  # also what hid from its child: in a session of its own, without our mark
        self.kill()
        self._stop()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _orders(self) -> dict[str, str]:
        """Its environment: what `preload` is to do, and where modules are found; multiprocess hands over neither."""
        orders = {"parent": os.getpid(), "modules": self._modules, "path": os.environ.get("PYTHONPATH")}
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        return {preload.ORDERS: json.dumps(orders), "PYTHONPATH": path}


class ServedProcess(context.ForkServerProcess):  # type: ignore[misc]  # multiprocess has no types
    """A process made by one given fork server."""

    def __init__(self, server: ForkServer, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._server: ForkServer | None = server

    def _Popen(self, process: Any) -> "_Popen":  # noqa: N802  the name is multiprocess's
        assert self._server is not None
        return _Popen(process, self._server)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_server": None}


class _Popen(popen_forkserver.Popen):  # type: ignore[misc]  # multiprocess has no types
    """multiprocess's own, but for the server it asks and the main script it leaves alone."""

    def __init__(self, process: Any, server: ForkServer) -> None:
        self._server = server
        super().__init__(process)

    def _launch(self, process: Any) -> None:
        preparation = spawn.get_preparation_data(process.name)
        for key in ("init_main_from_name", "init_main_from_path"):
            preparation.pop(key, None)
        buffer = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(preparation, buffer)
            reduction.dump(process, buffer)
        finally:
            context.set_spawning_popen(None)
        self.sentinel, to_child = self._server.connect_to_new_process(self._fds)
        kept = os.dup(to_child)  # the child sees its end as the death of its parent
        self.finalizer = util.Finalize(self, util.close_fds, (kept, self.sentinel))
        with open(to_child, "wb", closefd=True) as pipe:
            pipe.write(buffer.getbuffer())
        self.pid = forkserver.read_signed(self.sentinel)


def pidfd_of(pid: int) -> int | None:
    """Return a file descriptor that can be read when this process is dead; None where there is no such thing."""
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # an old kernel, or a sandbox
            return os.pidfd_open(pid)
    return None


def is_readable(fd: int, *, within: float = 0.0) -> bool:
    """Whether `fd` can be read within so many seconds."""
    poll = select.poll()  # select() knows no file descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(within * 1_000))


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Add to the environment for as long as a process is started: nothing else can be handed to a fork server."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
