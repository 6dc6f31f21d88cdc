"""A network between the parts of a simulated fleet: it delays, loses requests and replies, and repeats.

`linked` puts it before a store or a transport of the memory adapters. A lost request or reply is
told as production tells it: `OutcomeUnknown` from a store, an answer that says "unknown" from a
transport. What happens to which call is decided by the `Network` alone, so that a course of
events can be drawn by seed, or written down step by step.
"""

import asyncio
import contextlib
import enum
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol, TypeVar, cast

from attrs import frozen

from murmur.errors import MurmurError, OutcomeUnknown
from murmur.transport import Delivery, Outgoing, Receipt, Refusal, Settled

T = TypeVar("T")

_STORE: Final = {"admit", "grant", "renew", "complete", "fail", "release", "bury", "sweep", "cancel", "read", "record"}
_BESIDE: Final = {"recorded", "put", "get", "listed", "delete", "dead_letters"}
_TRANSPORT: Final = {"publish", "receive", "ack", "release", "dead"}
_VERBS: Final = _STORE | _BESIDE | _TRANSPORT
_NEVER_LOST: Final = frozenset({"receive"})  # it reconnects by itself, and raises nothing that a network does


class Mishap(enum.Enum):
    """What becomes of one call."""

    NONE = "none"
    LOST_REQUEST = "lost request"  # it never arrived
    LOST_REPLY = "lost reply"  # it was done, and nobody heard
    REPEATED = "repeated"  # it arrived twice; the second answer is heard
    LATE = "late"  # it was given up, and arrived long after


@frozen
class Passage:
    """How one call travels: what becomes of it, and seconds on the way there and back."""

    mishap: Mishap = Mishap.NONE
    there: float = 0.0
    back: float = 0.0
    late: float = 5.0  # what arrives late is on its way for so long
    then: Callable[[], object] | None = None  # happens when the call was done and nobody has heard yet


class Network(Protocol):
    """Decides how calls travel; it may kill or freeze the caller while it does so."""

    def passage(self, node: str, verb: str) -> Passage:
        """Return how this call of a node travels. Called once per call, in order."""


class CalmNetwork:
    """Every call arrives at once."""

    def passage(self, node: str, verb: str) -> Passage:  # noqa: ARG002  every call is alike
        """Return nothing but a passage."""
        return Passage()


class RoughNetwork:
    """Calls take up to `delay` seconds each way; a share `trouble` is lost, repeated or at most `late` seconds late."""

    def __init__(self, dice: random.Random, *, delay: float = 0.05, trouble: float = 0.02, late: float = 6.0) -> None:
        self._dice = dice
        self._delay = delay
        self._trouble = trouble
        self._late = late

    def passage(self, node: str, verb: str) -> Passage:  # noqa: ARG002  every call is alike
        """Draw one."""
        dice = self._dice
        mishap = Mishap.NONE
        if dice.random() < self._trouble:
            mishap = dice.choice((Mishap.LOST_REQUEST, Mishap.LOST_REPLY, Mishap.REPEATED, Mishap.LATE))
        late = dice.random() * self._late if mishap is Mishap.LATE else 0.0
        return Passage(mishap, dice.random() * self._delay, dice.random() * self._delay, late)


def linked(part: T, network: Network, node: str) -> T:
    """Return a store or transport as a node reaches it over a network."""
    return cast(T, _Linked(part, network, node))


class _Linked:
    """Stands for a part; its verbs travel, everything else is the part's own."""

    def __init__(self, part: object, network: Network, node: str) -> None:
        self._part = part
        self._network = network
        self._node = node
        self._late: set[asyncio.Task[None]] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if name not in _VERBS:
            return found
        call = self.__dict__[name] = self._travelling(name, found)
        return call

    def _travelling(self, verb: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        is_transport = hasattr(self._part, "caps")

        async def travel(*arguments: Any, **options: Any) -> Any:
            passage = self._network.passage(self._node, verb)
            mishap = Mishap.NONE if verb in _NEVER_LOST else passage.mishap
            if passage.there:
                await asyncio.sleep(passage.there)
            if mishap is Mishap.LATE:
                arriving = asyncio.ensure_future(_arrive(passage.late, call, arguments, options))
                self._late.add(arriving)
                arriving.add_done_callback(self._late.discard)
            if mishap in (Mishap.LOST_REQUEST, Mishap.LATE):
                return _unknown(verb, arguments, is_transport=is_transport)
            answer = await call(*arguments, **options)
            if mishap is Mishap.REPEATED:
                answer = await call(*arguments, **options)
            if passage.then is not None:
                passage.then()
            if passage.back and not (verb == "receive" and answer):
                await asyncio.sleep(passage.back)  # what was received is in hand: a cancelled receive loses nothing
            if mishap is Mishap.LOST_REPLY:
                return _unknown(verb, arguments, is_transport=is_transport)
            return answer

        return travel


async def _arrive(late: float, call: Callable[..., Awaitable[Any]], arguments: Any, options: Any) -> None:
    await asyncio.sleep(late)
    with contextlib.suppress(MurmurError):  # nobody hears the answer
        await call(*arguments, **options)


def _unknown(
    verb: str, arguments: Sequence[Any], *, is_transport: bool
) -> Sequence[Receipt | Refusal | Settled] | Settled:
    """Return, or raise, what a caller is told when nobody knows what became of its call."""
    problem = "the network lost it"
    if not is_transport:
        raise OutcomeUnknown(call=verb, problem=problem)
    subject = arguments[0]
    if isinstance(subject, Delivery):
        return Settled(subject.id, False, "unknown")
    messages: Sequence[Outgoing | Delivery] = subject
    if verb == "publish":
        return [Refusal(message.id, problem, definite=False) for message in messages]
    return [Settled(message.id, False, "unknown") for message in messages]
