"""What the commands that look at a fleet share: where to look, how long, and how it is told.

A fleet is what beats on the control plane; depths of mailboxes come from the broker.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from murmur.cli.options import on_a_loop

if TYPE_CHECKING:
    from murmur.task_queue import TaskQueue
    from murmur.transport import TopicStats
    from murmur.watch import Sighting, Watch

T = TypeVar("T")

NOBODY: Final = "no worker was heard"


def on_the_plane(where: Mapping[str, Any], work: "Callable[[Watch], Awaitable[T]]") -> T:
    """Run `work` on an open control plane of the broker that the options name."""

    async def done() -> T:
        from murmur import wiring  # noqa: PLC0415
        from murmur.names import Topics  # noqa: PLC0415
        from murmur.signing import read_keys  # noqa: PLC0415
        from murmur.watch import watching  # noqa: PLC0415

        namespace, keys = where["namespace"], where["signing_keys"]
        seal = None if keys is None else read_keys(keys)
        plane = wiring.control(broker_of(where), namespace=namespace)
        async with watching(plane, Topics(namespace), seal) as watch:
            return await work(watch)

    return on_a_loop(done)


def broker_of(where: Mapping[str, Any]) -> str:
    """Return the broker's URL. Raises UsageError."""
    if not where["broker"]:
        raise click.UsageError("name a broker: --broker redis://host:6379, MURMUR_BROKER, or broker in murmur.toml")
    return str(where["broker"])


async def opened(where: Mapping[str, Any]) -> "TaskQueue":
    """Return the task queue of the broker, to ask how full it is."""
    from murmur import wiring  # noqa: PLC0415

    name = "murmur-watch"
    queue = wiring.connect(
        broker_of(where),
        store=where["store"],
        namespace=where["namespace"],
        consumer_id=name,
        lease=None,
        retention=86_400.0,
        signing_keys=where["signing_keys"],
    )
    await queue.open(owner=name, lease=None)
    return queue


async def depths(queue: "TaskQueue", fleet: "Sequence[Sighting]") -> "dict[str, TopicStats]":
    """Return how full the mailbox of each agent is that somebody serves or should."""
    from murmur.task_queue import GROUP  # noqa: PLC0415

    agents = sorted({agent for one in fleet for agent in (*one.beat.agents, *one.beat.broken)})
    await queue.open_tasks(agents)
    return {agent: await queue.transport.stats(queue.topics.tasks(agent), GROUP) for agent in agents}


def told(one: "Sighting") -> dict[str, Any]:
    """Return a worker as a JSON object: its beat, its state as seen from here, and how old that is."""
    beat = {name: msgspec.to_builtins(getattr(one.beat, name)) for name in one.beat.__struct_fields__}
    return {**beat, "state": one.state, "age": round(one.age, 1)}


def line(one: "Sighting") -> str:
    """Return a worker as one line."""
    beat = one.beat
    serving = ", ".join(beat.agents) or "nobody"
    parts = [
        f"{beat.worker_id}  {one.state}",
        f"serving {serving}",
        f"{beat.running} of {beat.concurrency} slots busy",
        f"{beat.ended} ended" + (f", {beat.failed} attempts failed" if beat.failed else ""),
        f"up {lasting(time.time() - beat.started_at)}",
        f"pid {beat.pid} on {beat.host}",
    ]
    return "  ·  ".join(parts)


def lasting(seconds: float) -> str:
    """Return a span as 45s, 12m, 3h or 2d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds / size)}{unit}"
    return f"{max(int(seconds), 0)}s"


def sized(size: int | None) -> str:
    """Return bytes as MiB; nothing where they are not known."""
    return "" if size is None else f"{size / 2**20:.0f} MiB"
