"""The link to RabbitMQ: one connection that comes back for ever when it breaks.

A transport has two: RabbitMQ holds up every connection that publishes while its disk or memory is
full, and what settles work must not stand in that line. What is on a connection is made anew by
`prepare` each time, before anybody may use it. What a lost one means is its owner's to say.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import unquote

from loguru import logger

from murmur.broker_url import BrokerURL
from murmur.cancelling import cancelled
from murmur.errors import BrokerRefused, BrokerUnreachable, OutcomeUnknown
from murmur.transports.rabbitmq_wire import ServerError, Wire, WireLost, connect

DEADLINE: Final = 10.0  # seconds that a call may take
_CONNECT_WITHIN: Final = 8.0  # seconds, all hosts together
_LONGEST_PAUSE: Final = 30.0  # seconds between two attempts to connect
_SHORTEST_PAUSE: Final = 0.1
_REFUSALS: Final = (402, 403, 404, 405, 406, 530, 540)  # what trying again does not mend
_WANTED: Final = (3, 10)  # the first version whose quorum queues know a time to live


async def _nothing(_: Wire) -> None:
    """Nothing to prepare."""


class RabbitLink:
    """One connection to one of the URL's hosts. Belongs to the loop that opened it."""

    def __init__(
        self, url: str, *, name: str, heartbeat: int, prepare: Callable[[Wire], Awaitable[None]] = _nothing
    ) -> None:
        self.url = BrokerURL.parse(url)
        self.shown, self.name, self.heartbeat = str(self.url), name, heartbeat
        self.wire: Wire | None = None  # while it may be used
        self._prepare = prepare
        self._is_up = asyncio.Event()
        self._is_closed = False
        self._opening: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None
        self._refusal: BrokerRefused | None = None

    @property
    def version(self) -> tuple[int, ...]:
        """The server's, as far as it told: (3, 10)."""
        text = str(self.wire.properties.get("version", "")) if self.wire is not None else ""
        return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())

    async def open(self) -> None:
        """Connect. Raises `BadURL`, `BrokerUnreachable`, `BrokerRefused` within 10 s. Idempotent."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._connect())
        await asyncio.shield(self._opening)

    async def up(self, within: float | None) -> Wire | None:
        """Return the connection, or None if there is none within so many seconds. Raises `BrokerRefused`."""
        if self.wire is not None:
            return self.wire
        if self._refusal is not None:
            raise self._refusal
        if self._opening is None:
            self._opening = asyncio.create_task(self._come_back())
        try:
            async with asyncio.timeout(within):
                await self._is_up.wait()
        except TimeoutError:
            return None
        return self.wire

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        self._is_closed = True
        await cancelled([self._opening, self._returning])
        if self.wire is not None:
            await self.wire.close()

    def told(self, error: Exception, *, call: str = "") -> Exception:
        """Return an error as those who use the port know it. `call`: what was under way, if it may have happened."""
        if isinstance(error, ServerError) and error.code in _REFUSALS:
            return BrokerRefused(url=self.shown, problem=_mended(str(error)))
        if isinstance(error, ServerError | WireLost):
            if call:
                return OutcomeUnknown(call=call, problem=f"the connection broke: {error}")
            return self.unreachable(str(error))
        return error

    def unreachable(self, problem: str) -> BrokerUnreachable:
        """Return the error that nobody answers."""
        return BrokerUnreachable(url=self.shown, after=DEADLINE, problem=problem)

    # -- inside -----------------------------------------------------------------------------------

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(_CONNECT_WITHIN):
                wire = await self._any_host()
                await self._prepare(wire)
        except TimeoutError:
            raise self.unreachable("the host does not answer, or what listens there says nothing") from None
        except (WireLost, ServerError) as error:
            raise self.told(error) from None
        if wire.lost is not None:
            raise self.told(wire.lost)
        self.wire, self._refusal = wire, None
        if self.version < _WANTED:
            await wire.close()
            problem = f"RabbitMQ {'.'.join(map(str, self.version))} is too old; 3.10 or later is needed"
            raise BrokerRefused(url=self.shown, problem=problem)
        self._is_up.set()

    async def _any_host(self) -> Wire:
        url = self.url
        tls = await asyncio.to_thread(url.tls) if url.is_tls else None
        for place, address in enumerate(url.hosts):
            try:
                return await connect(
                    address,
                    tls=tls,
                    on_lost=self._lost,
                    user=url.username or "guest",
                    password=url.password or ("guest" if url.username is None else ""),
                    vhost=unquote(url.path[1:]) or "/",
                    heartbeat=self.heartbeat,
                    name=self.name,
                )
            except WireLost:
                if place == len(url.hosts) - 1:
                    raise
        raise WireLost("the URL names no host")

    def _lost(self, error: Exception) -> None:
        """Begin to connect again."""
        was_up, self.wire = self.wire is not None, None
        self._is_up.clear()
        if was_up and not self._is_closed:
            logger.info("{}: connection lost: {}", self.shown, error)
            self._returning = asyncio.get_running_loop().create_task(self._come_back())

    async def _come_back(self) -> None:
        """Try until there is a connection. What is refused now may be allowed later, so that is tried again, too."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not self._is_closed:
            try:
                await self._connect()
            except (BrokerUnreachable, BrokerRefused) as error:
                self._refusal = error if isinstance(error, BrokerRefused) else None
                # Jitter that widens with the time it was away: a short outage is felt shortly, a long one ends in no
                # stampede. A node needs some seconds to start, so less of that time than elsewhere.
                widest = min(_LONGEST_PAUSE - _SHORTEST_PAUSE, (loop.time() - since) / 8)
                await asyncio.sleep(_SHORTEST_PAUSE + random.random() * widest)  # noqa: S311  jitter, no secret
            else:
                return


def _mended(text: str) -> str:
    """Return what the server said, with what mends it where that is known."""
    for sign, mend in (
        ("Login was refused", "is the user there, and the password right? rabbitmqctl authenticate_user"),
        ("not found", "rabbitmqctl add_vhost makes a vhost; vhost / is written without a path"),
        ("access to vhost", "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'"),
        (
            "inequivalent arg",
            "a queue of this name was made by somebody else: rabbitmqctl delete_queue once it is empty",
        ),
        ("access to queue", "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'"),
        ("access to exchange", "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*'"),
    ):
        if sign in text:
            return f"{text.rstrip('.')} ({mend})"
    return text
