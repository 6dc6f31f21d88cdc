"""Finding actor classes: in modules, in files, in folders, and in installed packages.

What is found is registered by name. What is not there is bad usage. A module that fails to import is told with its
traceback once, and ends the command with an exit code of its own: half a fleet would be worse than none.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import click
from attrs import frozen

from murmur.actor import Actor
from murmur.redaction import one_safe_text
from murmur.registry import AnyActor, Registry

T = TypeVar("T")


class Unloadable(click.ClickException):
    """Code that was found and does not import."""

    exit_code = 3


@frozen
class Found:
    """An actor class and where it was found."""

    actor: AnyActor
    where: str


def discover(apps: Iterable[str], folders: Iterable[str]) -> dict[str, Found]:
    """Return actor classes by agent name: of `--app`, of `--all-from`, and of the `murmur.agents` entry points."""
    cwd = str(Path.cwd())
    if cwd not in sys.path:
        sys.path.insert(0, cwd)
    found: dict[str, Found] = {}
    for app in apps:
        for actor in _of_app(app):
            _add(found, actor, app)
    for folder in folders:
        for path in _python_files(folder):
            for actor in _own_actors(_module_of_file(path)):
                _add(found, actor, str(path))
    for point in entry_points(group="murmur.agents"):
        if point.name not in found:
            _add(found, _imported(point.load, point.value), f"entry point {point.name}")
    return found


def registry_of(found: dict[str, Found]) -> Registry:
    """Return a registry of what was found."""
    registry = Registry()
    for name, one in found.items():
        registry.register(one.actor, name=name)
    return registry


def _add(found: dict[str, Found], actor: AnyActor, where: str) -> None:
    other = found.get(actor.name)
    if other is not None and other.actor is not actor:
        raise click.UsageError(
            f"two agents are named {actor.name!r}: {other.actor.__qualname__} of {other.where} and "
            f"{actor.__qualname__} of {where}; give one another `name`"
        )
    found[actor.name] = Found(actor, where)


def _of_app(app: str) -> Iterator[AnyActor]:
    if app.endswith(".py") or "/" in app:
        path = Path(app)
        if not path.is_file():
            raise click.UsageError(f"--app {app}: no such file")
        yield from _own_actors(_module_of_file(path))
        return
    name, _, attribute = app.partition(":")
    module = _imported(lambda: importlib.import_module(name), name)
    if not attribute:
        yield from _actors(module)
        return
    actor = getattr(module, attribute, None)
    if not (isinstance(actor, type) and issubclass(actor, Actor)):
        known = ", ".join(a.__qualname__ for a in _actors(module)) or "none"
        raise click.UsageError(f"--app {app}: {attribute} is no actor class; actor classes there: {known}")
    yield actor


def _python_files(folder: str) -> list[Path]:
    path = Path(folder)
    if not path.is_dir():
        raise click.UsageError(f"--all-from {folder}: no such folder")
    return sorted(file for file in path.rglob("*.py") if not any(part.startswith(".") for part in file.parts))


def _module_of_file(path: Path) -> ModuleType:
    """Import a file as the module of its name; its own folder is importable for it."""
    path = path.resolve()
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    name = path.stem if known is None else f"murmur_app_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{path} cannot be imported: it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader = spec.loader
    _imported(lambda: loader.exec_module(module), str(path))
    return module


def _imported(load: Callable[[], T], what: str) -> T:
    try:
        return load()
    except ModuleNotFoundError as error:
        if error.name is not None and (error.name == what or what.startswith(f"{error.name}.")):
            raise click.UsageError(f"no module {what!r} in {', '.join(sys.path[:3])}, …") from None
        raise _failed(what) from None
    except (Exception, SystemExit):  # noqa: BLE001  user code, at import: a script without a guard even exits
        raise _failed(what) from None


def _failed(what: str) -> Unloadable:
    return Unloadable(one_safe_text(f"{what} failed to import:\n{traceback.format_exc()}"))


def _actors(module: ModuleType) -> Iterator[AnyActor]:
    """Return the actor classes a module shows: its own, or those of its `__all__`."""
    shown = getattr(module, "__all__", None)
    if shown is None:
        yield from _own_actors(module)
        return
    for name in shown:
        value = getattr(module, name, None)
        if isinstance(value, type) and issubclass(value, Actor) and value is not Actor:
            yield value


def _own_actors(module: ModuleType) -> Iterator[AnyActor]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Actor) and value.__module__ == module.__name__:
            yield value
