"""Options that several commands share, and the loop they run on."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click
from loguru import logger

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


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
    """`--broker`, `--store`, `--namespace`."""
    function = option("--namespace", default="", help="Put before every topic.")(function)
    function = option("--store", help="Where results and rows are kept, if not beside the broker.")(function)
    return option("--broker", help="redis://… or memory://…")(function)


def on_a_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function on uvloop where that is installed, else on asyncio."""
    try:
        import uvloop  # noqa: PLC0415  optional
    except ImportError:
        return asyncio.run(work())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


def log_to_stderr(*, as_json: bool) -> None:
    """Send logs to stderr, one JSON object a line if asked; never with the values of variables."""
    logger.remove()
    if as_json:
        logger.add(sys.stderr, serialize=True, diagnose=False, backtrace=False)
    else:
        logger.add(sys.stderr, format="{time:HH:mm:ss} {level: <7} {message}", diagnose=False, backtrace=False)
