"""Erlang/OTP supervision for Python: anyio tasks and operating-system processes."""

from supervisors.backoff import Backoff
from supervisors.child import ChildContext, Exit
from supervisors.errors import (
    AlreadyPresent,
    AlreadyStarted,
    BadCombination,
    DuplicateChild,
    IntensityExceeded,
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
from supervisors.opening import open_supervisor
from supervisors.processes import Processes
from supervisors.recycle import Recycle
from supervisors.remote_error import RemoteError
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
    "Init",
    "Intensity",
    "IntensityExceeded",
    "Isolation",
    "MaxChildren",
    "NotAlive",
    "NotFound",
    "Processes",
    "Recycle",
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
]
