"""`murmur gather AGENT --tasks FILE --out FILE`: many tasks, one JSON line in and out each, resumable.

Each input line is an input, or an object `{"input": …, "id": …}`. Each output line tells the line it
answers. Ctrl-C once publishes no more and lets running tasks finish; twice cancels them.
"""

import asyncio
import signal
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, TextIO

import click
import msgspec

from murmur.cli.discovery import discover, registry_of
from murmur.cli.options import log_to_stderr, on_a_loop, option, strictly, where_agents_are, where_tasks_are
from murmur.cli.run import agent_reference, typed_input
from murmur.errors import InputError, SpawnError


@click.command()
@click.argument("agent")
@click.option(
    "--tasks",
    "source",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSONL file of inputs.",
)
@click.option(
    "--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSONL file of results; written anew."
)
@where_agents_are
@where_tasks_are
@strictly
@click.option("--batch-id", help="Name the batch: the same command again goes on where this one ended.")
@option("--max-concurrency", default=100, show_default=True, help="Tasks open at once.")
@option("--timeout", type=float, help="Seconds per task, from publishing to result.")
@option("--deadline", type=float, help="Seconds for the whole batch.")
def command(
    agent: str,
    source: Path,
    out: Path,
    apps: tuple[str, ...],
    folders: tuple[str, ...],
    batch_id: str | None,
    **settings: Any,
) -> int:
    """Run many tasks from a JSONL file and write one result line each."""
    registry = registry_of(discover(apps, folders))
    log_to_stderr(as_json=False)

    async def gather() -> int:
        from murmur.runtime.runtime import AgentRuntime  # noqa: PLC0415  not before the usage is right

        where = {name: settings.pop(name) for name in ("broker", "store", "namespace", "signing_keys", "strict")}
        broker = where.pop("broker")
        async with AgentRuntime(broker or None, **where) as runtime:
            for name in registry.names:
                runtime.registry.register(registry.resolve(name).actor, name=name)  # type: ignore[arg-type]  # found ones have a class
            reference = agent_reference(agent, registry.names, broker=broker)
            lines = _Lines(source, lambda value: typed_input(runtime.registry, reference, value))
            lines.check()
            stop = _Stop(batch_id)
            done = failed = 0
            unpublished: SpawnError | None = None  # the first of them
            encode = runtime.registry.resolve(reference).output.encode
            with out.open("w", encoding="utf-8") as sink, stop.listening():
                results = runtime.as_completed(
                    reference, stop.until(iter(lines)), batch_id=batch_id, progress=True, **settings
                )
                async for result in results:
                    _write(sink, result, encode)
                    done += 1
                    failed += result.error is not None
                    if unpublished is None and isinstance(result.error, SpawnError):
                        unpublished = result.error
            if unpublished is not None:
                click.echo(f"{unpublished.code} {unpublished}", err=True)
            click.echo(f"{done} of {lines.count} tasks answered, {failed} with an error: {out}", err=True)
            if unpublished is not None:
                return 2
            return 1 if failed or done < lines.count else 0

    return on_a_loop(gather)


class _Lines:
    """The inputs of a file, read lazily, after one pass that checks them all."""

    def __init__(self, path: Path, typed: Any) -> None:
        self._path = path
        self._piped = None if path.is_file() else path.read_bytes()  # a pipe can be read once only
        self._typed = typed
        self.count = 0

    def check(self) -> None:
        """Refuse a file with a line that cannot be a task, naming the line, before anything is published."""
        for _ in self:
            self.count += 1
        if not self.count:
            raise click.UsageError(f"{self._path} holds no tasks: one JSON value a line is expected")

    def __iter__(self) -> Iterator[Any]:
        from murmur.task import TaskSpec  # noqa: PLC0415

        with self._path.open("rb") if self._piped is None else BytesIO(self._piped) as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    value = msgspec.json.decode(line)
                    if isinstance(value, dict) and "input" in value and value.keys() <= {"input", "id"}:
                        yield TaskSpec(self._typed(value["input"]), id=value.get("id"))
                    else:
                        yield self._typed(value)
                except (msgspec.DecodeError, UnicodeDecodeError, ValueError, TypeError) as error:
                    kind = "" if isinstance(error, InputError) else "is no task: "
                    raise click.UsageError(f"line {number} of {self._path}: {kind}{error}") from None


class _Stop:
    """Ctrl-C: once, no more inputs; twice, cancel."""

    def __init__(self, batch_id: str | None) -> None:
        self._batch_id = batch_id
        self._presses = 0

    def until(self, inputs: Iterator[Any]) -> Iterator[Any]:
        """Yield inputs until it was pressed."""
        for value in inputs:
            if self._presses:
                return
            yield value

    def listening(self) -> "_Stop":
        """Return the block in which presses count."""
        return self

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._pressed)

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _pressed(self) -> None:
        self._presses += 1
        if self._presses == 1:
            resume = f"; the same command goes on: --batch-id {self._batch_id}" if self._batch_id else ""
            sys.stderr.write(f"\nno more tasks are published, running ones finish{resume}. Again: cancel\n")
        elif self._task is not None:
            self._task.cancel()


def _write(sink: TextIO, result: Any, encode: Any) -> None:
    error = result.error
    line = {
        "task_id": result.task_id,
        "success": error is None,
        "output": msgspec.Raw(encode(result.output)) if error is None else None,
        "error": None if error is None else {"code": error.code, "type": type(error).__name__, "message": str(error)},
        "attempts": result.metadata.attempts,
        "duration_ms": result.metadata.duration_ms,
    }
    sink.write(msgspec.json.encode(line).decode() + "\n")
    sink.flush()
