"""What JetStream answers: an acknowledgement, an object of its API, or an error of its own."""

import json
from typing import Any, Final

import msgspec
from msgspec import Struct

from murmur.transports.nats_wire import Message

NO_RESPONDERS: Final = 503
_ROOTS: Final = ("$JS.API", "$JS.ACK", "$KV", "_INBOX")  # what is below them differs from call to call


class JetStreamError(Exception):
    """JetStream answered a request with an error. `code` is its own number, `status` like that of HTTP."""

    def __init__(self, subject: str, *, status: int, code: int, text: str) -> None:
        super().__init__(text)
        self.subject, self.status, self.code = subject, status, code


class _Error(Struct, gc=False):
    description: str = "failed"
    code: int = 500
    err_code: int = 0


class Kept(Struct, gc=False):
    """What it answers to a publish: where in the stream the message is, and whether it was there before."""

    seq: int = 0
    duplicate: bool = False
    error: _Error | None = None


_kept: Final = msgspec.json.Decoder(Kept).decode


def kept(message: Message) -> Kept:
    """Return the answer to a publish. Raises `JetStreamError`; `DecodeError`, if somebody else answers there."""
    if message.status:
        raise _failed(message, _Error(message.status_text or "nobody answers", message.status))
    answer = _kept(message.body)
    if answer.error is not None:
        raise _failed(message, answer.error)
    return answer


def answer_of(message: Message) -> dict[str, Any]:
    """Return the answer to a request of its API. Raises `JetStreamError`."""
    if message.status:
        raise _failed(message, _Error(message.status_text or "nobody answers", message.status))
    answer: dict[str, Any] = json.loads(message.body)
    if error := answer.get("error"):
        raise _failed(message, msgspec.convert(error, _Error))
    return answer


def _failed(message: Message, error: _Error) -> JetStreamError:
    subject = message.subject.decode("utf-8", "replace")
    return JetStreamError(subject, status=error.code, code=error.err_code, text=error.description)


def letting(problem: str, subject: str) -> str:
    """Return what gives a right that the server said is missing."""
    verb = "publish" if "publish" in problem.lower() else "subscribe"
    wide = next((f"{root}.>" for root in _ROOTS if subject.startswith(root)), subject)
    return f'Let this user {verb} to "{wide}" in nats-server.conf'
