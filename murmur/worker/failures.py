"""The end of a worker's tree, told as an error of ours: what failed innermost, not the chain of who passed it on."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from murmur.errors import BrokerRefused, WorkerGaveUp, WorkerNotStarted
from supervisors import StartFailed
from supervisors.errors import StartTimeout, SupervisorFailed
from supervisors.reasons import Crashed, Escalated


@contextmanager
def told_as_ours(modules: Collection[str]) -> Iterator[None]:
    """Turn what ended a supervision tree into `WorkerNotStarted` or `WorkerGaveUp`, with the notes of its cause.

    `modules`: those of the actors, which each process imports.

    What the broker refused stays `BrokerRefused`: no code is to blame for it.
    """
    try:
        yield
    except StartFailed as failed:
        cause = innermost(failed)
        if isinstance(cause, BrokerRefused):
            raise cause from failed
        error = WorkerNotStarted(_problem(cause, failed.child, modules))
        for note in getattr(cause, "__notes__", ()):
            error.add_note(note)
        raise error from failed
    except SupervisorFailed as failed:
        raise WorkerGaveUp(str(innermost(failed))) from failed


def _problem(cause: object, child: str, modules: Collection[str]) -> str:
    match cause:
        case StartTimeout():
            return (
                f"{cause.path} was not ready after {cause.timeout:g} s: importing {', '.join(sorted(modules))} takes "
                "too long there, or never ends; what takes long belongs into started() of the actor"
            )
        case BaseException():
            return str(cause)
        case _:
            return f"{child}: {cause}"


def innermost(reason: object) -> object:
    """Return the cause at the bottom of a chain of failures: an exception, or an exit reason."""
    while True:
        match reason:
            case StartFailed() | SupervisorFailed():
                reason = reason.reason
            case Crashed():
                if not isinstance(reason.error, StartFailed | SupervisorFailed):
                    return reason.error
                reason = reason.error
            case Escalated():
                reason = reason.cause
            case _:
                return reason
