"""Write murmur/schemas/*.json, the JSON Schemas of what goes over the wire, from the classes that encode it.

python -m tools.schemas
"""

import json
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from murmur.beats import Answer, Beat, Command
from murmur.envelope import DeadLetter, ResultMessage, TaskMessage

FOLDER: Final = Path(__file__).parents[1] / "murmur" / "schemas"
ENVELOPES: Final[dict[str, type[Struct]]] = {
    "task": TaskMessage,
    "result": ResultMessage,
    "dead_letter": DeadLetter,
    "beat": Beat,
    "command": Command,
    "answer": Answer,
}


def text_of(name: str) -> str:
    """Return the JSON Schema of an envelope as its file stands: a key of `ENVELOPES`."""
    schema = msgspec.json.schema(_plain(ENVELOPES[name]))
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return f"{json.dumps(whole, indent=2)}\n"


def _plain(envelope: type[Struct]) -> type[Struct]:
    """Return the envelope with `Any` where it keeps the bytes of a value, which have no schema of their own."""
    fields: list[Any] = []
    for one in msgspec.structs.fields(envelope):
        kind, default = (Any, None) if one.type is Raw else (one.type, one.default)
        if one.default is not msgspec.NODEFAULT:
            fields.append((one.name, kind, default))
        elif one.default_factory is not msgspec.NODEFAULT:
            fields.append((one.name, kind, msgspec.field(default_factory=one.default_factory)))
        else:
            fields.append((one.name, kind))
    namespace = {"__doc__": envelope.__doc__}
    return msgspec.defstruct(envelope.__name__, fields, kw_only=True, namespace=namespace)


if __name__ == "__main__":
    for each in ENVELOPES:
        (FOLDER / f"{each}.json").write_text(text_of(each), encoding="utf-8")
