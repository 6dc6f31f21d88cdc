"""The reference lists everything there is: errors, commands and their options, arguments."""

import inspect
import re

import click
import pytest

from murmur import Actor, AgentRuntime, Context, TaskSpec, Worker, errors
from murmur.cli.main import cli
from murmur.errors import MurmurError
from tests.docs.snippets import ROOT

REFERENCE = ROOT / "docs" / "reference"


def test_every_error_is_listed_under_its_code() -> None:
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| (E\d+) \| `(\w+)`", text, re.MULTILINE))
    defined = {
        (one.code, name)
        for name, one in vars(errors).items()
        if inspect.isclass(one) and issubclass(one, MurmurError) and one is not MurmurError
    }
    assert listed == defined


def commands(group: click.Command, path: str = "murmur") -> list[tuple[str, click.Command]]:
    found = [(path, group)]
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            inner = group.get_command(context, name)
            assert inner is not None
            found += commands(inner, f"{path} {name}")
    return found


def test_every_command_and_option_is_described() -> None:
    text = (REFERENCE / "cli.md").read_text(encoding="utf-8")
    missing = []
    for path, command in commands(cli):
        if not isinstance(command, click.Group) and path not in text:
            missing.append(path)
        options = [one for one in command.params if isinstance(one, click.Option)]
        missing += [f"{path} {one.opts[0]}" for one in options if not any(f"`{name}`" in text for name in one.opts)]
    assert missing == []


@pytest.mark.parametrize("what", [AgentRuntime.__init__, AgentRuntime.gather, Worker.__init__, TaskSpec.__init__])
def test_every_argument_is_named(what: object) -> None:
    text = (REFERENCE / "api.md").read_text(encoding="utf-8")
    names = [name for name in inspect.signature(what).parameters if name not in ("self", "options")]  # type: ignore[arg-type]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_every_public_name_of_actor_and_context_is_named() -> None:
    text = (REFERENCE / "api.md").read_text(encoding="utf-8")
    names = {*vars(Actor), *Actor.__annotations__, *Context.__slots__} - {"isolation", "receive"}
    assert [name for name in sorted(names) if not name.startswith("_") and not re.search(rf"\b{name}\b", text)] == []
