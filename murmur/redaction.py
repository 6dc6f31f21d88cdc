"""Takes secrets out of text that people or logs are shown.

Known are the passwords of all URLs that were parsed in this process and the keys of all key files that were read, in
every form they are written in; and what looks like a secret: the password of any URL, bearer tokens, API keys. Every
error that travels in a result or a dead letter, and every line that `murmur` logs, goes through here.

For your own logs:

    logger.add(redacting(sys.stderr.write), diagnose=False)     # loguru
    handler.addFilter(RedactingFilter())                        # logging
"""

import logging
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, quote_plus

HIDDEN: Final = "***"
LOGS_JSON: Final = "MURMUR_LOGS_JSON"  # environment: "1" where processes started from here log JSON lines
_LEAST: Final = 4  # characters: what is shorter stands in too much that is no secret
_PATTERNS: Final = (
    (re.compile(r"(?<=://)([^\s:/@'\"]*):[^\s/'\"]+@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"(?i)\b((?:password|passwd|secret|token|api_key|apikey)\s*[=:]\s*)[^\s,;&'\"]+"), rf"\1{HIDDEN}"),
)
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))}

# The one mutable module state: what this process was told is secret.
_known: Final[set[str]] = set()


def protect(secret: str | None) -> None:
    """Never show this text again, nor its percent-encoded forms."""
    if secret is not None and len(secret) >= _LEAST:
        _known.update((secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1]))


def redact(text: str) -> str:
    """Return text without secrets."""
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def one_safe_text(text: str) -> str:
    """Return text without secrets and without characters that steer a terminal; line ends and tabs stay."""
    return redact(text).translate(_CONTROL)


def redacting(write: Callable[[str], object]) -> Callable[[str], None]:
    """Return a sink for loguru that writes what is left of each message."""

    def sink(message: str) -> None:
        write(one_safe_text(str(message)))

    return sink


class RedactingFilter(logging.Filter):
    """For handlers of `logging`: the message, its arguments and its traceback without secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, redacted."""
        record.msg, record.args = one_safe_text(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = one_safe_text(record.exc_text)
        return True
