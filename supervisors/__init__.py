"""Erlang/OTP supervision for Python: anyio tasks and operating-system processes.

Names are imported when first used: `import supervisors` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisors.backoff import Backoff as Backoff
    from supervisors.child import ChildContext as ChildContext
    from supervisors.child import Exit as Exit
    from supervisors.errors import AlreadyPresent as AlreadyPresent
    from supervisors.errors import AlreadyRegistered as AlreadyRegistered
    from supervisors.errors import AlreadyStarted as AlreadyStarted
    from supervisors.errors import BadCombination as BadCombination
    from supervisors.errors import DuplicateChild as DuplicateChild
    from supervisors.errors import IntensityExceeded as IntensityExceeded
    from supervisors.errors import MailboxClosed as MailboxClosed
    from supervisors.errors import MailboxFull as MailboxFull
    from supervisors.errors import MaxChildren as MaxChildren
    from supervisors.errors import NotAlive as NotAlive
    from supervisors.errors import NotFound as NotFound
    from supervisors.errors import RequestError as RequestError
    from supervisors.errors import Restarting as Restarting
    from supervisors.errors import Running as Running
    from supervisors.errors import SimpleOneForOne as SimpleOneForOne
    from supervisors.errors import SpecError as SpecError
    from supervisors.errors import StartFailed as StartFailed
    from supervisors.errors import SupervisorError as SupervisorError
    from supervisors.errors import SupervisorFailed as SupervisorFailed
    from supervisors.intensity import Intensity as Intensity
    from supervisors.limits import Limits as Limits
    from supervisors.mailbox import Mailbox as Mailbox
    from supervisors.mailbox import Overflow as Overflow
    from supervisors.opening import open_supervisor as open_supervisor
    from supervisors.output import Output as Output
    from supervisors.partition import PartitionSupervisor as PartitionSupervisor
    from supervisors.processes import Processes as Processes
    from supervisors.program import ExitCode as ExitCode
    from supervisors.program import run as run
    from supervisors.recycle import Recycle as Recycle
    from supervisors.registry import Registry as Registry
    from supervisors.remote_error import RemoteError as RemoteError
    from supervisors.slot import State as State
    from supervisors.spec import AutoShutdown as AutoShutdown
    from supervisors.spec import ChildSpec as ChildSpec
    from supervisors.spec import ChildType as ChildType
    from supervisors.spec import Exceeded as Exceeded
    from supervisors.spec import Init as Init
    from supervisors.spec import Isolation as Isolation
    from supervisors.spec import Restart as Restart
    from supervisors.spec import Shutdown as Shutdown
    from supervisors.spec import Strategy as Strategy
    from supervisors.spec import SupervisorSpec as SupervisorSpec
    from supervisors.supervisor import Supervisor as Supervisor
    from supervisors.views import ChildCounts as ChildCounts
    from supervisors.views import ChildInfo as ChildInfo
    from supervisors.views import ChildRef as ChildRef
    from supervisors.watchdog import Watchdog as Watchdog

_WHERE = {
    "AlreadyPresent": "supervisors.errors",
    "AlreadyRegistered": "supervisors.errors",
    "AlreadyStarted": "supervisors.errors",
    "AutoShutdown": "supervisors.spec",
    "Backoff": "supervisors.backoff",
    "BadCombination": "supervisors.errors",
    "ChildContext": "supervisors.child",
    "ChildCounts": "supervisors.views",
    "ChildInfo": "supervisors.views",
    "ChildRef": "supervisors.views",
    "ChildSpec": "supervisors.spec",
    "ChildType": "supervisors.spec",
    "DuplicateChild": "supervisors.errors",
    "Exceeded": "supervisors.spec",
    "Exit": "supervisors.child",
    "ExitCode": "supervisors.program",
    "Init": "supervisors.spec",
    "Intensity": "supervisors.intensity",
    "IntensityExceeded": "supervisors.errors",
    "Isolation": "supervisors.spec",
    "Mailbox": "supervisors.mailbox",
    "MailboxClosed": "supervisors.errors",
    "MailboxFull": "supervisors.errors",
    "MaxChildren": "supervisors.errors",
    "NotAlive": "supervisors.errors",
    "NotFound": "supervisors.errors",
    "Overflow": "supervisors.mailbox",
    "PartitionSupervisor": "supervisors.partition",
    "Processes": "supervisors.processes",
    "Limits": "supervisors.limits",
    "Output": "supervisors.output",
    "Recycle": "supervisors.recycle",
    "Registry": "supervisors.registry",
    "RemoteError": "supervisors.remote_error",
    "RequestError": "supervisors.errors",
    "Restart": "supervisors.spec",
    "Restarting": "supervisors.errors",
    "Running": "supervisors.errors",
    "Shutdown": "supervisors.spec",
    "SimpleOneForOne": "supervisors.errors",
    "SpecError": "supervisors.errors",
    "StartFailed": "supervisors.errors",
    "State": "supervisors.slot",
    "Strategy": "supervisors.spec",
    "Supervisor": "supervisors.supervisor",
    "SupervisorError": "supervisors.errors",
    "SupervisorFailed": "supervisors.errors",
    "SupervisorSpec": "supervisors.spec",
    "Watchdog": "supervisors.watchdog",
    "open_supervisor": "supervisors.opening",
    "run": "supervisors.program",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605  a list of the names above


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
