"""`murmur dead list|show`: tasks nobody will try again, and why."""

import datetime as dt
from typing import Any

import click
import msgspec

from murmur.cli.options import on_a_loop, where_tasks_are


@click.group()
def command() -> None:
    """Look at dead letters."""


@command.command(name="list")
@click.argument("agent")
@where_tasks_are
@click.option("--limit", default=20, show_default=True, help="How many, newest first.")
@click.option("--json", "as_json", is_flag=True, help="The whole letters, one JSON object a line.")
def list_(agent: str, limit: int, *, as_json: bool, **where: Any) -> int:
    """List the newest dead letters of an agent."""
    letters = on_a_loop(lambda: _letters(agent, limit, where))
    for raw, letter in letters:
        if as_json:
            click.echo(raw.decode())
            continue
        at = dt.datetime.fromtimestamp(letter.dead_at, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
        last = f"  {letter.errors[-1].error_type}: {letter.errors[-1].message}" if letter.errors else ""
        click.echo(f"{at}  {letter.task_id or '(no id)'}  {letter.reason}{last}")
    if not letters:
        click.echo(f"no dead letters of {agent}", err=True)
    return 0


@command.command()
@click.argument("agent")
@click.argument("task_id")
@where_tasks_are
def show(agent: str, task_id: str, **where: Any) -> int:
    """Show one dead letter whole, the task as it was."""
    for raw, letter in on_a_loop(lambda: _letters(agent, 10_000, where)):
        if letter.task_id == task_id:
            click.echo(msgspec.json.format(raw, indent=2).decode())
            return 0
    click.echo(f"{agent} has no dead letter of task {task_id}", err=True)
    return 1


async def _letters(agent: str, limit: int, where: dict[str, Any]) -> list[tuple[bytes, Any]]:
    from murmur import wiring  # noqa: PLC0415
    from murmur.envelope import decode_letter  # noqa: PLC0415
    from murmur.names import check_agent_name  # noqa: PLC0415

    if not where["broker"]:
        raise click.UsageError("name a broker: --broker redis://host:6379")
    check_agent_name(agent, where="AGENT")
    queue = wiring.connect(
        where["broker"],
        store=where["store"],
        namespace=where["namespace"],
        consumer_id="murmur-dead",
        lease=None,
        retention=86_400.0,
    )
    await queue.open(owner="murmur-dead", lease=None)
    try:
        return [(bytes(raw), decode_letter(raw)) for raw in await queue.dead_letters(agent, limit=limit)]
    finally:
        await queue.close()
