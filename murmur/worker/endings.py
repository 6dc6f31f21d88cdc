"""From how an attempt ended to what is written about it: results, retries, dead letters, as encoded bytes.

Asks `murmur.outcome` what follows and fills in the envelopes. Nothing is sent from here.
"""

import time
from typing import Final

from msgspec import Raw

from murmur.envelope import VERSION, DeadLetter, ErrorNote, ResultMessage, Stowed, TaskMessage, digest, encode
from murmur.errors import PayloadTooLarge, TaskExpired, TaskFailed, TaskLost
from murmur.limits import MAX_ENVELOPE, MAX_ERROR_TEXT, MAX_ERRORS_KEPT
from murmur.outcome import Answer, Bury, Expire, GiveBack, Retry
from murmur.redaction import redact
from murmur.store import Burial, Claim, Completion, Failure, State
from murmur.task_queue import Ending, Release

_CUT: Final = "…"


class Endings:
    """Makes the endings of one worker, which signs them with its id."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id

    def output(
        self, claim: Claim, message: TaskMessage, body: bytes, *, duration_ms: int, stowed: Stowed | None = None
    ) -> Completion:
        """The task has its output, stowed or not. Raises `PayloadTooLarge` if that fits no envelope."""
        result = self._result(claim, message, duration_ms)
        result.success = True
        if stowed is None:
            result.output, result.digest = Raw(body), digest(body)
        else:
            result.stowed, result.digest = stowed, stowed.digest
        encoded = encode(result)
        if len(encoded) > MAX_ENVELOPE:
            raise PayloadTooLarge(f"the result of {message.agent}", len(encoded), MAX_ENVELOPE)
        return Completion(claim=claim, result=encoded)

    def failed(
        self,
        claim: Claim,
        message: TaskMessage,
        error: BaseException,
        verdict: Answer | Retry | Bury | GiveBack,
        *,
        duration_ms: int,
    ) -> Ending:
        """The attempt raised, and this is the verdict on it."""
        match verdict:
            case GiveBack():
                return Release(claim, verdict.delay)
            case Retry():
                return Failure(
                    claim=claim, delay=verdict.delay, error=self._note(claim, error), crashed=verdict.crashed
                )
            case Answer():
                return Completion(claim=claim, result=self._error(claim, message, error, duration_ms))
            case Bury():
                return self.buried(claim, message, verdict.reason, error, duration_ms=duration_ms)

    def buried(
        self, claim: Claim, message: TaskMessage, reason: str, error: BaseException, *, duration_ms: int = 0
    ) -> Burial:
        """Nobody tries this task again."""
        result = self._error(claim, message, error, duration_ms)
        return self._burial(claim, message, reason, self._note(claim, error), result)

    def wrecked(self, claim: Claim, message: TaskMessage, note: ErrorNote, *, deaths: int) -> Burial:
        """Nobody tries this task again: it took too many processes with it, the last as `note` says."""
        error = TaskLost(message.task_id, message.agent, note.error_type, note.message)
        reason = f"crashed its process {deaths} time{'s' * (deaths != 1)}"
        return self._burial(claim, message, reason, note, self._error(claim, message, error, 0), crashes=deaths)

    def _burial(
        self,
        claim: Claim,
        message: TaskMessage,
        reason: str,
        note: ErrorNote,
        result: bytes,
        *,
        crashes: int | None = None,
    ) -> Burial:
        letter = DeadLetter(
            reason=reason,
            dead_at=time.time(),
            agent=message.agent,
            task_id=message.task_id,
            task=Raw(claim.delivery.body),
            deliveries=claim.delivery.deliveries,
            attempts=claim.attempts,
            crashes=claim.crashes if crashes is None else crashes,
            errors=[*claim.errors, note][-MAX_ERRORS_KEPT:],
            exit=note.exit,
            worker_id=self._worker_id,
        )
        return Burial(claim=claim, reason=reason, letter=encode(letter), result=result)

    def unstarted(self, claim: Claim, message: TaskMessage, decision: Expire | Bury) -> Ending:
        """The task may not start."""
        if isinstance(decision, Expire):
            return self.expired(claim, message)
        last = claim.errors[-1] if claim.errors else None
        kind, text = (
            (last.error_type, last.message)
            if last
            else (TaskLost.__name__, f"the task was given up: {decision.reason}")
        )
        return self.buried(claim, message, decision.reason, TaskLost(claim.task_id, message.agent, kind, text))

    def expired(self, claim: Claim, message: TaskMessage) -> Completion:
        """The deadline passed before the task began."""
        error = TaskExpired(message.task_id, message.agent, TaskExpired.__name__, "its deadline passed before it began")
        return Completion(claim=claim, result=self._error(claim, message, error, 0), state=State.EXPIRED)

    def _error(self, claim: Claim, message: TaskMessage, error: BaseException, duration_ms: int) -> bytes:
        result = self._result(claim, message, duration_ms)
        result.error_type, result.error_message = described(error)
        return encode(result)

    def _result(self, claim: Claim, message: TaskMessage, duration_ms: int) -> ResultMessage:
        now = time.time()
        queued = 0.0 if message.sent_at is None else now - message.sent_at - duration_ms / 1000
        return ResultMessage(
            v=VERSION,
            task_id=message.task_id,
            batch_id=message.batch_id,
            agent=message.agent,
            success=False,
            attempts=claim.attempts,
            token=claim.token,
            worker_id=self._worker_id,
            duration_ms=duration_ms,
            queued_ms=max(int(queued * 1000), 0),
            finished_at=now,
        )

    def _note(self, claim: Claim, error: BaseException) -> ErrorNote:
        kind, text = described(error)
        return ErrorNote(
            attempt=claim.attempts, error_type=kind, message=text, at=time.time(), worker_id=self._worker_id
        )


def described(error: BaseException) -> tuple[str, str]:
    """Return an error's class name and text, bounded; an error that cannot be told still has its name."""
    if isinstance(error, TaskFailed):
        return error.error_type, redact(error.message)
    try:
        text = str(error)
    except Exception as broken:  # noqa: BLE001  a user's __str__ may do anything
        text = f"(its text could not be made: {type(broken).__name__})"
    text = redact(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return type(error).__name__, text if len(text) <= MAX_ERROR_TEXT else text[: MAX_ERROR_TEXT - 1] + _CUT
