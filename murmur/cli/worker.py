"""`murmur worker start`: serve agents until SIGTERM or SIGINT, then drain."""

from typing import Any

import click

from murmur.cli.discovery import discover, registry_of
from murmur.cli.options import log_to_stderr, on_a_loop, option, strictly, where_agents_are, where_tasks_are


@click.group()
def command() -> None:
    """Serve agents from a broker."""


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
@option("--json", "as_json", is_flag=True, help="Log JSON lines.")
def start(
    apps: tuple[str, ...], folders: tuple[str, ...], agents: str | None, *, as_json: bool, **settings: Any
) -> None:
    """Serve agents until SIGTERM or SIGINT; a second signal gives running tasks back at once."""
    if not settings["broker"]:
        raise click.UsageError("name a broker: --broker redis://host:6379, MURMUR_BROKER, or broker in murmur.toml")
    registry = registry_of(discover(apps, folders))
    names = [name.strip() for name in agents.split(",") if name.strip()] if agents is not None else list(registry.names)
    if not names:
        raise click.UsageError("no agents: name a module that has some with --app, or some of them with --agents")
    log_to_stderr(as_json=as_json)

    async def serve() -> None:
        from murmur.worker import Worker  # noqa: PLC0415  not before the usage is right

        actors = {name: registry.resolve(name).actor for name in names}
        worker = Worker(agents={name: actor for name, actor in actors.items() if actor is not None}, **settings)
        await worker.run()

    on_a_loop(serve)
