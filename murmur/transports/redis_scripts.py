"""The Lua scripts that run in the Redis server: loaded from the package, named by their digest.

Each stands in a file of its own under `lua/` that tells its KEYS, ARGV and answer; what they
share is put before them. They run for one namespace on one server, not on a Redis Cluster
(docs/decisions/0010-redis-scripts.md). Running them is the link's.
"""

import hashlib
import re
from importlib.resources import files
from typing import Final

from attrs import frozen

_PARTS: Final = re.compile(r"(?<=\n)\n+(?=--|local )")  # of a file: one definition each, with the comment before it
_DEFINED: Final = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)


@frozen
class Script:
    """A script: its file's name, its text, and the digest by which the server knows it once it has seen it."""

    name: str
    source: str
    sha: str


def load(package: str, name: str) -> Script:
    """Return the script `lua/{name}.lua` of a package, put behind those of the shared functions that it needs."""
    shared = files("murmur.transports").joinpath("lua/entries.lua").read_text(encoding="utf-8")
    source = files(package).joinpath(f"lua/{name}.lua").read_text(encoding="utf-8")
    # The server makes every function anew in every run of a script: from the last one on, keep what is used.
    for part in reversed(_PARTS.split(shared)):
        defined = _DEFINED.search(part)
        if defined is not None and re.search(rf"\b{defined[1]}\b", source):
            source = part + source
    # The server names a script by this digest: it protects nothing.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
