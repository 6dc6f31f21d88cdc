"""A tree of decision cores without a shell: no task, no loop, and time that passes when it is told to.

Each supervisor has an inbox, as in a shell, and children are nothing but puppets. So whatever differs between
this and a shell under the same scenario is the shell's fault.
"""

from collections import deque
from collections.abc import Callable, Iterator

from attrs import define, field

from supervisors.child import Failed, Ignored, Started, StartOutcome
from supervisors.core import Core
from supervisors.effects import Decision, Outcome, Reply, Retry, Start, Stop, Stopping, T
from supervisors.errors import NotAlive, SupervisorError
from supervisors.inputs import Exited, Input, Look, Request, RetryDue, ShutDown
from supervisors.reasons import Crashed, ExitReason, Killed, Normal, Stopped
from supervisors.slot import Slot
from supervisors.spec import ChildSpec, SupervisorSpec
from supervisors.supervisor_child import made
from supervisors.testing.players import Stage
from supervisors.testing.puppet import SLOW, Boom, Puppet, StartRefused
from supervisors.views import Snapshot, counts_of, info_of


@define(eq=False)
class Call:
    """A request in an inbox, and what came of it."""

    request: Request
    slot: Slot | None = None
    snapshot: Snapshot | None = None
    error: SupervisorError | None = None


@define(eq=False)
class World:
    """What all nodes of a tree share."""

    stage: Stage
    reason_name: Callable[[ExitReason], str]
    busy: deque["Node"] = field(factory=deque)

    def settle(self) -> None:
        """Let every supervisor handle what waits in its inbox."""
        while self.busy:
            self.busy.popleft().handle()


class Node:
    """One supervisor."""

    def __init__(self, spec: SupervisorSpec, path: str, world: World, on_exit: Callable[[ExitReason], None]) -> None:
        self.path = path
        self.core = Core(spec, random=float)
        self.children: dict[str, Node | Puppet] = {}
        self._labels: dict[str, str] = {}
        self._world = world
        self._on_exit = on_exit
        self._inbox: deque[Input | Call] = deque()

    def boot(self) -> None:
        """Start the children. Raises StartFailed."""
        self._perform(self.core.boot())

    def tell(self, message: "Input | Call") -> None:
        """Put something into the inbox."""
        self._inbox.append(message)
        self._world.busy.append(self)

    def handle(self) -> None:
        """Handle the oldest message."""
        if not self._inbox:
            return  # handled while it was being stopped
        message = self._inbox.popleft()
        if isinstance(message, Call):
            self._serve(message)
            return
        if isinstance(message, Exited):
            if not self.core.is_current(message.key, message.incarnation):
                return
            del self.children[message.key]
            self._world.stage.log.append(["exit", self._labels[message.key], self._world.reason_name(message.reason)])
        if not self._has_ended():
            self._perform(self.core.decide(message, now=0.0))
            if self._has_ended():
                self._on_exit(self.core.ended or Killed())

    def _has_ended(self) -> bool:
        return self.core.ended is not None

    def snapshot(self) -> Snapshot:
        """What the supervisor would show now."""
        slots = list(self.core.slots.values())
        below = [self.children.get(slot.key) for slot in slots]
        shown = [
            info_of(slot, node.snapshot().children if isinstance(node, Node) else None)
            for slot, node in zip(slots, below, strict=True)
        ]
        return Snapshot(tuple(shown), counts_of(slots, is_simple=self.core.spec.is_simple))

    def walk(self) -> Iterator["Node"]:
        """This node and all below."""
        yield self
        for child in self.children.values():
            if isinstance(child, Node):
                yield from child.walk()

    def _serve(self, call: Call) -> None:
        if self.core.ended is not None:
            call.error = NotAlive(self.path)
            return
        try:
            call.slot = self._perform(self.core.decide(call.request, now=0.0))
        except SupervisorError as error:
            call.error = error
        if isinstance(call.request, Look):
            call.snapshot = self.snapshot()

    def _perform(self, decision: Decision[T]) -> T:
        reply: Reply | None = None
        while True:
            try:
                effect = next(decision) if reply is None else decision.send(reply)
            except StopIteration as stop:
                result: T = stop.value
                return result
            outcome: Outcome = None
            match effect:
                case Start(key, spec, incarnation):
                    outcome = self._start(key, spec, incarnation)
                case Stop(children):
                    outcome = tuple(self._stop(one) for one in children)
                case Retry(key):
                    self.tell(RetryDue(key))
            reply = Reply(outcome, 0.0)

    def _start(self, key: str, spec: ChildSpec, incarnation: int) -> StartOutcome:
        path = f"{self.path}/{key}"
        self._labels[key] = key
        if spec.args and isinstance(spec.args[-1], Puppet):
            puppet: Puppet = spec.args[-1]
            outcome = puppet.next_outcome()
            self._labels[key] = puppet.label
            self._world.stage.began(path, puppet, outcome)()
            if outcome in ("error", "raise"):
                return Failed(Crashed(StartRefused(puppet.label)))
            if outcome == "ignore":
                return Ignored()
            self.children[key] = puppet
            puppet.tie(lambda reason: self.tell(Exited(key, incarnation, reason)))
            return Started("info" if outcome == "ok_info" else None)
        started = self._start_supervisor(key, spec, incarnation, path)
        self._world.stage.log.append(["start", key, {Started: "ok", Ignored: "ignore", Failed: "error"}[type(started)]])
        return started

    def _start_supervisor(self, key: str, spec: ChildSpec, incarnation: int, path: str) -> StartOutcome:
        try:
            inner = made(spec.start)
            if inner is None:
                return Ignored()
            node = Node(inner, path, self._world, lambda reason: self.tell(Exited(key, incarnation, reason)))
            node.boot()
        except Exception as error:  # noqa: BLE001 - a supervisor's own init; a crash becomes an outcome here
            return Failed(Crashed(error))
        self.children[key] = node
        return Started()

    def _stop(self, one: Stopping) -> ExitReason:
        child = self.children.pop(one.key)
        if isinstance(child, Node):
            reason = child.stop()
        else:
            reason = child.ended or _ending(child, one.grace)
            child.tie(None)
        self._world.stage.log.append(["stop", self._labels[one.key], self._world.reason_name(reason)])
        return reason

    def stop(self) -> ExitReason:
        """Handle what had arrived before, then end; what it says to the one above is this answer."""
        self._on_exit = lambda _reason: None
        self.tell(ShutDown(Stopped()))
        while self.core.ended is None:
            self.handle()
        return self.core.ended


def _ending(puppet: Puppet, grace: float | None) -> ExitReason:
    """How a puppet ends that is stopped."""
    if grace == 0:
        return Killed()
    takes = {"slow": SLOW, "ignore": float("inf")}.get(puppet.on_stop, 0.0)
    if grace is not None and takes > grace:
        return Killed()
    endings: dict[str, ExitReason] = {"crash": Crashed(Boom(puppet.label)), "normal": Normal()}
    return endings.get(puppet.on_stop, Stopped())
