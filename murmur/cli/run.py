"""`murmur run AGENT INPUT`: one task, its output as JSON on stdout."""

import json
from typing import Any

import click
import msgspec

from murmur.cli.discovery import discover, registry_of
from murmur.cli.options import log_to_stderr, on_a_loop, option, strictly, where_agents_are, where_tasks_are
from murmur.errors import SpawnError


@click.command()
@click.argument("agent")
@click.argument("text", metavar="INPUT")
@where_agents_are
@where_tasks_are
@strictly
@option("--timeout", type=float, help="Seconds to wait for the result.")
def command(
    agent: str, text: str, apps: tuple[str, ...], folders: tuple[str, ...], timeout: float | None, **where: Any
) -> int:
    """Run one task and print its output as JSON. INPUT is JSON, or plain text where it is none."""
    registry = registry_of(discover(apps, folders))
    log_to_stderr(as_json=False)

    async def run() -> int:
        from murmur.runtime.runtime import AgentRuntime  # noqa: PLC0415  not before the usage is right

        broker = where.pop("broker")
        async with AgentRuntime(broker or None, **where) as runtime:
            for name in registry.names:
                runtime.registry.register(registry.resolve(name).actor, name=name)  # type: ignore[arg-type]  # found ones have a class
            reference = agent_reference(agent, registry.names, broker=broker)
            value = typed_input(runtime.registry, reference, parsed(text))
            result = await runtime.run(reference, value, timeout=timeout)
            if result.error is not None:
                click.echo(f"{result.error.code} {result.error}", err=True)
                return 2 if isinstance(result.error, SpawnError) else 1
            click.echo(json_of(runtime.registry.resolve(reference).output.encode(result.output)))
            return 0

    return on_a_loop(run)


def parsed(text: str) -> object:
    """Return the JSON value a text stands for, or the text itself."""
    try:
        return msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def agent_reference(agent: str, known: tuple[str, ...], *, broker: str | None) -> Any:
    """Return the name if it is known here; else, with a broker, an agent that somebody else serves."""
    from murmur.actor import Remote  # noqa: PLC0415

    return Remote(agent) if broker and agent not in known else agent


def typed_input(registry: Any, agent: Any, value: object) -> Any:
    """Return plain JSON as the input type its agent declares. Raises `InputError`, `UnknownAgent`."""
    from murmur.codec import Misfit  # noqa: PLC0415
    from murmur.errors import InputError  # noqa: PLC0415

    entry = registry.resolve(agent)
    try:
        return entry.input.decode(msgspec.json.encode(value))
    except Misfit as misfit:
        raise InputError(agent=entry.name, expected=entry.input.type_name, problems=misfit.problems) from None


def json_of(body: bytes) -> str:
    """Return encoded JSON as one readable line."""
    return json.dumps(msgspec.json.decode(body), ensure_ascii=False)
