"""What a task has been through, told by the headers of its message: for brokers without a coordination store.

A message that is sent again after a failure bears its counters; its body is what its publisher wrote, to the byte.
Between two failures the broker's own count of deliveries tells how often a worker took it and vanished. Headers are a
stranger's word: what is no count counts as none. Pure.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from murmur.envelope import ErrorNote
from murmur.limits import MAX_ERROR_IN_HEADER, MAX_ERRORS_KEPT
from murmur.store import Claim, Failure, GrantRequest

ATTEMPTS: Final = "murmur-attempts"
FAILURES: Final = "murmur-failures"
CRASHES: Final = "murmur-crashes"
ERRORS: Final = "murmur-errors"
_DIGITS: Final = 6  # of a count; no task is tried a million times

_notes: Final = msgspec.json.Decoder(list[ErrorNote])


def claim_of(request: GrantRequest, *, token: int) -> Claim:
    """Return the right to run a delivered task, its counters as the message and the broker tell them."""
    delivery = request.delivery
    headers = delivery.headers
    return Claim(
        task_id=request.task_id,
        token=token,
        delivery=delivery,
        reply_to=request.reply_to,
        attempts=_count(headers, ATTEMPTS) + delivery.deliveries,
        failures=_count(headers, FAILURES),
        crashes=_count(headers, CRASHES),
        lapses=delivery.deliveries - 1,
        errors=_errors(headers),
    )


def headers_after(failure: Failure) -> dict[str, str]:
    """Return the headers of the message that is sent again after a failure."""
    claim, error = failure.claim, failure.error
    notes = [*claim.errors, error][-MAX_ERRORS_KEPT:]
    short = [msgspec.structs.replace(one, message=one.message[:MAX_ERROR_IN_HEADER], stack=None) for one in notes]
    return {
        **claim.delivery.headers,
        ATTEMPTS: str(claim.attempts),
        FAILURES: str(claim.failures + failure.is_failure),
        CRASHES: str(claim.crashes + failure.crashed),
        ERRORS: msgspec.json.encode(short).decode(),
    }


def _count(headers: Mapping[str, str], name: str) -> int:
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else 0


def _errors(headers: Mapping[str, str]) -> tuple[ErrorNote, ...]:
    text = headers.get(ERRORS)
    if text is None:
        return ()
    try:
        return tuple(_notes.decode(text)[-MAX_ERRORS_KEPT:])
    except (msgspec.DecodeError, RecursionError):
        return ()
