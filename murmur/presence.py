"""Who serves what: small notes of workers in the store that vanish when nobody renews them."""

from typing import Final

import msgspec

from murmur.store import Store

PREFIX: Final = "presence:"
EVERY: Final = 5.0  # seconds between two notes of a worker
TTL: Final = 15.0  # seconds a note lives


class Presence(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker's note. `broken`: agents it should serve and cannot, with the reason."""

    worker_id: str
    agents: tuple[str, ...]
    concurrency: int
    running: int = 0
    started_at: float = 0.0
    broken: dict[str, str] = {}

    def __str__(self) -> str:
        serving = f"serving: {', '.join(self.agents)}" if self.agents else "serving nobody"
        broken = "".join(f"; {agent} is broken: {why}" for agent, why in self.broken.items())
        return f"{self.worker_id} ({serving}{broken})"


async def announce(store: Store, note: Presence) -> None:
    """Write or renew a worker's note."""
    await store.put(PREFIX + note.worker_id, msgspec.json.encode(note), ttl=TTL)


async def withdraw(store: Store, worker_id: str) -> None:
    """Take a worker's note away."""
    await store.delete([PREFIX + worker_id])


async def seen(store: Store) -> tuple[Presence, ...]:
    """Return the notes of all workers that are alive, by id."""
    notes = await store.listed(PREFIX)
    return tuple(msgspec.json.decode(notes[key], type=Presence) for key in sorted(notes))
