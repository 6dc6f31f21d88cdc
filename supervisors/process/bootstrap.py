"""The first and the last lines of a process child: guarded before it says hello, gone in time after its last words.

Order matters. The kernel is told to kill this process with its parent before anything can go wrong; hello is said
only then; and nothing is run before the supervisor has answered that it watches the process, or a quick end
would be seen by nobody. What runs then is in `inside`. Blocking: there is no event loop yet.
"""

import contextlib
import faulthandler
import io
import os
import resource
import signal
import socket
import struct
import sys
import threading
from typing import Any, Final

from multiprocess import reduction

from supervisors.channel import HEADER, Lane, frame
from supervisors.process import inside, preload
from supervisors.process.beats import Page, private_memory
from supervisors.process.confine import die_first
from supervisors.process.guard import die_with_parent, kill_group, lead_a_session
from supervisors.process.messages import Go, Hello, Order, encode, from_supervisor
from supervisors.process.strays import MARK

DUMP_SIGNAL: Final = signal.SIGUSR2
LINGER: Final = 1.0  # seconds from the last words of a child to its end, whatever its exit handlers do


class PassedFd:
    """A file descriptor among the arguments of a process: the child gets the number it has there."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (reduction.DupFd(self._fd),)


def _received(handle: Any) -> int:
    fd: int = handle.detach()
    return fd


def main(control: int, page: int, dump: int, order: Order, *output: int) -> None:
    """Run one child from start to end, in its own process. All but the order are file descriptors."""
    _guard(order, dump)
    _print_to(*output)
    connection = socket.socket(fileno=control)
    failures = dict(preload.failures)
    if order.is_preloaded and not preload.is_loaded:
        failures[preload.__name__] = "the fork server did not import it"
    connection.sendall(frame(Lane.CONTROL, encode(Hello(failures))))
    if _is_told_to_go(connection):
        beats = Beats(Page(page), order)
        beats.start()
        sys.exit(inside.live(order, connection, beats.page, beats.leave))


class Beats(threading.Thread):
    """The second heartbeat: says that the interpreter runs, and how much memory it holds.

    Also what ends the process when its exit handlers do not return, or its parent is gone.
    """

    def __init__(self, page: Page, order: Order) -> None:
        super().__init__(name="supervisors-beats", daemon=True)
        self.page = page
        self._order = order
        self._leaving = threading.Event()
        self._code = 1

    def leave(self, code: int) -> None:
        """Nothing is left to do: the process ends by itself within `LINGER`, or is ended."""
        self._code = code
        self._leaving.set()

    def run(self) -> None:
        """Beat until the process ends."""
        while not self._leaving.wait(self._order.every):
            self.page.beat_of_thread()
            self.page.set_memory(private_memory())
            if os.getppid() != self._order.parent:  # where the kernel does not see to it
                kill_group(os.getpid())
                os._exit(1)
        threading.Event().wait(LINGER)
        os._exit(self._code)


def _guard(order: Order, dump: int) -> None:
    if not die_with_parent(order.parent):
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's: it stops its children in their order
    for number in (signal.SIGTERM, preload.PARENT_DIED):  # the fork server has its own
        signal.signal(number, signal.SIG_DFL)
    lead_a_session()
    os.environ[MARK] = str(os.getpid())
    die_first()
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core holds every secret in memory
    faulthandler.register(DUMP_SIGNAL, file=dump, all_threads=True)
    faulthandler.enable(file=dump, all_threads=True)


def _print_to(*output: int) -> None:
    """Let these be stdout and stderr, also of what is started from here."""
    for standard, fd in enumerate(output, start=1):
        os.dup2(fd, standard)
        os.close(fd)
    for stream in (sys.stdout, sys.stderr) if output else ():
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # it was made for something else


def _is_told_to_go(connection: socket.socket) -> bool:
    """Wait for the first frame, no byte more than it. False: the supervisor hung up."""
    with contextlib.suppress(ConnectionError):
        length, lane = struct.unpack(HEADER, _exactly(connection, struct.calcsize(HEADER)))
        message = from_supervisor.decode(_exactly(connection, length))
        return lane == Lane.CONTROL and isinstance(message, Go)
    return False


def _exactly(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        more = connection.recv(count - len(received))
        if not more:
            raise ConnectionResetError("the supervisor hung up")
        received += more
    return received
