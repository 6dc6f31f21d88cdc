"""`murmur agents`: what can be found here, with what it takes and returns."""

import json

import click

from murmur.cli.discovery import discover
from murmur.cli.options import where_agents_are


@click.command()
@where_agents_are
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(apps: tuple[str, ...], folders: tuple[str, ...], *, as_json: bool) -> int:
    """List the agents that can be found, with what they take and return."""
    from murmur.registry import entry_of  # noqa: PLC0415

    found = discover(apps, folders)
    if not found:
        click.echo("no agents found; name a module that has some: --app module or --app file.py", err=True)
        return 1
    for name in sorted(found):
        entry = entry_of(found[name].actor)
        about = (found[name].actor.__doc__ or "").strip().partition("\n")[0]
        if as_json:
            line = {
                "name": name,
                "input": entry.input.type_name,
                "output": entry.output.type_name,
                "where": found[name].where,
            }
            click.echo(json.dumps({**line, "about": about}))
        else:
            click.echo(f"{name}: {entry.input.type_name} -> {entry.output.type_name}    {about}  ({found[name].where})")
    return 0
