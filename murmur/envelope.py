"""The envelopes on the wire, and the checks bytes pass before anybody trusts them.

JSON, one envelope per broker message; `docs/wire.md` is the reference. An envelope is
closed (msgspec), its payload stays raw until the actor is chosen, and its bytes are never
encoded again: what a publisher wrote is what a dead letter shows. Unknown fields are
ignored by us and stay in the bytes; an unknown `v` is told apart from garbage.
"""

import hashlib
import re
from operator import attrgetter
from typing import Final

import msgspec
from msgspec import Raw, Struct

from murmur.errors import BadEnvelope, UnsupportedVersion
from murmur.limits import MAX_DEPTH, MAX_ENVELOPE, MAX_HEADERS, MAX_JSON_DEPTH, MAX_NAME, MAX_PAYLOAD, MAX_SECONDS

VERSION: Final = 1
CONTENT_TYPE: Final = "application/json"
_STOWED_KEY: Final = re.compile(r"stowed:[A-Za-z0-9._:/-]{1,300}\Z")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}\Z")


class Stowed(Struct, kw_only=True, frozen=True):
    """Where a payload lies that is too large for its envelope: see `murmur.stowage`."""

    key: str
    size: int  # bytes
    digest: str  # SHA-256 of its bytes, hexadecimal


class TaskMessage(Struct, kw_only=True, omit_defaults=True):
    """One task on its way to a worker. Times are UTC seconds since the epoch; durations are seconds."""

    v: int
    task_id: str
    agent: str
    input: Raw
    batch_id: str | None = None
    key: str | None = None  # the name of a named actor
    reply_to: str | None = None  # the publisher's inbox
    idempotency_key: str | None = None
    timeout: float | None = None  # of one attempt, over the actor's own
    deadline: float | None = None  # for expiry only
    depth: int = 0
    parent_id: str | None = None
    root_id: str | None = None
    budget_id: str | None = None
    headers: dict[str, str] = {}
    priority: int = 0
    sent_at: float | None = None
    stowed: Stowed | None = None  # the input lies there; `input` is null


class ResultMessage(Struct, kw_only=True, omit_defaults=True):
    """How one task ended. `output` and `digest` are there if, and only if, `success`."""

    v: int
    task_id: str
    agent: str
    success: bool
    batch_id: str | None = None
    output: Raw = Raw(b"null")
    error_type: str | None = None
    error_message: str | None = None
    retryable: bool = False
    attempts: int = 0
    token: int = 0
    digest: str | None = None  # SHA-256 of the output's bytes, hexadecimal
    worker_id: str | None = None
    duration_ms: int = 0  # of the last attempt
    queued_ms: int = 0  # from `sent_at` to the grant of the last attempt, by the two hosts' clocks
    tokens_used: int | None = None
    model: str | None = None
    finished_at: float | None = None
    stowed: Stowed | None = None  # the output lies there; `output` is null


class ErrorNote(Struct, kw_only=True, omit_defaults=True):
    """One failed attempt, as a row and a dead letter remember it."""

    attempt: int
    error_type: str
    message: str
    at: float
    worker_id: str | None = None
    suspect: bool = False  # its process died of this task or of another that ran beside it
    exit: str | None = None  # how the process ended: "signal 11 (SIGSEGV)", "code 3", "out of memory", "hung"
    handler: str | None = None  # "module:Class.receive" that is to blame
    stack: str | None = None  # the last stacks of the process, where they were written


class DeadLetter(Struct, kw_only=True, omit_defaults=True):
    """A task nobody will try again: `task` byte for byte, or `body` (latin-1) where the bytes were no envelope."""

    reason: str
    dead_at: float
    agent: str
    task_id: str | None = None
    task: Raw = Raw(b"null")
    body: str | None = None
    deliveries: int = 0
    attempts: int = 0
    crashes: int = 0
    errors: list[ErrorNote] = []
    exit: str | None = None
    worker_id: str | None = None


class _Head(Struct):
    """The least that tells a stranger's version from garbage."""

    v: int


_NAMES: Final = ("batch_id", "key", "reply_to", "idempotency_key", "parent_id", "root_id", "budget_id")
_names: Final = attrgetter(*_NAMES)
_encoder: Final = msgspec.json.Encoder()
_tasks: Final = msgspec.json.Decoder(TaskMessage)
_results: Final = msgspec.json.Decoder(ResultMessage)
_letters: Final = msgspec.json.Decoder(DeadLetter)
_heads: Final = msgspec.json.Decoder(_Head)

encode = _encoder.encode


