"""`murmur top`: the fleet as it is, live, or once for scripts."""

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from murmur.cli.fleet import NOBODY, depths, lasting, on_the_plane, opened, sized, told
from murmur.cli.options import where_tasks_are

if TYPE_CHECKING:
    from murmur.beats import Beat, Branch
    from murmur.transport import TopicStats
    from murmur.watch import Sighting, Watch


@click.command()
@where_tasks_are
@click.option("--once", is_flag=True, help="Look once, and end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a look.")
@click.option("--every", default=1.0, show_default=True, help="Seconds between two looks.")
def command(*, once: bool, as_json: bool, every: float, **where: Any) -> int:
    """Watch workers, their load and the mailboxes they serve."""

    async def watch(watch: "Watch") -> None:
        from murmur.watch import LOOK  # noqa: PLC0415

        queue = await opened(where)
        try:
            if once or as_json:
                await asyncio.sleep(LOOK)
                while True:
                    fleet = watch.seen()
                    _print(fleet, await depths(queue, fleet), as_json=as_json)
                    if once:
                        return
                    await asyncio.sleep(every)
            from rich.live import Live  # noqa: PLC0415  100 ms, for those who watch

            with Live(_Screen([], {}), auto_refresh=False, screen=sys.stdout.isatty()) as live:
                while True:
                    fleet = watch.seen()
                    live.update(_Screen(fleet, await depths(queue, fleet)), refresh=True)
                    await asyncio.sleep(every)
        finally:
            await queue.close()

    try:
        on_the_plane(where, watch)
    except KeyboardInterrupt:
        return 0
    return 0


def _print(fleet: "list[Sighting]", mailboxes: "dict[str, TopicStats]", *, as_json: bool) -> None:
    if as_json:
        shown = {
            agent: {"ready": one.ready, "inflight": one.inflight, "dead": one.dead} for agent, one in mailboxes.items()
        }
        click.echo(json.dumps({"workers": [told(one) for one in fleet], "mailboxes": shown}))
        return
    from rich.console import Console  # noqa: PLC0415  as above

    Console(width=None if sys.stdout.isatty() else _WIDE).print(_Screen(fleet, mailboxes))


class _Screen:
    """One look, drawn."""

    def __init__(self, fleet: "list[Sighting]", mailboxes: "dict[str, TopicStats]") -> None:
        self._fleet = fleet
        self._mailboxes = mailboxes

    def __rich_console__(self, console: Any, options: Any) -> Any:
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        here = [one for one in self._fleet if one.state not in ("gone", "silent")]
        totals = [
            f"{len(here)} worker{'s' * (len(here) != 1)}",
            f"{sum(one.beat.running for one in here)} of {sum(one.beat.concurrency for one in here)} slots busy",
            f"{sum(one.ready or 0 for one in self._mailboxes.values())} tasks wait",
            f"{sum(one.beat.rate for one in here):.1f} tasks/s",
            f"{sum(one.beat.restarts for one in here)} restarts",
        ]
        yield Text("  ·  ".join(totals) if self._fleet else NOBODY)
        if not self._fleet:
            return
        workers = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        workers.add_column("worker", no_wrap=True)  # whole, for who is to drain it
        for name in ("state", "serves", "busy", "tasks/s", "ended", "failed", "restarts", "memory", "up"):
            workers.add_column(name)
        for one in self._fleet:
            beat = one.beat
            workers.add_row(
                beat.worker_id,
                Text(one.state, _COLOURS.get(one.state, "")),
                ", ".join([*beat.agents, *(f"{agent} (broken)" for agent in beat.broken)]),
                f"{beat.running}/{beat.concurrency}",
                f"{beat.rate:.1f}",
                str(beat.ended),
                str(beat.failed),
                str(beat.restarts),
                sized(beat.rss),
                lasting(beat.at - beat.started_at),
            )
            places = list(_places(beat.tree))
            for branch in places:
                name = branch.id if branch.pid is None else f"{branch.id}  {branch.pid}"
                workers.add_row(
                    f"{'└─' if branch is places[-1] else '├─'} {name}",
                    Text(branch.state, _COLOURS.get(branch.state, "")),
                    ", ".join(map(_actor, branch.children)),
                    "" if branch.running is None else str(branch.running),
                    *("", "", ""),
                    str(branch.restarts),
                    sized(branch.rss),
                )
        yield workers
        mailboxes = Table("mailbox", "wait", "at work", "dead letters", box=SIMPLE_HEAD, pad_edge=False)
        for agent, stats in self._mailboxes.items():
            mailboxes.add_row(agent, *("?" if n is None else str(n) for n in (stats.ready, stats.inflight, stats.dead)))
        yield mailboxes
        errors = [one for one in self._fleet if one.beat.last_error is not None]
        for one in errors:
            error = one.beat.last_error
            assert error is not None
            ago = lasting(one.beat.at - error.at)
            yield Text(f"{one.beat.worker_id}, {ago} ago: {error.error_type}: {error.message}", "dim", overflow="fold")
        for one in self._fleet:
            for path, cause in _causes(one.beat):
                yield Text(f"{one.beat.worker_id}, {path}: {cause}", "dim", overflow="fold")


def _places(tree: "Sequence[Branch]") -> Iterator["Branch"]:
    """Return where actors are: the processes of every pool, also one that is being replaced, and the worker's own."""
    for branch in tree:
        yield from (branch,) if branch.id == "actors" else branch.children


def _causes(beat: "Beat") -> "Iterator[tuple[str, str]]":
    """Return why a process, or an agent in it, ended last or is held."""
    for place in _places(beat.tree):
        for path, branch in ((place.id, place), *((f"{place.id}/{child.id}", child) for child in place.children)):
            if branch.cause is not None:
                yield path, branch.cause


def _actor(branch: "Branch") -> str:
    """Return an agent in its process: its name, and what it has in hand, or that it is held."""
    held = "" if branch.state == "up" else f" ({branch.state})"
    return f"{branch.id}{held}{f' {branch.running}' if branch.running else ''}"


_WIDE = 160  # characters, where no terminal says
_COLOURS = {
    "serving": "green",
    "up": "green",
    "starting": "yellow",
    "draining": "yellow",
    "silent": "red",
    "gone": "dim",
}
