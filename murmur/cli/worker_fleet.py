"""`murmur worker list`, `murmur worker drain ID`, `murmur worker stop ID`: workers anywhere, over the control plane."""

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import click

from murmur.cli.fleet import NOBODY, line, on_the_plane, told
from murmur.cli.options import where_tasks_are

if TYPE_CHECKING:
    from murmur.watch import Sighting, Watch

_SECONDS: Final = click.FloatRange(min=0.0)
_wait = click.option("--wait", type=_SECONDS, default=600.0, show_default=True, help="Seconds until it must have left.")


@click.command(name="list")
@where_tasks_are
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(*, as_json: bool, **where: Any) -> int:
    """List the workers that are heard."""

    async def look(watch: "Watch") -> "list[Sighting]":
        from murmur.watch import LOOK  # noqa: PLC0415

        await asyncio.sleep(LOOK)
        return watch.seen()

    fleet = on_the_plane(where, look)
    for one in fleet:
        click.echo(json.dumps(told(one)) if as_json else line(one))
    if not fleet:
        click.echo(NOBODY, err=True)
    return 0


@click.command()
@click.argument("worker_id", metavar="ID")
@where_tasks_are
@_wait
@click.option("--drain", "seconds", type=_SECONDS, help="Seconds its running tasks have; default: its own.")
def drain(worker_id: str, wait: float, seconds: float | None, **where: Any) -> int:
    """Have a worker take no more tasks, end those that run, and leave. Returns when it has."""
    return _told(worker_id, "drain", seconds, wait, where)


@click.command()
@click.argument("worker_id", metavar="ID")
@where_tasks_are
@_wait
def stop(worker_id: str, wait: float, **where: Any) -> int:
    """Have a worker give its running tasks back, uncounted, and leave at once. Returns when it has."""
    return _told(worker_id, "stop", None, wait, where)


def _told(worker_id: str, verb: Any, drain_within: float | None, wait: float, where: dict[str, Any]) -> int:
    async def tell(watch: "Watch") -> str:
        from murmur.errors import BadEnvelope  # noqa: PLC0415

        beat = await watch.find(worker_id)
        if beat is None:
            known = ", ".join(sorted({one.beat.worker_id for one in watch.seen()}))
            return f"no worker {worker_id!r} was heard; heard: {known}" if known else NOBODY
        try:
            if await watch.tell(beat, verb, drain=drain_within, within=wait):
                return ""
        except BadEnvelope as refusal:
            return f"{worker_id} refused: {refusal.problem}"
        return f"{beat.worker_id} has not left; it was {_last_seen(watch, beat.worker_id)}"

    problem = on_the_plane(where, tell)
    if problem:
        click.echo(problem, err=True)
        return 1
    click.echo(f"{worker_id} has left", err=True)
    return 0


def _last_seen(watch: "Watch", worker_id: str) -> str:
    for one in watch.seen():
        if one.beat.worker_id == worker_id:
            return f"{one.state} {one.age:.0f} s ago, with {one.beat.running} tasks running"
    return "not heard for a while"
