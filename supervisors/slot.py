"""What a supervisor remembers of one child."""

import enum

from attrs import define

from supervisors.reasons import ExitReason
from supervisors.spec import ChildSpec, Restart


class State(enum.Enum):
    """What a child is doing. Between decisions it is never STARTING or STOPPING."""

    UNDEFINED = "undefined"  # known, not running
    STARTING = "starting"
    UP = "up"
    STOPPING = "stopping"
    RESTARTING = "restarting"  # failed; another attempt follows
    PAUSED = "paused"  # failed too often; held back for a while
    STUCK = "stuck"  # did not end when it was killed


@define(eq=False)
class Slot:
    """One child the supervisor knows: its spec, and the incarnation that runs, if any."""

    spec: ChildSpec
    key: str
    state: State = State.UNDEFINED
    incarnation: int = 0  # the latest
    info: object = None
    up_since: float = 0.0
    restarts: int = 0  # attempts, ever
    failures: int = 0  # attempts in a row; sets the backoff
    retry_at: float = 0.0
    cause: ExitReason | None = None  # of the latest end, or of the latest start that failed
    is_held: bool = False  # an operator terminated it

    @property
    def is_temporary(self) -> bool:
        """Whether the child is forgotten once it does not run."""
        return self.spec.restart is Restart.TEMPORARY

    @property
    def is_alive(self) -> bool:
        """Whether something of the child runs."""
        return self.state in (State.UP, State.STUCK)
