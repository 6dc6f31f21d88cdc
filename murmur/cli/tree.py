"""`murmur tree`: every worker's supervision tree: what is supervised, in which process, and why it last ended."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from murmur.cli.fleet import NOBODY, on_the_plane, sized, told
from murmur.cli.options import where_tasks_are

if TYPE_CHECKING:
    from murmur.beats import Branch
    from murmur.watch import Sighting, Watch


@click.command()
@click.argument("worker_id", metavar="[ID]", required=False)
@where_tasks_are
@click.option("--json", "as_json", is_flag=True, help="One JSON object a worker.")
def command(worker_id: str | None, *, as_json: bool, **where: Any) -> int:
    """Draw the supervision trees of all workers, or of one."""

    async def look(watch: "Watch") -> "list[Sighting]":
        from murmur.watch import LOOK  # noqa: PLC0415

        await (watch.find(worker_id) if worker_id is not None else asyncio.sleep(LOOK))
        return [one for one in watch.seen() if worker_id in (None, one.beat.worker_id)]

    fleet = on_the_plane(where, look)
    for one in fleet:
        if as_json:
            click.echo(json.dumps(told(one)))
            continue
        beat = one.beat
        about = (beat.worker_id, one.state, f"pid {beat.pid} on {beat.host}", sized(beat.rss))
        click.echo("  ".join(filter(None, about)))
        for text in _lines(beat.tree, ""):
            click.echo(text)
    if not fleet:
        click.echo(NOBODY if worker_id is None else f"no worker {worker_id!r} was heard", err=True)
    return 1 if worker_id is not None and not fleet else 0


def _lines(branches: "Sequence[Branch]", indent: str) -> Iterator[str]:
    for branch in branches:
        is_last = branch is branches[-1]
        restarted = f"restarted {branch.restarts} time{'s' * (branch.restarts != 1)}" if branch.restarts else ""
        words = (
            branch.id,
            branch.state,
            "" if branch.pid is None else f"pid {branch.pid}",
            sized(branch.rss),
            "" if branch.running is None else f"{branch.running} running",
            restarted,
            f"last: {branch.cause}" if branch.cause else "",
        )
        yield f"{indent}{'└─' if is_last else '├─'} {'  '.join(filter(None, words))}"
        yield from _lines(branch.children, f"{indent}{'   ' if is_last else '│  '}")
