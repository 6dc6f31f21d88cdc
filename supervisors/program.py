"""`run`: a supervision tree as the whole life of a process. Signals drain it; the exit code tells why it ended.

    if __name__ == "__main__":
        run(spec, drain=30.0)

The first SIGTERM or SIGINT asks the tree to stop, in order, each child with the time its spec gives it. What is not
done after `drain` seconds, or at a second signal, ends with the process. SIGQUIT writes all stacks to stderr, our own
at once, also when nothing else moves here any more, and those of all process children.
"""

import enum
import faulthandler
import os
import signal
import sys
from collections.abc import Iterable
from typing import Final, Literal, NoReturn

import anyio
from anyio import CancelScope
from anyio.abc import TaskStatus
from attrs import define, field

from supervisors.errors import SpecError, StartFailed, SupervisorFailed
from supervisors.opening import open_supervisor
from supervisors.processes import Processes
from supervisors.reasons import Stuck
from supervisors.spec import SupervisorSpec
from supervisors.supervisor import Supervisor

SIGQUIT: Final = (signal.SIGQUIT,) if hasattr(signal, "SIGQUIT") else ()
_SIGNALLED: Final = 128  # a second signal ends the process with this and its number, as shells count


class ExitCode(enum.IntEnum):
    """Why a process that was `run` ended. A SystemExit of a child brings its own code."""

    OK = 0  # asked to stop, and did; or all that was significant is done
    GAVE_UP = 70  # more restarts than the root's intensity allows
    NOT_STARTED = 71  # a child did not start
    NOT_DRAINED = 75  # something was still running after `drain` seconds
    STUCK = 86  # a task swallowed its cancellation: only a new process helps


def run(
    spec: SupervisorSpec,
    *,
    name: str = "root",
    drain: float = 60.0,
    processes: Processes | None = None,
    backend: Literal["asyncio", "trio"] = "asyncio",
) -> NoReturn:
    """Start a tree, serve until it ends or is asked to, and exit with an `ExitCode`. Call it in the main thread.

    `drain`: seconds the tree has to stop, once asked. Raises: SpecError.
    """
    if not isinstance(spec, SupervisorSpec):
        raise SpecError(field="spec", value=spec, allowed="a SupervisorSpec")
    if not isinstance(drain, int | float) or isinstance(drain, bool) or not drain > 0:
        raise SpecError(field="drain", value=drain, allowed="a number of seconds above 0")
    _write_stacks_at(SIGQUIT, chain=False)
    sys.exit(anyio.run(_live, spec, name, drain, processes, backend=backend))


async def _live(spec: SupervisorSpec, name: str, drain: float, processes: Processes | None) -> int:
    return await _Life(spec, name, drain, processes).live()


@define
class _Life:
    """One tree from start to exit code."""

    spec: SupervisorSpec
    name: str
    drain: float
    processes: Processes | None
    supervisor: Supervisor | None = None
    starting: CancelScope = field(factory=CancelScope)

    async def live(self) -> int:
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._listen)
            code = await self._hold()
            tasks.cancel_scope.cancel()
        return code

    async def _hold(self) -> int:
        try:
            with self.starting:
                async with open_supervisor(self.spec, name=self.name, processes=self.processes) as self.supervisor:
                    reason = await self.supervisor.wait()
                    if isinstance(reason, Stuck):  # the block would wait for that task for ever
                        os._exit(_told(str(reason), ExitCode.STUCK))
        except StartFailed as failure:
            return _told(f"{self.name} did not start: {failure}", ExitCode.NOT_STARTED)
        except SupervisorFailed as failure:
            return _told(str(failure), ExitCode.GAVE_UP)
        except SystemExit as wanted:  # a child's own
            return _code_of(wanted)
        except KeyboardInterrupt:
            return _SIGNALLED + signal.SIGINT
        return ExitCode.OK

    async def _listen(self, *, task_status: TaskStatus[None]) -> None:
        for number in SIGQUIT:
            faulthandler.unregister(number)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *SIGQUIT) as signals:
            _write_stacks_at(SIGQUIT, chain=True)  # in front of the receiver
            task_status.started()
            async with anyio.create_task_group() as tasks:
                is_asked = False
                async for number in signals:
                    if number in SIGQUIT:
                        tasks.start_soon(self._show_stacks)
                        continue
                    if is_asked:
                        os._exit(_told(f"{self.name}: {number.name} again, ends at once", _SIGNALLED + number))
                    is_asked = True
                    _told(f"{self.name}: {number.name}, stops within {self.drain:g} s", ExitCode.OK)
                    self._stop()
                    tasks.start_soon(self._bound)

    async def _show_stacks(self) -> None:
        """Of the children; our own are written already."""
        if self.supervisor is not None:
            for path, stacks in (await self.supervisor.dump_stacks()).items():
                _told(f"\n{path}:\n{stacks or 'says nothing'}", ExitCode.OK)

    def _stop(self) -> None:
        if self.supervisor is None:
            self.starting.cancel()
        else:
            self.supervisor.request_shutdown()

    async def _bound(self) -> None:
        await anyio.sleep(self.drain)
        left = self.supervisor.render_tree() if self.supervisor is not None else self.name
        os._exit(_told(f"not done after {self.drain:g} s:\n{left}", ExitCode.NOT_DRAINED))


def _write_stacks_at(numbers: Iterable[int], *, chain: bool) -> None:
    """Have these signals write our stacks to stderr, without the interpreter; `chain`: and then do what they did."""
    for number in numbers if sys.stderr is not None else ():
        faulthandler.register(number, all_threads=True, chain=chain)


def _code_of(wanted: SystemExit) -> int:
    """Return the exit code as the interpreter makes it of a SystemExit: a text is written, and means 1."""
    if wanted.code is None or isinstance(wanted.code, int):
        return wanted.code or 0
    return _told(str(wanted.code), 1)


def _told(text: str, code: int) -> int:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
    return code
