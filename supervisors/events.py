"""What happened in a tree, as it happened: typed events, and streams of them.

Every input of a supervisor and the outcome of everything it did is one event, so a stream that was read
from the beginning holds all that the decisions were made of: fed to a core again, it leads to the same state.
Nobody listens: nothing is kept. Somebody listens too slowly: the oldest events are dropped, and counted.
"""

from collections import deque
from weakref import WeakSet

from anyio import Event
from attrs import frozen

from supervisors.inputs import Request
from supervisors.reasons import ExitReason
from supervisors.spec import SupervisorSpec


@frozen(kw_only=True)
class TreeEvent:
    """`at` is the clock's time in seconds; `supervisor` the path of the supervisor it happened to."""

    at: float
    supervisor: str


@frozen(kw_only=True)
class SupervisorStarting(TreeEvent):
    """A supervisor begins to start its children."""

    spec: SupervisorSpec


@frozen(kw_only=True)
class SupervisorUp(TreeEvent):
    """All its children are up."""


@frozen(kw_only=True)
class SupervisorEnding(TreeEvent):
    """It was asked to end, with this reason."""

    reason: ExitReason


@frozen(kw_only=True)
class SupervisorEnded(TreeEvent):
    """It has stopped its children and ended."""

    reason: ExitReason


@frozen(kw_only=True)
class Requested(TreeEvent):
    """Somebody asked it to do something about a child."""

    request: Request


@frozen(kw_only=True)
class ChildEvent(TreeEvent):
    """Something about one incarnation of a child."""

    child: str
    incarnation: int


@frozen(kw_only=True)
class ChildStarted(ChildEvent):
    """It is ready."""

    info: object = None


@frozen(kw_only=True)
class ChildIgnored(ChildEvent):
    """It declined to start."""


@frozen(kw_only=True)
class ChildFailed(ChildEvent):
    """It did not become ready."""

    reason: ExitReason


@frozen(kw_only=True)
class ChildExited(ChildEvent):
    """It ended by itself."""

    reason: ExitReason


@frozen(kw_only=True)
class ChildStopped(ChildEvent):
    """Its supervisor stopped it; `reason` is how it really ended. Stuck: it has not."""

    reason: ExitReason


@frozen(kw_only=True)
class ChildLate(ChildEvent):
    """A process child: its event loop is silent for longer than it should, by so many seconds. It may only be slow."""

    silent: float


@frozen(kw_only=True)
class OutputLine(ChildEvent):
    """A process child with `output`: it, or something it started, printed a line. `stream`: "stdout" or "stderr".

    `dropped`: so many lines before this one were too many. A line that was too long ends in "…".
    """

    stream: str
    text: str
    dropped: int = 0


@frozen(kw_only=True)
class ChildRecycled(ChildEvent):
    """A process child: it reached a limit of its `recycle`, and a fresh process has taken over."""

    why: str
    info: object


@frozen(kw_only=True)
class RetryPlanned(TreeEvent):
    """Another attempt to start a child follows in `delay` seconds. `is_pause`: it had failed too often."""

    child: str
    delay: float
    is_pause: bool


@frozen(kw_only=True)
class RetryBegun(TreeEvent):
    """The time of that attempt has come."""

    child: str


@frozen(kw_only=True)
class EventsLost(TreeEvent):
    """The reader was too slow for its stream: so many events before the next one were dropped."""

    count: int


class EventStream:
    """Events of a supervisor and of all below it, from the moment it was asked for. `async for` over it.

    It ends when the supervisor at its root has ended and all events have been read.
    """

    def __init__(self, path: str, capacity: int) -> None:
        self._path = path
        self._events: deque[TreeEvent] = deque()
        self._capacity = capacity
        self._lost = 0
        self._bell = Event()
        self._is_over = False

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> TreeEvent:
        while not self._events:
            if self._is_over:
                raise StopAsyncIteration
            self._bell = Event()
            await self._bell.wait()
        return self._take()

    def read(self) -> list[TreeEvent]:
        """What has arrived, without waiting."""
        return [self._take() for _ in range(len(self._events) + bool(self._lost))]

    def _take(self) -> TreeEvent:
        if self._lost:
            first, self._lost, count = self._events[0], 0, self._lost
            return EventsLost(at=first.at, supervisor=self._path, count=count)
        return self._events.popleft()

    def put(self, event: TreeEvent) -> None:
        """Add an event, if it happened at or below the stream's supervisor."""
        if event.supervisor != self._path and not event.supervisor.startswith(self._path + "/"):
            return
        if len(self._events) == self._capacity:
            self._events.popleft()
            self._lost += 1
        self._events.append(event)
        self._is_over = isinstance(event, SupervisorEnded) and event.supervisor == self._path
        self._bell.set()


class EventHub:
    """The streams of one tree. A stream that nobody refers to any more vanishes."""

    def __init__(self) -> None:
        self._streams: WeakSet[EventStream] = WeakSet()

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._streams)

    def stream(self, path: str, capacity: int) -> EventStream:
        """A new stream of what happens at and below `path`."""
        stream = EventStream(path, capacity)
        self._streams.add(stream)
        return stream

    def put(self, event: TreeEvent) -> None:
        """Hand an event to all streams."""
        for stream in tuple(self._streams):
            stream.put(event)
