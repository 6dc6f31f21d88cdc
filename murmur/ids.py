"""Task, batch and runtime ids: time-ordered random ones, and ones derived from their place.

A derived id makes a repeat recognisable: the task at index 7 of batch B has the same id
in every run of B, so a rerun meets the row of the first run instead of paying again.
Ids are text, at most `MAX_TASK_ID` characters of `[A-Za-z0-9._:/-]`.
"""

import re
import secrets
import time
from typing import Final

from murmur.errors import BadTaskId
from murmur.limits import MAX_TASK_ID

_ALLOWED: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*\Z")


def uuid7(now_ms: int | None = None) -> str:
    """Return a new UUID version 7: 48 bits of Unix milliseconds, then 74 random bits. Source: RFC 9562 §5.7."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    random = secrets.randbits(74)
    high = (ms << 16) | 0x7000 | (random >> 62)
    low = (1 << 63) | (random & ((1 << 62) - 1))
    text = f"{high:016x}{low:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def task_id_in_batch(batch_id: str, index: int) -> str:
    """Return the id of the task at `index` (0-based) of a batch."""
    return f"{batch_id}.{index}"


def batch_id_of_children(parent_id: str, nth_gather: int) -> str:
    """Return the batch id of the n-th (0-based) gather that a task runs; the same in every attempt."""
    return f"{parent_id}/{nth_gather}"


def check_task_id(task_id: str) -> str:
    """Return `task_id`, or raise `BadTaskId`: it becomes part of keys and subjects on every broker."""
    if len(task_id) > MAX_TASK_ID or not _ALLOWED.match(task_id):
        raise BadTaskId(task_id=task_id[: MAX_TASK_ID + 1])
    return task_id