def decode_task(body: bytes) -> TaskMessage:
    """Return the TaskMessage in `body`, its limits checked. Raises `BadEnvelope`, `UnsupportedVersion`."""
    check_json(body)
    try:
        message = _tasks.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal(body, error) from None
    if message.v != VERSION:
        raise _version(message.v)
    _check_fields(message)
    return message


def decode_result(body: bytes) -> ResultMessage:
    """Return the ResultMessage in `body`, its limits checked. Raises `BadEnvelope`, `UnsupportedVersion`."""
    check_json(body)
    try:
        message = _results.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal(body, error) from None
    if message.v != VERSION:
        raise _version(message.v)
    if message.stowed is not None:
        _check_stowed(message.stowed)
    return message


def decode_letter(body: bytes) -> DeadLetter:
    """Return the dead letter in `body`. Raises `BadEnvelope`."""
    try:
        return _letters.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadEnvelope(problem=str(error)) from None


def check_json(body: bytes, *, most: int = MAX_ENVELOPE) -> None:
    """Raise `BadEnvelope` for bytes that are too many, not UTF-8, or nested too deep to be handled safely."""
    check_size(body, most=most)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadEnvelope(problem=f"not UTF-8 at byte {error.start}") from None
    # Brackets inside strings count too here, so this finds every deep document and some
    # flat ones; only those are walked.
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH and _depth(text) > MAX_JSON_DEPTH:
        raise BadEnvelope(problem=f"nested deeper than {MAX_JSON_DEPTH}")


def check_size(body: bytes, *, most: int = MAX_ENVELOPE) -> None:
    """Raise `BadEnvelope` for more bytes than an envelope may have."""
    if len(body) > most:
        raise BadEnvelope(problem=f"{len(body):,} bytes, at most {most:,} are allowed")


def digest(output: bytes) -> str:
    """Return the SHA-256 of a result's output bytes, hexadecimal."""
    return hashlib.sha256(output).hexdigest()


def _check_fields(message: TaskMessage) -> None:
    """Raise `BadEnvelope` for values that no publisher of ours sends and that could hurt a worker."""
    for name, seconds in (("timeout", message.timeout), ("deadline", message.deadline), ("sent_at", message.sent_at)):
        if seconds is not None and not 0 <= seconds < MAX_SECONDS:
            raise BadEnvelope(problem=f"{name} is {seconds:g}, expected seconds from 0 to {MAX_SECONDS:,}")
    if not 0 <= message.depth <= MAX_DEPTH:
        raise BadEnvelope(problem=f"depth is {message.depth}, expected 0 to {MAX_DEPTH}")
    for text in _names(message):
        if text is not None and len(text) > MAX_NAME:
            name = next(one for one in _NAMES if getattr(message, one) is text)
            raise BadEnvelope(problem=f"{name} has {len(text):,} characters, at most {MAX_NAME:,} are allowed")
    if message.headers and sum(map(len, (*message.headers, *message.headers.values()))) > MAX_HEADERS:
        raise BadEnvelope(problem=f"its headers have more than {MAX_HEADERS:,} characters")
    if message.stowed is not None:
        _check_stowed(message.stowed)


def _check_stowed(stowed: Stowed) -> None:
    """Raise `BadEnvelope` for a reference to anything but a stowed payload of a size that may be."""
    if not 0 < stowed.size <= MAX_PAYLOAD:
        raise BadEnvelope(problem=f"it stows {stowed.size:,} bytes, at most {MAX_PAYLOAD:,} are allowed")
    if not _STOWED_KEY.match(stowed.key) or not _DIGEST.match(stowed.digest):
        raise BadEnvelope(problem="its `stowed` does not refer to a stowed payload")


def _depth(text: str) -> int:
    """Return how deep arrays and objects of a JSON text nest, strings left out; stops one past the limit."""
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_JSON_DEPTH:
                return deepest
        elif char in "]}":
            depth -= 1
    return deepest


def _refusal(body: bytes, error: Exception) -> BadEnvelope:
    try:
        version = _heads.decode(body).v
    except (msgspec.DecodeError, RecursionError):
        return BadEnvelope(problem=str(error))
    return BadEnvelope(problem=str(error)) if version == VERSION else _version(version)


def _version(version: int) -> UnsupportedVersion:
    return UnsupportedVersion(problem=f"it is of version {version}, this murmur reads {VERSION}")


def letter_of(body: bytes, *, agent: str, reason: str, now: float, deliveries: int) -> DeadLetter:
    """Return the dead letter of bytes that are no task."""
    letter = DeadLetter(reason=reason, dead_at=now, agent=agent, deliveries=deliveries)
    try:
        check_json(body)
        letter.body = body.decode("utf-8")
    except BadEnvelope:
        letter.body = body.decode("latin-1")
    return letter
