"""`murmur worker start`: serve agents until SIGTERM or SIGINT, then drain. What is done to others stands beside it."""

import re
import sys
from contextlib import nullcontext
from typing import Any, Final

import click

from murmur.cli.discovery import discover, registry_of
from murmur.cli.generation import this_generation
from murmur.cli.options import log_to_stderr, on_a_loop, option, strictly, where_agents_are, where_tasks_are
from murmur.cli.worker_fleet import drain, list_, stop

_UNITS: Final = {
    "": 1,
    "B": 1,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "K": 1 << 10,
    "M": 1 << 20,
    "G": 1 << 30,
}


def _bytes(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]*) ?([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise click.BadParameter(f"expected bytes such as 512MiB or 2GiB, got {text!r}")
    return int(found[1]) * _UNITS[found[2].upper()]


@click.group()
def command() -> None:
    """Serve agents from a broker; list, drain and stop those who do."""


for _one in (list_, drain, stop):
    command.add_command(_one)


@command.command()
@where_agents_are
@where_tasks_are
@strictly
@option("--agents", help="Names with commas between. Default: all that are found.")
@option("--concurrency", default=20, show_default=True, help="Tasks at once in this worker.")
@option("--prefetch", default=5, show_default=True, help="Tasks one read takes at most.")
@option(
    "--processes",
    default=0,
    show_default=True,
    help="Worker processes; 0: actors run in this one.",
)
@option("--consumer-id", help="Stable name of this worker. Default: made anew.")
@option(
    "--reclaim-min-idle-ms",
    default=30_000,
    show_default=True,
    help="The lease; 0: none.",
)
@option(
    "--drain",
    default=60.0,
    show_default=True,
    help="Seconds for running tasks after SIGTERM.",
)
@option("--hang-after", default=30.0, show_default=True, help="Seconds a worker process may block its event loop.")
@option("--recycle", type=click.IntRange(min=1), help="Tasks after which a worker process is replaced by a fresh one.")
@option("--preload", multiple=True, help="A module that all worker processes share, imported once. Repeatable.")
@option("--memory", callback=_bytes, help="What a worker process may allocate: 512MiB, 2GiB, or bytes.")
@option("--env", multiple=True, help="A variable worker processes are given, * allowed; else all. Repeatable.")
@option("--cgroup", help="A cgroup (v2) that we may write: worker processes get one of their own each below it.")
@option("--reload", "reloads", is_flag=True, help="Replace the worker, without a gap, when its code changes.")
@option("--reload-dir", "watched", multiple=True, help="A folder to watch. Default: where the agents are. Repeatable.")
@option("--heartbeat", default=2.0, show_default=True, help="Seconds between two beats; 0: it cannot be watched.")
@option("--json", "as_json", is_flag=True, help="Log JSON lines.")
def start(
    apps: tuple[str, ...],
    folders: tuple[str, ...],
    agents: str | None,
    watched: tuple[str, ...],
    *,
    as_json: bool,
    reloads: bool,
    memory: int | None,
    env: tuple[str, ...],
    cgroup: str | None,
    **settings: Any,
) -> int:
    """Serve agents until SIGTERM or SIGINT; a second signal gives running tasks back at once."""
    if not settings["broker"]:
        raise click.UsageError("name a broker: --broker redis://host:6379, MURMUR_BROKER, or broker in murmur.toml")
    generation = this_generation()
    if reloads and generation is None:
        return _kept(apps, folders, watched, as_json=as_json)
    registry = registry_of(discover(apps, folders))
    names = [name.strip() for name in agents.split(",") if name.strip()] if agents is not None else list(registry.names)
    if not names:
        raise click.UsageError("no agents: name a module that has some with --app, or some of them with --agents")
    log_to_stderr(as_json=as_json)

    async def serve() -> None:
        from murmur.worker import Worker  # noqa: PLC0415  not before the usage is right
        from supervisors import Limits  # noqa: PLC0415
        from supervisors.errors import SpecError  # noqa: PLC0415

        try:
            limits = Limits(memory=memory, environment=env or None, cgroup=cgroup)
        except SpecError as error:
            raise click.UsageError(str(error)) from None
        if generation is not None and settings["consumer_id"]:
            settings["consumer_id"] += f".reload-{generation.number}"  # the one before is still there
        actors = {name: registry.resolve(name).actor for name in names}
        worker = Worker(
            agents={name: actor for name, actor in actors.items() if actor is not None}, limits=limits, **settings
        )
        async with nullcontext() if generation is None else generation.told(worker):
            await worker.run()

    on_a_loop(serve)
    return 0


def _kept(apps: tuple[str, ...], folders: tuple[str, ...], watched: tuple[str, ...], *, as_json: bool) -> int:
    """Be the keeper of generations: the same command, each in a process of its own."""
    from murmur.cli.reload import folders_of, keep  # noqa: PLC0415  few ask for it

    log_to_stderr(as_json=as_json)
    where = folders_of(watched, apps, folders)
    return on_a_loop(lambda: keep(sys.argv[1:], where))
