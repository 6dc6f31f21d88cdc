"""`murmur doctor`: what the broker's settings and state mean for the guarantees, and what mends them."""

import json
from typing import Any

import attrs
import click

from murmur.cli.options import on_a_loop, where_tasks_are


@click.command()
@where_tasks_are
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(*, as_json: bool, **where: Any) -> int:
    """Examine a broker: settings, rights, distance, and what stands still. Exit code 1 if a guarantee cannot hold, 2 if
    the broker cannot be used."""
    from murmur import wiring  # noqa: PLC0415
    from murmur.doctor import broken, refused  # noqa: PLC0415
    from murmur.errors import BrokerRefused  # noqa: PLC0415

    if not where["broker"]:
        raise click.UsageError("name a broker: --broker redis://host:6379")
    broker, store = where["broker"], where["store"]
    found = on_a_loop(lambda: wiring.examine(broker, store=store, namespace=where["namespace"]))
    if not as_json:
        click.echo(f"store   {wiring.shown_store(broker, store)}")
    denied = refused(found)
    for finding in found:
        if as_json:
            click.echo(json.dumps({**attrs.asdict(finding), "severity": finding.severity.value}))
        elif finding not in denied:
            click.echo(
                f"{finding.severity.value:6}  {finding.invariant:3}  {finding.what}\n             {finding.mend}"
            )
    if not found and not as_json:
        click.echo(f"{wiring.shown(broker)}: nothing to mend")
    if denied:
        problem = "; ".join(finding.what for finding in denied)
        raise BrokerRefused(url=wiring.shown(broker), problem=problem, mend=denied[0].mend)
    return 1 if broken(found) else 0
