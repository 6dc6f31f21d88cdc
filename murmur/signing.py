"""Signed envelopes: who may not hold the keys can publish nothing that runs, and no result that is believed.

HMAC-SHA256 over the kind of message, its topic and the bytes as sent. The signature of a task travels in a header of
its message; that of a result stands as the last field within it, because results are kept as well as sent, and so does
that of a message of the control plane. A task says in its own bytes where its result goes, so that is signed too. See
docs/how-to/signing.md.

The key file is TOML:

    [[key]]
    id = "2026-11"
    secret = "…"            # base64 of at least 32 random bytes
    use = "sign"            # signs, and verifies; one key at most. "verify": an older one. "revoked": refused by name
"""

import base64
import binascii
import hmac
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from murmur.errors import BadSetting, BadSignature
from murmur.limits import MAX_ENVELOPE
from murmur.redaction import protect

HEADER: Final = "murmur-signature"
TASK: Final = "task"
RESULT: Final = "result"
MAX_SIGNATURE: Final = 256  # bytes that signing adds to a result
_SCHEME: Final = "v1"
_LEAST_SECRET: Final = 32  # bytes
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_LAST_FIELD: Final = re.compile(rb',"signature":"([A-Za-z0-9._;+/=-]{1,200})"\}\Z')


class Seal:
    """Signs and verifies with the keys of one file. Its text shows no secret."""

    def __init__(self, keys: Mapping[str, tuple[str, bytes]]) -> None:
        """Take `{id: (use, secret)}`; `use` is "sign", "verify" or "revoked"."""
        self._secrets = {key_id: secret for key_id, (use, secret) in keys.items() if use != "revoked"}
        self._revoked = frozenset(key_id for key_id, (use, _) in keys.items() if use == "revoked")
        self._signs_with = next((key_id for key_id, (use, _) in keys.items() if use == "sign"), None)

    def __repr__(self) -> str:
        return f"Seal(signs with {self._signs_with}, verifies {sorted(self._secrets)}, refuses {sorted(self._revoked)})"

    def signature(self, kind: str, topic: str, body: bytes) -> str:
        """Return the signature of bytes that go to a topic. Raises `BadSetting` without a key that signs."""
        if self._signs_with is None:
            raise BadSetting(name="signing_keys", value="a file without one", expected='a key with use = "sign"')
        mac = _mac(self._secrets[self._signs_with], kind, topic, body)
        return f"{_SCHEME};{self._signs_with};{base64.b64encode(mac).decode()}"

    def check(self, kind: str, topic: str, body: bytes, signature: str | None) -> None:
        """Raise `BadSignature` unless a key of ours signed these bytes for this topic."""
        if signature is None:
            raise BadSignature(problem=f"the {kind} is not signed")
        scheme, _, rest = signature.partition(";")
        key_id, _, encoded = rest.partition(";")
        if scheme != _SCHEME or not _ID.match(key_id):
            raise BadSignature(problem=f"its signature is not of the form {_SCHEME};key;base64")
        if key_id in self._revoked:
            raise BadSignature(problem=f"it is signed with {key_id!r}, which is revoked")
        if key_id not in self._secrets:
            raise BadSignature(problem=f"it is signed with {key_id!r}, which is not in the key file")
        try:
            claimed = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise BadSignature(problem=f"its signature is not of the form {_SCHEME};key;base64") from None
        if not hmac.compare_digest(claimed, _mac(self._secrets[key_id], kind, topic, body)):
            raise BadSignature(problem=f"the {kind} was altered, or signed for another topic")

    def sealed(self, body: bytes, *, kind: str = RESULT, topic: str = "") -> bytes:
        """Return an encoded message with its signature as its last field. A result belongs to no topic."""
        return body[:-1] + b',"signature":"' + self.signature(kind, topic, body).encode() + b'"}'

    def opened(self, sealed: bytes, *, kind: str = RESULT, topic: str = "") -> bytes:
        """Return a sealed message as it was before. Raises `BadSignature`."""
        if len(sealed) > MAX_ENVELOPE + MAX_SIGNATURE:
            raise BadSignature(problem=f"the {kind} has {len(sealed):,} bytes")
        found = _LAST_FIELD.search(sealed, max(0, len(sealed) - MAX_SIGNATURE))
        if found is None:
            raise BadSignature(problem=f"the {kind} is not signed")
        body = sealed[: found.start()] + b"}"
        self.check(kind, topic, body, found[1].decode())
        return body


def read_keys(path: str | Path) -> Seal:
    """Return the seal of a key file. Raises `BadSetting`, which says what is wrong with it and shows no secret."""
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _bad(path, f"a readable key file ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(path, f"a TOML file ({error})") from None
    entries = content.get("key")
    if not isinstance(entries, list) or not entries:
        raise _bad(path, "a file with [[key]] tables")
    keys: dict[str, tuple[str, bytes]] = {}
    for entry in entries:
        key_id, use, secret = _entry(path, entry)
        if key_id in keys:
            raise _bad(path, f"each id once, {key_id!r} is there twice")
        keys[key_id] = use, secret
    if [use for use, _ in keys.values()].count("sign") > 1:
        raise _bad(path, 'one key with use = "sign" at most')
    return Seal(keys)


def _entry(path: str | Path, entry: Any) -> tuple[str, str, bytes]:
    fields = entry if isinstance(entry, dict) else {}
    key_id, use = fields.get("id"), fields.get("use")
    if not isinstance(key_id, str) or not _ID.match(key_id):
        raise _bad(path, f"an id of up to 64 letters, digits, '.', '_' or '-' in each [[key]], got {key_id!r}")
    if use not in ("sign", "verify", "revoked"):
        raise _bad(path, f'use = "sign", "verify" or "revoked" for key {key_id!r}, got {use!r}')
    if use == "revoked":
        return key_id, use, b""
    try:
        secret = base64.b64decode(str(fields.get("secret", "")), validate=True)
    except (binascii.Error, ValueError):
        raise _bad(path, f"base64 as the secret of key {key_id!r}") from None
    protect(fields["secret"])
    if len(secret) < _LEAST_SECRET:
        raise _bad(path, f"a secret of at least {_LEAST_SECRET} bytes for key {key_id!r}, got {len(secret)}")
    return key_id, use, secret


def _bad(path: str | Path, expected: str) -> BadSetting:
    return BadSetting(name="signing_keys", value=str(path), expected=expected)


def _mac(secret: bytes, kind: str, topic: str, body: bytes) -> bytes:
    # Lengths first: no two ways to cut the same bytes into kind, topic and body.
    head = f"murmur {_SCHEME} {kind} {len(topic.encode())} {topic} {len(body)}\n".encode()
    return hmac.digest(secret, head + body, "sha256")
