"""The link to a Redis server: one pipelined connection that comes back when it breaks.

Every call ends within its deadline and says how: with the reply, with the server's error, with
`BrokerUnreachable` (it was never sent), or with `OutcomeUnknown` (it was, and no reply came).
A call that may be repeated is sent again on the next connection while there is time. What
a lost reply means beyond that is the caller's. Blocking commands need a connection of their own.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from murmur.broker_url import BrokerURL
from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.transports.redis_scripts import Script
from murmur.transports.redis_wire import Argument, Call, Finish, Reply, ServerError, Wire, connect, settler

DEADLINE: Final = 10.0  # seconds that a call may take
PING_AFTER: Final = 10.0  # seconds of silence
LONGEST_PAUSE: Final = 30.0  # seconds between two attempts to connect
SHORTEST_PAUSE: Final = 0.1
_TICK: Final = 1.0  # seconds between two looks at the deadlines


def pause(away: float, chance: float) -> float:
    """Return how long to wait before the next attempt to connect, `away` seconds after the connection broke.

    Jitter over up to half the time it was away, so that a short outage is felt shortly and a long one does not end in a
    stampede. `chance`: 0 to 1.
    """
    return SHORTEST_PAUSE + chance * min(LONGEST_PAUSE - SHORTEST_PAUSE, away / 2)


class RedisLink:
    """Commands and scripts on one server. Belongs to the loop that opened it."""

    def __init__(self, url: str, *, name: str) -> None:
        self.url, self.shown, self.name = url, redacted(url), name
        self._wire: Wire | None = None
        self._waiting: deque[Call] = deque()  # for a connection
        self._connecting: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_up = asyncio.Event()
        self._is_closed = False
        self._refusal: BrokerRefused | None = None

    @property
    def user(self) -> str:
        """As whom we connect."""
        return BrokerURL.parse(self.url).username or "default"

    async def open(self) -> None:
        """Connect. Raises `BadURL`, `BrokerUnreachable`, `BrokerRefused` within 10 s. Idempotent."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open())
        await asyncio.shield(self._opening)

    async def close(self) -> None:
        """Disconnect; what waits is told. Idempotent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        await cancelled([self._connecting])
        if self._wire is not None:
            self._wire.abort("closed")
        while self._waiting:
            self._give_up(self._waiting.popleft(), "closed")

    def ask(self, *command: Argument, is_repeatable: bool = False) -> asyncio.Future[Reply]:
        """Send a command; the future ends in its reply or raises what the module's text says."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self.send(Call(command, settler(future), deadline=loop.time() + DEADLINE, is_repeatable=is_repeatable))
        return future

    def run(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], *, is_repeatable: bool = False
    ) -> asyncio.Future[Reply]:
        """Run a script, loading it where the server has not seen it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self.send(self.script_call(script, keys, arguments, settler(future), is_repeatable=is_repeatable))
        return future

    def script_call(
        self,
        script: Script,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        finish: Finish,
        *,
        is_repeatable: bool,
    ) -> Call:
        """Return the call that runs a script."""
        deadline = asyncio.get_running_loop().time() + DEADLINE
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        return Call(command, finish, deadline=deadline, is_repeatable=is_repeatable, script=script)

    def send(self, call: Call) -> None:
        """Send a call, or keep it until there is a connection again."""
        finish = call.finish
        call.finish = lambda reply, error: finish(reply, None if error is None else self.told(error))
        if self._is_closed:
            call.finish(None, self._unreachable("closed"))
        elif self._wire is not None:
            self._wire.send(call)
        elif self._refusal is not None:
            call.finish(None, self._refusal)
        else:
            self._waiting.append(call)

    async def up(self, within: float) -> bool:
        """Return whether there is a connection within so many seconds. Raises `BrokerRefused`."""
        if self._refusal is not None:
            raise self._refusal
        try:
            async with asyncio.timeout(within):
                await self._is_up.wait()
        except TimeoutError:
            return False
        return True

    async def another(
        self,
        *,
        on_lost: Callable[[list[Call], str], None],
        on_push: Callable[[list[Reply]], None] | None = None,
    ) -> Wire:
        """Return one more connection to the same server, for commands that block."""
        return await connect(self.url, shown=self.shown, name=self.name, on_lost=on_lost, on_push=on_push)

    def told(self, error: Exception) -> Exception:
        """Return an error as those who use the port know it."""
        if isinstance(error, ServerError):
            if error.code == "NOPERM":
                return BrokerRefused(url=self.shown, problem=str(error), mend=granting(self.user))
            if error.is_refusal:
                return BrokerRefused(url=self.shown, problem=str(error))
            if error.is_away:
                return self._unreachable(str(error))
        return error

    # -- inside -----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._wire = await self._connect()
        self._is_up.set()
        self._watch(asyncio.get_running_loop().time())

    async def _connect(self) -> Wire:
        return await connect(self.url, shown=self.shown, name=self.name, on_lost=self._lost)

    def _lost(self, calls: list[Call], problem: str) -> None:
        """Begin to connect again; settle or keep what was under way."""
        self._wire = None
        self._is_up.clear()
        for call in reversed(calls):
            if call.is_repeatable or not call.was_sent:
                self._waiting.appendleft(call)
            else:
                call.finish(None, OutcomeUnknown(call=call.name, problem=f"the connection broke: {problem}"))
        if not self._is_closed and (self._connecting is None or self._connecting.done()):
            self._connecting = asyncio.get_running_loop().create_task(self._come_back())

    async def _come_back(self) -> None:
        loop = asyncio.get_running_loop()
        left_at, wait = loop.time(), 0.0
        while True:
            await asyncio.sleep(wait)
            wait = pause(loop.time() - left_at, random.random())  # noqa: S311  jitter, no secret
            try:
                wire = await self._connect()
            except BrokerRefused as error:
                self._refusal = error
                while self._waiting:
                    self._waiting.popleft().finish(None, error)
                continue
            except BrokerUnreachable:
                continue
            self._wire, self._refusal = wire, None
            self._is_up.set()
            waiting, self._waiting = self._waiting, deque()
            for call in waiting:
                wire.send(call)
            if not wire.is_closed:
                return

    def _watch(self, due: float) -> None:
        """Look after deadlines and silence, once a second."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._timer = loop.call_later(_TICK, self._watch, now + _TICK)
        if now - due > _TICK:
            return  # the loop was blocked: replies may be there that nobody read yet
        while self._waiting and self._waiting[0].deadline <= now:
            self._give_up(self._waiting.popleft(), "no connection")
        wire = self._wire
        if wire is None:
            return
        oldest = wire.oldest_deadline
        if oldest is not None and oldest <= now:
            wire.abort("no reply in time")
        elif oldest is None and now - wire.heard_at >= PING_AFTER:
            wire.send(Call(("PING",), _ignore, deadline=now + DEADLINE))

    def _give_up(self, call: Call, problem: str) -> None:
        if call.was_sent:
            call.finish(None, OutcomeUnknown(call=call.name, problem=f"the connection broke, and then: {problem}"))
        else:
            call.finish(None, self._unreachable(problem))

    def _unreachable(self, problem: str) -> BrokerUnreachable:
        return BrokerUnreachable(url=self.shown, after=DEADLINE, problem=problem)


def granting(user: str, prefix: str = "") -> str:
    """Return the command that gives a user all rights we need, on the keys under a namespace's prefix."""
    return (
        f"redis-cli ACL SETUSER {user} ~{prefix}* &* +@read +@write +@stream +@scripting +@pubsub +@connection "
        "+info +time"
    )


def redacted(url: str) -> str:
    """Return a URL without its password and options."""
    scheme, separator, rest = url.partition("://")
    rest = rest.partition("?")[0]
    userinfo, at, place = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    return f"{scheme}{separator}{user}{colon and ':***'}{at}{place}"


def _ignore(_reply: Reply, _error: Exception | None) -> None:
    """What a ping answers is of no interest: that it is answered is."""
