"""What a supervisor can be told, as values: that a child ended, that a retry is due, and every request.

They wait in the supervisor's inbox, stand in its event stream, and are all that `core` decides on.
"""

from collections.abc import Mapping

from attrs import field, frozen

from supervisors.reasons import ExitReason
from supervisors.spec import ChildSpec


@frozen
class Exited:
    """A child ended by itself."""

    key: str
    incarnation: int
    reason: ExitReason


@frozen
class RetryDue:
    """The time of another attempt to start a child has come."""

    key: str


@frozen
class ShutDown:
    """Stop the children and end, with this reason."""

    reason: ExitReason


@frozen
class StartChild:
    """Add a child and start it."""

    spec: ChildSpec


@frozen
class StartDynamic:
    """Start a child from the template of a simple_one_for_one supervisor, with these arguments after its own."""

    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(factory=dict)


@frozen
class TerminateChild:
    """Stop a child."""

    key: str


@frozen
class RestartChild:
    """Start a child that does not run."""

    key: str


@frozen
class DeleteChild:
    """Forget a child that does not run."""

    key: str


@frozen
class Look:
    """Change nothing: answered between two decisions, it shows a state that no decision is in the middle of."""


Request = StartChild | StartDynamic | TerminateChild | RestartChild | DeleteChild | Look
Input = Exited | RetryDue | ShutDown | Request
