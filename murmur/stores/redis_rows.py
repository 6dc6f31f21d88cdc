"""Tasks, claims and rows as arguments and answers of the scripts under `stores/lua/`.

Values that many tasks of one call share (topic, agent, inbox) travel once, as profiles.
"""

from collections.abc import Sequence
from typing import Final, cast

from attrs import frozen

from murmur.names import Topics
from murmur.store import Admission, Busy, Claim, Finished, Grant, GrantRequest, NewTask, Row, State, Written
from murmur.transport import Delivery
from murmur.transports.redis_entries import Hold, encoded_headers, encoded_notes, error_notes, milliseconds
from murmur.transports.redis_wire import Argument, Reply

WRITTEN: Final = {ord("0"): Written.STALE, ord("1"): Written.STORED, ord("2"): Written.REPEATED}
_STATES: Final = {state.value.encode(): state for state in State}
_UNHELD: Final = Hold(b"", "")


@frozen(eq=False)
class Ending:
    """A terminal result to write: of a completion, or of a burial with its letter."""

    claim: Claim
    state: str
    result: bytes
    letter: bytes | None = None  # there if, and only if, the state is `dead`


@frozen(eq=False)
class Return:
    """A claim to put back, with what its row shall count."""

    claim: Claim
    verb: str
    delay: float  # seconds
    failures: int
    crashes: int
    lapses: int
    errors: bytes


class Profiles:
    """Collects what many tasks of one call share; `arguments` come before those of the tasks."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Argument, ...], int] = {}

    def number(self, one: tuple[Argument, ...]) -> int:
        """Return the number of a profile, from 0."""
        number = self._numbers.get(one)
        if number is None:
            number = self._numbers[one] = len(self._numbers)
        return number

    def arguments(self) -> list[Argument]:
        """Return how many there are, and what is in them."""
        return [len(self._numbers), *(part for one in self._numbers for part in one)]


def hold_of(delivery: Delivery) -> Hold:
    """Return what a delivery of the fused transport stands for; nothing for one of another broker."""
    hold = delivery.token
    return hold if isinstance(hold, Hold) else _UNHELD


def admitting(tasks: Sequence[NewTask]) -> list[Argument]:
    """Return the arguments of `admit.lua` from the profiles on."""
    profiles = Profiles()
    arguments: list[Argument] = []
    for task in tasks:
        headers = encoded_headers(task.headers) if task.headers else b""
        profile = profiles.number((task.topic, task.reply_to or ""))
        arguments += (profile, task.task_id, task.body, headers)
    return profiles.arguments() + arguments


def admitted(tasks: Sequence[NewTask], reply: Reply, start: int) -> list[Admission]:
    """Return the answers to tasks that were admitted from index `start` of a call on."""
    queued = State.QUEUED
    stood = cast(list[tuple[int, bytes, bytes | None]], reply)
    if not stood:
        return [Admission(task.task_id, True, queued) for task in tasks]
    found = {index - start: (_STATES[state], result) for index, state, result in stood}
    answers: list[Admission] = []
    for index, task in enumerate(tasks):
        state, result = found.get(index, (None, None))
        answers.append(Admission(task.task_id, state is None, state or queued, result))
    return answers


def ending(endings: Sequence[Ending], topics: Topics) -> list[Argument]:
    """Return the arguments of `complete.lua` from the profiles on."""
    profiles = Profiles()
    arguments: list[Argument] = []
    for one in endings:
        claim = one.claim
        topic = claim.delivery.topic
        dead = topics.dead(topics.agent_of(topic)) if one.letter is not None else ""
        counts = (claim.failures, claim.crashes, claim.lapses, encoded_notes(claim.errors))
        profile = profiles.number((topic, claim.reply_to or "", one.state, dead, *counts))
        arguments += (profile, hold_of(claim.delivery).ref, claim.task_id, claim.token, one.result)
        if one.letter is not None:
            arguments.append(one.letter)
    return profiles.arguments() + arguments


def returning(returns: Sequence[Return]) -> list[Argument]:
    """Return the arguments of `requeue.lua` from the profiles on."""
    profiles = Profiles()
    arguments: list[Argument] = []
    for one in returns:
        claim, delivery = one.claim, one.claim.delivery
        profile = profiles.number((delivery.topic, claim.reply_to or ""))
        arguments += (profile, hold_of(delivery).ref, claim.task_id, claim.token, one.verb, milliseconds(one.delay))
        arguments += (one.failures, one.crashes, one.lapses, one.errors)
        arguments += (delivery.body, encoded_headers(delivery.headers), delivery.deliveries - 1)
    return profiles.arguments() + arguments


def returned(claim: Claim, *, verb: str, delay: float) -> Return:
    """Return a claim to put back as it is."""
    errors = encoded_notes(claim.errors)
    return Return(claim, verb, delay, claim.failures, claim.crashes, claim.lapses, errors)


def claim_of(request: GrantRequest, hold: Hold) -> Claim:
    """Return the claim that came with a delivery. Every grant is an attempt: the token counts both."""
    token = hold.token
    return Claim(
        request.task_id,
        token,
        request.delivery,
        request.reply_to,
        token,
        hold.failures,
        hold.crashes,
        hold.lapses,
        hold.errors,
    )


def grant_of(request: GrantRequest, answer: Reply) -> Grant:
    """Return what `grant.lua` answered for one request."""
    code, second, *more = cast(tuple[int, int, int, int, bytes], answer)
    if code == 0:
        return Busy(request.task_id, request.delivery, second / 1000)
    if code < 0:
        state, result = cast(tuple[bytes, bytes | None], (second, *more))
        return Finished(request.task_id, request.delivery, _STATES[state], result)
    crashes, lapses, errors = cast(tuple[int, int, bytes], tuple(more))
    hold = hold_of(request.delivery)
    hold = Hold(b"", "") if hold is _UNHELD else hold
    hold.token, hold.failures, hold.crashes, hold.lapses = code, second, crashes, lapses
    hold.errors, hold.task_id = error_notes(errors), request.task_id
    return claim_of(request, hold)


def row_of(task_id: str, values: Reply, topics: Topics) -> Row | None:
    """Return a row as `read.lua` answers it."""
    if values is None:
        return None
    state, topic, _entry, _inbox, *counts = cast(list[bytes | None], values)
    token, failures, crashes, lapses = (int(one or 0) for one in counts[:4])
    errors, result, *owner = counts[4:]
    return Row(
        task_id,
        topics.agent_of((topic or b"").decode()),
        _STATES[state or b""],
        token=token,
        attempts=token,
        failures=failures,
        crashes=crashes,
        lapses=lapses,
        owner=owner[0].decode() if owner and owner[0] and state == b"leased" else None,
        result=result,
        errors=error_notes(errors or b""),
    )


def state_of(value: bytes) -> State:
    """Return the state of that name."""
    return _STATES[value]
