"""Payloads too large for an envelope: put into the coordination store, and referred to from the envelope.

A broker carries many small messages well and few large ones badly. What is larger than `TaskQueue.inline` is kept in
the store in parts, before the envelope is sent, under the task and its own digest: two attempts never overwrite one
another, and whoever fetches it knows it is what was meant. It is forgotten with the retention at the latest.
"""

from collections.abc import Iterable, Iterator

from murmur.envelope import Stowed, check_json, digest
from murmur.errors import BadEnvelope, BrokerRefused, NeedsStore, PayloadLost, PayloadTooLarge
from murmur.limits import MAX_PAYLOAD, STOWED_PART
from murmur.patience import patiently
from murmur.store import NewTask, Store
from murmur.transport import Refusal

PREFIX = "stowed:"


def reference(store: Store, what: str, task_id: str, payload: bytes) -> Stowed:
    """Return where a payload of a task will lie. Raises `PayloadTooLarge`, and `NeedsStore` where there is none."""
    if len(payload) > MAX_PAYLOAD:
        raise PayloadTooLarge(what, len(payload), MAX_PAYLOAD)
    if not store.keeps_rows:
        raise NeedsStore(what=f"{what}, of {len(payload):,} bytes,")
    name = digest(payload)
    return Stowed(key=f"{PREFIX}{task_id}:{name[:32]}", size=len(payload), digest=name)


async def put(store: Store, stowed: Stowed, payload: bytes) -> None:
    """Put a payload where its reference says. May be repeated. Raises as the store does."""
    for key, start in zip(_keys(stowed), range(0, stowed.size, STOWED_PART), strict=True):
        await store.put(key, payload[start : start + STOWED_PART])


async def put_all(store: Store, tasks: Iterable[NewTask]) -> dict[str, Refusal]:
    """Put the payloads of tasks that have any; return, by their ids, those that the store takes no such thing of."""
    refused = {}
    for task in tasks:
        if task.payload is not None and task.stowed is not None:
            try:
                await put(store, task.stowed, task.payload)
            except (PayloadTooLarge, BrokerRefused) as error:
                refused[task.task_id] = Refusal(task.task_id, str(error), definite=True)
    return refused


async def fetch(store: Store, stowed: Stowed) -> bytes:
    """Return the payload, proven to be the one that was meant. Raises `PayloadLost`, `NeedsStore`, or as the store."""
    parts = []
    for key in _keys(stowed):  # one by one: an answer of many megabytes would hold up all others
        (part,) = await store.get([key])
        if part is None:
            raise PayloadLost(key=stowed.key, problem="it is gone: the store forgot it, or another store was meant")
        parts.append(part)
    payload = b"".join(parts)
    if len(payload) != stowed.size or digest(payload) != stowed.digest:
        raise PayloadLost(key=stowed.key, problem="it is not what its envelope says")
    try:
        check_json(payload, most=MAX_PAYLOAD)
    except BadEnvelope as error:
        raise PayloadLost(key=stowed.key, problem=error.problem) from None
    return payload


async def fetched(store: Store, stowed: Stowed, *, within: float) -> bytes:
    """Fetch, again and again while the store is away, for so many seconds."""
    return await patiently(lambda: fetch(store, stowed), within=within)


async def forget(store: Store, stowed: Stowed) -> None:
    """Forget a payload that nobody needs any more. Raises as the store does."""
    await store.delete(list(_keys(stowed)))


def _keys(stowed: Stowed) -> Iterator[str]:
    return (f"{stowed.key}:{number}" for number in range(-(-stowed.size // STOWED_PART)))
