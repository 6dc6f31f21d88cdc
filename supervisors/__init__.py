"""Erlang/OTP supervision for Python: anyio tasks and operating-system processes."""

from supervisors.backoff import Backoff
from supervisors.child import ChildContext, Exit
from supervisors.errors import (
    AlreadyPresent,
    AlreadyRegistered,
    AlreadyStarted,
    BadCombination,
    DuplicateChild,
    IntensityExceeded,
    MailboxClosed,
    MailboxFull,
    MaxChildren,
    NotAlive,
    NotFound,
    RequestError,
    Restarting,
    Running,
    SimpleOneForOne,
    SpecError,
    StartFailed,
    SupervisorError,
    SupervisorFailed,
)
from supervisors.intensity import Intensity
from supervisors.mailbox import Mailbox, Overflow
from supervisors.opening import open_supervisor
from supervisors.partition import PartitionSupervisor
from supervisors.processes import Processes
from supervisors.recycle import Recycle
from supervisors.registry import Registry
from supervisors.remote_error import RemoteError
from supervisors.run import ExitCode, run
from supervisors.slot import State
from supervisors.spec import (
    AutoShutdown,
    ChildSpec,
    ChildType,
    Exceeded,
    Init,
    Isolation,
    Restart,
    Shutdown,
    Strategy,
    SupervisorSpec,
)
from supervisors.supervisor import Supervisor
from supervisors.views import ChildCounts, ChildInfo, ChildRef
from supervisors.watchdog import Watchdog

__all__ = [
    "AlreadyPresent",
    "AlreadyRegistered",
    "AlreadyStarted",
    "AutoShutdown",
    "Backoff",
    "BadCombination",
    "ChildContext",
    "ChildCounts",
    "ChildInfo",
    "ChildRef",
    "ChildSpec",
    "ChildType",
    "DuplicateChild",
    "Exceeded",
    "Exit",
    "ExitCode",
    "Init",
    "Intensity",
    "IntensityExceeded",
    "Isolation",
    "Mailbox",
    "MailboxClosed",
    "MailboxFull",
    "MaxChildren",
    "NotAlive",
    "NotFound",
    "Overflow",
    "PartitionSupervisor",
    "Processes",
    "Recycle",
    "Registry",
    "RemoteError",
    "RequestError",
    "Restart",
    "Restarting",
    "Running",
    "Shutdown",
    "SimpleOneForOne",
    "SpecError",
    "StartFailed",
    "State",
    "Strategy",
    "Supervisor",
    "SupervisorError",
    "SupervisorFailed",
    "SupervisorSpec",
    "Watchdog",
    "open_supervisor",
    "run",
]
