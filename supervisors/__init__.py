"""Erlang/OTP supervision for Python: children that are kept alive, in an order, within limits."""

from supervisors.core import Answer, Status
from supervisors.reasons import StartFailed, SupervisorGaveUp
from supervisors.spec import (
    AutoShutdown,
    Backoff,
    ChildSpec,
    Intensity,
    IntensityExceeded,
    InvalidSpec,
    Restart,
    Shutdown,
    Strategy,
    SupervisorSpec,
)
from supervisors.tasks import ChildContext, ChildInfo, Supervisor, open_supervisor

__all__ = [
    "Answer",
    "AutoShutdown",
    "Backoff",
    "ChildContext",
    "ChildInfo",
    "ChildSpec",
    "Intensity",
    "IntensityExceeded",
    "InvalidSpec",
    "Restart",
    "Shutdown",
    "StartFailed",
    "Status",
    "Strategy",
    "Supervisor",
    "SupervisorGaveUp",
    "SupervisorSpec",
    "open_supervisor",
]
