"""Options that several commands share, and the loop they run on."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import click
from loguru import logger

from murmur.redaction import LOGS_JSON, redacting

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_TOLD_FOR: Final = 60.0  # seconds in which a line of a library is not repeated


def option(name: str, *more: str, **settings: Any) -> Callable[[F], F]:
    """Return click's option that also reads `MURMUR_<NAME>`, whatever command it belongs to."""
    variable = f"MURMUR_{name.removeprefix('--').replace('-', '_').upper()}"
    return click.option(name, *more, envvar=variable, **settings)


def where_agents_are(function: F) -> F:
    """`--app`, `--all-from`: where actor classes are found."""
    folder = "A folder whose *.py files hold actor classes. Repeatable."
    app = "A module, module:Class, or .py file with actor classes. Repeatable."
    function = option("--all-from", "folders", multiple=True, help=folder)(function)
    return option("--app", "apps", multiple=True, help=app)(function)


def where_tasks_are(function: F) -> F:
    """`--broker`, `--store`, `--namespace`, `--signing-keys`."""
    broker = "redis://…, nats://…, kafka://…, amqp://…, their TLS forms, or memory://…"
    keys = "A key file: messages are signed, and unsigned ones refused."
    function = option("--signing-keys", type=click.Path(exists=True, dir_okay=False), help=keys)(function)
    function = option("--namespace", default="", help="Put before every topic.")(function)
    function = option("--store", help="Where results and rows are kept, if not beside the broker.")(function)
    return option("--broker", help=broker, callback=_warned_of_argv)(function)


def strictly(function: F) -> F:
    """`--strict`: refuse a broker whose settings cannot hold what is promised."""
    told = "Refuse a broker whose settings cannot hold what is promised; see murmur doctor."
    return option("--strict", is_flag=True, help=told)(function)


def _warned_of_argv(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Say once that everybody on this host can read the arguments of a command."""
    typed = context.get_parameter_source(parameter.name or "") is click.core.ParameterSource.COMMANDLINE
    if value and typed and ":" in value.partition("://")[2].rpartition("@")[0]:
        told = "the password of --broker stands in the process list; put the URL into MURMUR_BROKER or murmur.toml"
        click.echo(f"warning: {told}", err=True)
    return value


def on_a_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function on uvloop where that is installed, else on asyncio."""
    try:
        import uvloop  # noqa: PLC0415  optional
    except ImportError:
        return asyncio.run(work())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def log_to_stderr(*, as_json: bool) -> None:
    """Send logs, those of libraries too, to stderr without secrets; one JSON object a line if asked."""
    os.environ[LOGS_JSON] = str(int(as_json))  # worker processes do the same
    logger.remove()
    line = "{time:HH:mm:ss} {level: <7} {message}"
    logger.add(redacting(sys.stderr.write), format=line, serialize=as_json, diagnose=False, backtrace=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)


class _ToLoguru(logging.Handler):
    """Hands what libraries log to the one place where secrets are taken out, each line once in a while.

    A client that is refused says so at every try, and tries every second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, str], float] = {}  # when, by logger and text

    def emit(self, record: logging.LogRecord) -> None:
        """Log it, unless the same was logged a moment ago."""
        said = record.name, record.getMessage()
        if record.created - self._told.get(said, 0.0) < _TOLD_FOR:
            return
        self._told = {one: at for one, at in self._told.items() if record.created - at < _TOLD_FOR}
        self._told[said] = record.created
        logger.opt(exception=record.exc_info).log(record.levelname, "{}: {}", record.name, record.getMessage())
