"""`murmur dead list|show|replay|purge`: tasks nobody will try again, why, and what to do with them."""

import datetime as dt
import re
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from murmur.cli.options import on_a_loop, where_tasks_are

if TYPE_CHECKING:
    from murmur.dead_letters import Letter
    from murmur.task_queue import TaskQueue

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_ALL = 100_000  # letters that replay and purge look at
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class _Age(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.3
    """`90s`, `15m`, `2h`, `7d` as seconds."""

    name = "age"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if isinstance(value, int | float):
            return value
        if not (found := re.fullmatch(r"(\d+)([smhd])", value)):
            self.fail(f"{value!r} is no age; write 90s, 15m, 2h or 7d", parameter, context)
        return int(found[1]) * _UNITS[found[2]]


def _which(function: F) -> F:
    """Which letters are meant."""
    for decorate in (
        click.option("--older-than", type=_Age(), help="Those that died so long ago: 90s, 15m, 2h, 7d."),
        click.option("--reason", help="Those whose reason has this text."),
        click.option("--error", help="Those whose last error is of this type."),
        click.option("--task", "task_ids", multiple=True, help="Those of this task. Repeatable."),
    ):
        function = decorate(function)
    return function


@click.group()
def command() -> None:
    """Look at dead letters, send their tasks again, or throw them away."""


@command.command(name="list")
@click.argument("agent")
@where_tasks_are
@_which
@click.option("--limit", default=20, show_default=True, help="How many, newest first.")
@click.option("--groups", is_flag=True, help="Count them by reason and error instead.")
@click.option("--json", "as_json", is_flag=True, help="The whole letters, one JSON object a line.")
def list_(agent: str, limit: int, *, groups: bool, as_json: bool, **options: Any) -> int:
    """List the newest dead letters of an agent."""
    from murmur.dead_letters import grouped  # noqa: PLC0415

    letters = _letters(agent, options, _ALL if groups or _is_choice(options) else limit)
    if groups:
        for (reason, error), count in grouped(letters):
            click.echo(f"{count:7,}  {error or '-'}  {reason}")
    for letter in () if groups else letters[:limit]:
        if as_json:
            click.echo(letter.raw.decode())
            continue
        content = letter.content
        at = dt.datetime.fromtimestamp(content.dead_at, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
        last = f"  {content.errors[-1].error_type}: {content.errors[-1].message}" if content.errors else ""
        click.echo(f"{at}  {content.task_id or '(no id)'}  {content.reason}{last}")
    if not letters:
        click.echo(f"no dead letters of {agent}", err=True)
    return 0


@command.command()
@click.argument("agent")
@click.argument("task_id")
@where_tasks_are
def show(agent: str, task_id: str, **options: Any) -> int:
    """Show one dead letter whole, the task as it was."""
    for letter in _letters(agent, {**options, "task_ids": (task_id,)}, _ALL):
        click.echo(msgspec.json.format(letter.raw, indent=2).decode())
        return 0
    click.echo(f"{agent} has no dead letter of task {task_id}", err=True)
    return 1


@command.command()
@click.argument("agent")
@where_tasks_are
@_which
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Tasks a second at most.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
def replay(agent: str, rate: float | None, *, everything: bool, dry_run: bool, **options: Any) -> int:
    """Send the tasks of dead letters again, as new tasks under the same idempotency keys."""
    from murmur import dead_letters  # noqa: PLC0415

    _check_choice(options, everything=everything)

    def told(one: dead_letters.Replayed) -> None:
        where = f"as {one.task_id}" if one.task_id else f"not sent: {one.problem}"
        click.echo(f"{one.letter.content.task_id or '(no id)'}  {where}")

    async def work(queue: "TaskQueue") -> tuple[int, int]:
        letters = await _chosen(queue, agent, options, _ALL)
        if dry_run:
            for letter in letters:
                click.echo(f"{letter.content.task_id or '(no id)'}  would be sent")
            return 0, 0
        done = await dead_letters.replay(queue, agent, letters, rate=rate, told=told)
        return len(done), sum(one.task_id is None for one in done)

    count, kept = _with_queue(options, work)
    if not dry_run:
        click.echo(f"{count - kept} sent again, {kept} kept", err=True)
    return 1 if kept else 0


@command.command()
@click.argument("agent")
@where_tasks_are
@_which
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--dry-run", is_flag=True, help="Count them, and throw nothing away.")
def purge(agent: str, *, everything: bool, dry_run: bool, **options: Any) -> int:
    """Throw dead letters away for good."""
    _check_choice(options, everything=everything)

    async def work(queue: "TaskQueue") -> int:
        letters = await _chosen(queue, agent, options, _ALL)
        if dry_run:
            return len(letters)
        return await queue.forget_letters(agent, [letter.raw for letter in letters]) if letters else 0

    count = _with_queue(options, work)
    click.echo(f"{count} {'would be ' if dry_run else ''}thrown away", err=True)
    return 0


def _check_choice(options: dict[str, Any], *, everything: bool) -> None:
    if _is_choice(options) == everything:
        raise click.UsageError("choose letters with --task, --error, --reason or --older-than, or take --all of them")


def _is_choice(options: dict[str, Any]) -> bool:
    return any(options[name] for name in ("task_ids", "error", "reason")) or options["older_than"] is not None


def _letters(agent: str, options: dict[str, Any], limit: int) -> "list[Letter]":
    return _with_queue(options, lambda queue: _chosen(queue, agent, options, limit))


async def _chosen(queue: "TaskQueue", agent: str, options: dict[str, Any], limit: int) -> "list[Letter]":
    from murmur.dead_letters import Choice, read  # noqa: PLC0415
    from murmur.names import check_agent_name  # noqa: PLC0415

    check_agent_name(agent, where="AGENT")
    choice = Choice(
        task_ids=frozenset(options.get("task_ids") or ()) or None,
        error=options.get("error"),
        reason=options.get("reason"),
        older_than=options.get("older_than"),
    )
    now = time.time()
    return [letter for letter in await read(queue, agent, limit=limit) if choice.takes(letter, now=now)]


def _with_queue(options: dict[str, Any], work: "Callable[[TaskQueue], Awaitable[T]]") -> T:
    from murmur import wiring  # noqa: PLC0415

    if not options["broker"]:
        raise click.UsageError("name a broker: --broker redis://host:6379")

    async def done() -> T:
        queue = wiring.connect(
            options["broker"],
            store=options["store"],
            namespace=options["namespace"],
            consumer_id="murmur-dead",
            lease=None,
            retention=86_400.0,
            signing_keys=options["signing_keys"],
        )
        await queue.open(owner="murmur-dead", lease=None)
        try:
            return await work(queue)
        finally:
            await queue.close()

    return on_a_loop(done)
