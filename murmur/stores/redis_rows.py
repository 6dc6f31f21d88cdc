"""Tasks, claims and rows as arguments and answers of the scripts under `stores/lua/`.

Values that many tasks of one call share (topic, agent, inbox) travel once, as profiles.
"""

from collections.abc import Callable, Sequence
from typing import Final, cast

from attrs import frozen

from murmur.names import Topics
from murmur.store import Admission, Busy, Claim, Finished, Grant, GrantRequest, NewTask, Row, State, Written
from murmur.transport import Delivery
from murmur.transports.redis_entries import Hold, encoded_headers, encoded_notes, error_notes, milliseconds
from murmur.transports.redis_wire import Argument, Reply

WRITTEN: Final = {ord("0"): Written.STALE, ord("1"): Written.STORED, ord("2"): Written.REPEATED}
_STATES: Final = {state.value.encode(): state for state in State}
_UNHELD: Final = Hold(b"")


@frozen(eq=False)
class Ending:
    """A terminal result to write: of a completion, or of a burial with its letter."""

    claim: Claim
    state: str
    result: bytes
    letter: bytes = b""


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
    """Collects what tasks of one call share; `arguments` come before those of the tasks."""

    def __init__(self, expand: Callable[[tuple[str, ...]], tuple[str, ...]] = tuple) -> None:
        self._expand = expand
        self._numbers: dict[tuple[str, ...], int] = {}

    def number(self, one: tuple[str, ...]) -> int:
        """Return the number of a profile, from 0."""
        number = self._numbers.get(one)
        if number is None:
            number = self._numbers[one] = len(self._numbers)
        return number

    def arguments(self) -> list[Argument]:
        """Return how many there are, and each in full."""
        arguments: list[Argument] = [len(self._numbers)]
        for one in self._numbers:
            arguments += self._expand(one)
        return arguments


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
        profile = profiles.number((task.topic, task.agent, task.reply_to or ""))
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

    def expand(one: tuple[str, ...]) -> tuple[str, ...]:
        agent = topics.agent_of(one[0])
        return (one[0], agent, one[1], topics.dead(agent))

    profiles = Profiles(expand)
    arguments: list[Argument] = []
    for one in endings:
        claim = one.claim
        profile = profiles.number((claim.delivery.topic, claim.reply_to or ""))
        ref = hold_of(claim.delivery).ref
        arguments += (profile, ref, claim.task_id, claim.token, one.state, one.result, one.letter)
    return profiles.arguments() + arguments


def returning(returns: Sequence[Return], topics: Topics) -> list[Argument]:
    """Return the arguments of `requeue.lua` from the profiles on."""
    profiles = Profiles(lambda one: (one[0], topics.agent_of(one[0]), one[1]))
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


def granted(request: GrantRequest, hold: Hold) -> Claim:
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
    hold = Hold(hold.ref) if hold is _UNHELD else hold
    hold.token, hold.failures, hold.crashes, hold.lapses = code, second, crashes, lapses
    hold.errors, hold.task_id = error_notes(errors), request.task_id
    return granted(request, hold)


def row_of(task_id: str, values: Reply) -> Row | None:
    """Return a row as `read.lua` answers it."""
    if values is None:
        return None
    state, agent, token, failures, crashes, lapses, owner, result, errors = cast(list[bytes | None], values)
    stands = _STATES[state or b""]
    return Row(
        task_id,
        (agent or b"").decode(),
        stands,
        token=int(token or 0),
        attempts=int(token or 0),
        failures=int(failures or 0),
        crashes=int(crashes or 0),
        lapses=int(lapses or 0),
        owner=(owner or b"").decode() if stands is State.LEASED else None,
        result=result,
        errors=error_notes(errors or b""),
    )


def state_of(value: bytes) -> State:
    """Return the state of that name."""
    return _STATES[value]
