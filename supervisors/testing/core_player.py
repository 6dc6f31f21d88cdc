"""Plays scenarios on decision cores alone, see `core_tree`."""

from supervisors.errors import NotAlive, SupervisorError
from supervisors.inputs import Request, RestartChild, ShutDown, StartChild, StartDynamic
from supervisors.reasons import ExitReason, Stopped
from supervisors.spec import Init
from supervisors.supervisor_child import made
from supervisors.testing.core_tree import Call, Node, World
from supervisors.testing.otp import reason_name
from supervisors.testing.players import TOP, Pending, Stage
from supervisors.views import ChildRef, Snapshot


class CorePlayer:
    """See `players.Player`. Nothing here waits."""

    def __init__(self, stage: Stage) -> None:
        self._world = World(stage, reason_name)
        self._top: Node | None = None
        self._calls: list[tuple[Call, Pending]] = []

    async def start(self, top: Init) -> bool:
        """Start the tree. False: it declined. Raises why it could not start."""
        spec = made(top)
        if spec is None:
            return False
        node = Node(spec, TOP, self._world, lambda _reason: None)
        node.boot()
        self._top = node
        self._world.settle()
        return True

    def post(self, supervisor: str, request: Request | str) -> Pending:
        """Put a request into an inbox."""
        pending = Pending(is_start=isinstance(request, StartChild | StartDynamic | RestartChild))
        node = self._find(supervisor)
        if node is None:
            pending.error = NotAlive(supervisor)
        elif isinstance(request, str):
            try:
                pending.spec = node.core.child_spec(request)
            except SupervisorError as error:
                pending.error = error
        else:
            call = Call(request)
            self._calls.append((call, pending))
            node.tell(call)
        return pending

    def close(self) -> None:
        """Have the top supervisor stopped."""
        if self._top is not None:
            self._top.tell(ShutDown(Stopped()))

    async def settle(self) -> None:
        """Handle all that waits."""
        self._world.settle()
        for call, pending in self._calls:
            pending.error, pending.snapshot = call.error, call.snapshot
            if call.slot is not None:
                pending.ref = ChildRef(call.slot.key, call.slot.incarnation, call.slot.info)
        self._calls.clear()

    def snapshot(self) -> Snapshot | None:
        """Children and counts of the top supervisor; None if it has ended."""
        return None if self._top is None or self.ended is not None else self._top.snapshot()

    @property
    def ended(self) -> ExitReason | None:
        """Why the top supervisor ended."""
        return None if self._top is None else self._top.core.ended

    def _find(self, path: str) -> Node | None:
        nodes = self._top.walk() if self._top is not None else ()
        return next((node for node in nodes if node.path == path and node.core.ended is None), None)
