"""`murmur asyncapi`: what goes over the broker, for other programs and their generators."""

import json

import click

from murmur.cli.discovery import discover, registry_of
from murmur.cli.options import option, where_agents_are


@click.command()
@where_agents_are
@option("--namespace", default="", help="Put before every topic.")
def command(apps: tuple[str, ...], folders: tuple[str, ...], namespace: str) -> None:
    """Print an AsyncAPI 3 document of tasks, results, dead letters and the control plane."""
    from murmur.asyncapi import document  # noqa: PLC0415
    from murmur.names import Topics  # noqa: PLC0415

    registry = registry_of(discover(apps, folders))
    entries = [registry.resolve(name) for name in registry.names]
    click.echo(json.dumps(document(entries, topics=Topics(namespace)), indent=2))
