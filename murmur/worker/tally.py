"""How many tasks ended and attempts failed in a worker since it began, and the last error."""

from typing import Final

from murmur.envelope import ErrorNote, decode_letter, decode_result
from murmur.errors import BadEnvelope
from murmur.store import Burial, Completion, Failure
from murmur.task_queue import Ending

# Before the first optional field of a ResultMessage; task ids and agents hold no quotes.
_NO_SUCCESS: Final = b'"success":false'
_HEAD: Final = 400  # bytes


class Tally:
    """Counts endings as they are settled; what an error was is looked at when somebody asks."""

    def __init__(self) -> None:
        self.ended = 0
        self.failed = 0
        self._last: Completion | Failure | Burial | None = None

    def note(self, ending: Ending) -> None:
        """Count one ending. A task given back is none."""
        if isinstance(ending, Completion):
            self.ended += 1
            if _NO_SUCCESS not in ending.result[:_HEAD]:
                return
        elif isinstance(ending, Burial):
            self.ended += 1
        elif not isinstance(ending, Failure):
            return
        self.failed += 1
        self._last = ending

    @property
    def last_error(self) -> ErrorNote | None:
        """The last attempt that failed; None if none did."""
        last = self._last
        try:
            if isinstance(last, Failure):
                return last.error
            if isinstance(last, Burial):
                errors = decode_letter(last.letter).errors
                return errors[-1] if errors else None
            if last is not None:
                result = decode_result(last.result)
                return ErrorNote(
                    attempt=result.attempts,
                    error_type=result.error_type or "",
                    message=result.error_message or "",
                    at=result.finished_at or 0.0,
                    worker_id=result.worker_id,
                )
        except BadEnvelope:  # a result of the caller's making that is none
            return None
        return None
