"""What a node and its worker processes say to each other: msgpack frames over the link between them.

The node alone knows the broker. It hands tasks to a worker process, which says how each ended, and has it read and
write rows; nothing of the broker's own (tokens of deliveries, connections) crosses. Never pickle.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from murmur.envelope import ErrorNote
from murmur.idempotency import Busy, Claimed, Conflict, Duplicate, Kept, Run, Stale, Stored
from murmur.store import Admission, Burial, Claim, Completion, Failure, NewTask, Row, State
from murmur.task_queue import Ending, Release
from murmur.task_queue import Work as Task
from murmur.transport import Delivery, Refusal


class Given(Struct):
    """A granted task, as the worker process gets it."""

    task_id: str
    token: int
    topic: str
    body: bytes
    attempts: int
    failures: int
    crashes: int
    lapses: int
    errors: Sequence[ErrorNote]
    deliveries: int


class Ended(Struct):
    """How an attempt ended: the fields of its kind are there."""

    task_id: str
    token: int
    kind: str  # "complete", "fail", "release", "bury", "disown"
    delay: float = 0.0
    result: bytes = b""
    state: State = State.DONE
    error: ErrorNote | None = None
    crashed: bool = False
    reason: str = ""
    letter: bytes = b""


class Asked(Struct, tag="ask"):
    """Worker process → node: do `verb` and answer under this number. Arguments and results as `VERBS` says."""

    number: int
    verb: str
    arguments: bytes


class Endings(Struct, tag="ended"):
    """Worker process → node: write these. From here on they are the node's."""

    endings: list[Ended]


class Answer(Struct, tag="answer"):
    """Node → worker process: what came of a call; `error` is its class's name, and `value` its text."""

    number: int
    value: bytes
    error: str | None = None


class Work(Struct, tag="work"):
    """Node → worker process: begin these now. For each there comes one `Ended`, whatever becomes of it."""

    given: list[Given]


class Parking(Struct, tag="parking"):
    """Worker process → node: a task gives its slot back while it waits (`parks`), or ends without one (not `parks`)."""

    parks: bool


class Abandoned(Struct, tag="abandoned"):
    """Worker process → node: nobody waits for the answer to this call any more."""

    number: int


class Held(Struct, tag="held"):
    """Worker process → node: it cannot serve this agent now, and why; None: it can again. `for_good`: nobody should."""

    agent: str
    why: str | None
    for_good: bool = False


class Retiring(Struct, tag="retiring"):
    """Worker process → node: give it nothing more, and let it go when it is idle."""

    why: str


class Retire(Struct, tag="retire"):
    """Node → worker process: nothing more comes; end when you are idle."""


class Lose(Struct, tag="lose"):
    """Node → worker process: this task is no longer ours; end its attempt and write nothing."""

    task_id: str


class Leave(Struct, tag="leave"):
    """Node → worker process: names of this shard live elsewhere from now on; let those go that you have."""

    agent: str
    shard: int
    is_lost: bool = False  # at once: what they are at counts no more


class Drain(Struct, tag="drain"):
    """Node → worker process: take no more, let what runs end for so many seconds, give the rest back."""

    seconds: float


FromNode = Answer | Work | Lose | Leave | Drain | Retire
FromWorker = Asked | Endings | Parking | Abandoned | Held | Retiring

encode: Final = msgspec.msgpack.Encoder().encode
from_node: Final = msgspec.msgpack.Decoder(FromNode)
from_worker: Final = msgspec.msgpack.Decoder(FromWorker)

# Verb → the types of its arguments, and of its result.
VERBS: Final[dict[str, tuple[Any, Any]]] = {
    "resume": (tuple[()], None),
    "record": (tuple[str, int, str, bytes], bytes),
    "recorded": (tuple[str, str], bytes | None),
    "read": (tuple[list[str]], list[Row | None]),
    "get": (tuple[list[str]], list[bytes | None]),
    "put": (tuple[str, bytes, float | None], None),
    "listed": (tuple[str], dict[str, bytes]),
    "swap": (tuple[str, bytes | None, bytes | None, float | None], bytes | None),
    "cancel": (tuple[dict[str, bytes]], dict[str, State]),
    "submit": (tuple[list[NewTask]], list[tuple[Admission | None, Refusal | None]]),
    "open_tasks": (tuple[list[str]], None),
    "open_inbox": (tuple[str], None),
    "replies": (tuple[str, float], list[bytes]),
    "is_empty": (tuple[str], bool),
    "claim_key": (tuple[str, str, int, str, float], tuple[str, bytes, float]),
    "renew_key": (tuple[str, str, int, float], bool),
    "complete_key": (tuple[str, str, int, bytes], tuple[str, bytes, float]),
    "abandon_key": (tuple[str, str, int], None),
    "drained": (tuple[()], None),
}
ARGUMENTS: Final = {verb: msgspec.msgpack.Decoder(types[0]) for verb, types in VERBS.items()}
RESULTS: Final = {verb: msgspec.msgpack.Decoder(types[1]) for verb, types in VERBS.items()}


def said(answer: Claimed | Kept) -> tuple[str, bytes, float]:
    """Return what an idempotency hook answered, as it crosses."""
    if isinstance(answer, Duplicate):
        return "Duplicate", answer.output, 0.0
    return type(answer).__name__, b"", answer.retry_after if isinstance(answer, Busy) else 0.0


def heard(answer: tuple[str, bytes, float]) -> Any:
    """Return an answer of an idempotency hook that came over."""
    kind, output, retry_after = answer
    match kind:
        case "Duplicate":
            return Duplicate(output)
        case "Busy":
            return Busy(retry_after)
        case _:
            return {"Run": Run, "Conflict": Conflict, "Stored": Stored, "Stale": Stale}[kind]()


def given(work: Task) -> Given:
    """Return a granted task as it crosses."""
    claim = work.claim
    return Given(
        claim.task_id,
        claim.token,
        claim.delivery.topic,
        claim.delivery.body,
        claim.attempts,
        claim.failures,
        claim.crashes,
        claim.lapses,
        list(claim.errors),
        claim.delivery.deliveries,
    )


def claim_of(one: Given, reply_to: str | None) -> Claim:
    """Return the claim of a task that came over; its delivery is the node's, and only looks like one here."""
    delivery = Delivery(one.topic, one.body, {}, one.task_id, one.deliveries, None)
    return Claim(
        one.task_id, one.token, delivery, reply_to, one.attempts, one.failures, one.crashes, one.lapses, one.errors
    )


def ended(ending: Ending) -> Ended:
    """Return an ending as it crosses."""
    task_id, token = ending.claim.task_id, ending.claim.token
    match ending:
        case Completion():
            return Ended(task_id, token, "complete", result=ending.result, state=ending.state)
        case Failure():
            return Ended(task_id, token, "fail", ending.delay, error=ending.error, crashed=ending.crashed)
        case Burial():
            return Ended(task_id, token, "bury", result=ending.result, reason=ending.reason, letter=ending.letter)
        case Release():
            return Ended(task_id, token, "release", ending.delay)


def ending_of(one: Ended, claim: Claim) -> Ending:
    """Return what a worker process wants written, under the node's own claim."""
    if one.kind == "complete":
        return Completion(claim, one.result, one.state)
    if one.kind == "bury":
        return Burial(claim, one.reason, one.letter, one.result)
    if one.kind == "fail" and one.error is not None:
        return Failure(claim, one.delay, one.error, one.crashed)
    return Release(claim, one.delay)
