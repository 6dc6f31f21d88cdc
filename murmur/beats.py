"""What workers say of themselves over the control plane, and what they are told: beats, commands, answers.

JSON like all envelopes; docs/wire.md is the reference. Where keys are configured, all three are signed, over the kind
and the full topic. A command names the boot it is meant for, so one that is sent again later harms no successor, and
no clocks are compared. What is done with them is left to `murmur.worker.reporter` and `murmur.watch`.
"""

from typing import Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from murmur.envelope import VERSION, ErrorNote, check_json, encode
from murmur.errors import BadEnvelope, UnsupportedVersion
from murmur.names import Topics
from murmur.signing import Seal

BEATS: Final = "murmur.beats"
COMMANDS: Final = "murmur.commands"
ANSWERS: Final = "murmur.answers"
EVERY: Final = 2.0  # seconds between two beats
STARTING: Final = "starting"
SERVING: Final = "serving"
DRAINING: Final = "draining"
GONE: Final = "gone"  # said once, last


class Branch(Struct, kw_only=True, omit_defaults=True):
    """One child of a worker's supervision tree: a supervisor, a process, an agent's actors."""

    id: str
    state: str
    pid: int | None = None
    rss: int | None = None  # bytes
    running: int | None = None  # tasks at work in it
    restarts: int = 0
    cause: str | None = None  # why it ended last
    children: tuple["Branch", ...] = ()


class Beat(Struct, kw_only=True, omit_defaults=True):
    """One worker at one moment. Times are UTC seconds by its own clock; counters begin with its boot."""

    v: int
    worker_id: str
    incarnation: str  # of this boot
    host: str
    pid: int
    state: str
    at: float
    started_at: float
    every: float  # seconds until the next beat at the latest
    agents: tuple[str, ...] = ()  # served now
    broken: dict[str, str] = {}  # agents that should be and are not, with the reason
    concurrency: int = 0
    processes: int = 0
    running: int = 0  # tasks in hand
    ended: int = 0  # tasks that came to their end here
    failed: int = 0  # attempts that failed
    rate: float = 0.0  # tasks ended a second, over the last 10 s
    restarts: int = 0  # of everything in the tree
    rss: int | None = None  # bytes, of this process
    last_error: ErrorNote | None = None
    tree: tuple[Branch, ...] = ()


class Command(Struct, kw_only=True, omit_defaults=True):
    """What a worker is to do. `drain`: take no more, let what runs end within `within` seconds, leave. `stop`: give
    what runs back now, leave."""

    v: int
    command_id: str
    worker_id: str
    incarnation: str
    verb: Literal["drain", "stop"]
    within: float | None = None  # None: the worker's own drain


class Answer(Struct, kw_only=True, omit_defaults=True):
    """A worker took a command up, or says why not."""

    v: int
    command_id: str
    worker_id: str
    error_type: str | None = None
    error_message: str | None = None


M = TypeVar("M", Beat, Command, Answer)
_PLACES: Final[dict[type[Struct], tuple[str, str]]] = {
    Beat: ("beat", BEATS),
    Command: ("command", COMMANDS),
    Answer: ("answer", ANSWERS),
}


def packed(message: Beat | Command | Answer, topics: Topics, seal: Seal | None) -> bytes:
    """Return a message as it is published, signed if there is a seal. Raises `BadSetting` without a key that signs."""
    kind, topic = _PLACES[type(message)]
    body = encode(message)
    return body if seal is None else seal.sealed(body, kind=kind, topic=topics.control(topic))


def unpacked(body: bytes, of: type[M], topics: Topics, seal: Seal | None) -> M:
    """Return the message in bytes that anybody may have sent. Raises `BadSignature`, `BadEnvelope`."""
    kind, topic = _PLACES[of]
    if seal is not None:
        body = seal.opened(body, kind=kind, topic=topics.control(topic))
    check_json(body)
    try:
        message = msgspec.json.decode(body, type=of)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadEnvelope(problem=str(error)) from None
    if message.v != VERSION:
        raise UnsupportedVersion(problem=f"it is of version {message.v}, this murmur reads {VERSION}")
    return message
