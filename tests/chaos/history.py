"""What happened, in files that are only appended to: one line of JSON per event, from any process, whole or not at all.

Lines are shorter than a page and written with one `write` on a file opened with O_APPEND, so those of killed
processes are there up to the last one.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def note(path: str, kind: str, **fields: Any) -> None:
    """Append one event."""
    line = json.dumps({"kind": kind, **fields}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def events(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Yield the events of a kind, in order."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            event = json.loads(line)
            if event["kind"] == kind:
                yield event
