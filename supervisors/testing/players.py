"""What plays a scenario: a shell under test, seen through the few things a scenario does to it."""

from collections.abc import Callable
from typing import Final, Protocol

from attrs import define, field

from supervisors.inputs import Request
from supervisors.reasons import ExitReason
from supervisors.spec import ChildSpec, Init
from supervisors.testing.puppet import Puppet
from supervisors.views import ChildRef, Snapshot

TOP: Final = "top"


@define(eq=False)
class Pending:
    """A request on its way, and later its answer."""

    is_start: bool = False  # of a child; answered by `ref`, or by None if the child declined
    ref: ChildRef | None = None
    snapshot: Snapshot | None = None
    spec: ChildSpec | None = None
    error: Exception | None = None


@define(eq=False)
class Stage:
    """What a scenario and its player share. `log` has OTP's events; `labels` the labels of dynamic children, by path;
    `puppets`, by label, those that began last.

    `on_failing`, if set, is called when a start is about to fail. It posts what arrives meanwhile, and returns
    what is to be called when that has arrived.
    """

    log: list[list[str]] = field(factory=list)
    labels: dict[str, str] = field(factory=dict)
    puppets: dict[str, Puppet] = field(factory=dict)
    on_failing: Callable[[], Callable[[], None]] | None = None

    def began(self, path: str, puppet: Puppet, outcome: str) -> Callable[[], None]:
        """A puppet begins to start. Call what is returned when everything that was posted has arrived."""
        self.log.append(["start", puppet.label, outcome])
        self.puppets[puppet.label] = puppet
        if path.rpartition("/")[2] != puppet.label:
            self.labels[path] = puppet.label
        if outcome in ("error", "raise") and self.on_failing is not None:
            interject, self.on_failing = self.on_failing, None
            return interject()
        return _nothing


def _nothing() -> None:
    """No more is to be done."""


class Player(Protocol):
    """A tree in some shell. Supervisors are addressed by their path, the top one by TOP."""

    async def start(self, top: Init) -> bool:
        """Start the tree, return when all is quiet. False: it declined. Raises why it could not start."""

    def post(self, supervisor: str, request: Request | str) -> Pending:
        """Put a request into an inbox. A text asks for the spec of the child with that key."""

    def close(self) -> None:
        """Have the top supervisor stopped by the one above it."""

    async def settle(self) -> None:
        """Wait until nothing moves, no child is restarting, and every posted request is answered."""

    def snapshot(self) -> Snapshot | None:
        """Children and counts of the top supervisor; None if it has ended."""

    @property
    def ended(self) -> ExitReason | None:
        """Why the top supervisor ended."""
