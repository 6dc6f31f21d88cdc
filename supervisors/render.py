"""Draws a supervision tree: as text for logs and terminals, with rich for people who watch."""

from collections.abc import Iterable
from typing import Any, Final

from supervisors.slot import State
from supervisors.views import ChildInfo

_COLOURS: Final = {State.UP: "green", State.RESTARTING: "yellow", State.PAUSED: "yellow", State.STUCK: "red"}


def text_tree(name: str, children: Iterable[ChildInfo]) -> str:
    """Return a tree as text:

    shop
    ├─ carts  up
    │  ├─ 0  up  restarted 2 times, last: crashed: ValueError: 7
    │  └─ 1  up
    └─ prices  restarting  last: killed by signal 9
    """
    return "\n".join((name, *_lines(tuple(children), "")))


def rich_tree(name: str, children: Iterable[ChildInfo]) -> Any:
    """Return a `rich.tree.Tree`, for `rich.print`. Raises ImportError where rich is not installed."""
    from rich.tree import Tree  # noqa: PLC0415  100 ms, for those who look

    root = Tree(name)
    _grow(root, children)
    return root


def _grow(above: Any, children: Iterable[ChildInfo]) -> None:
    from rich.text import Text  # noqa: PLC0415  as above

    for child in children:
        line = Text(child.id).append(f"  {child.state.value}", _COLOURS.get(child.state, "dim"))
        node = above.add(line.append(f"  {_history(child)}" if _history(child) else "", "dim"))
        _grow(node, child.children or ())


def _lines(children: tuple[ChildInfo, ...], indent: str) -> Iterable[str]:
    for child in children:
        is_last = child is children[-1]
        words = (child.id, child.state.value, _history(child))
        yield f"{indent}{'└─' if is_last else '├─'} {'  '.join(word for word in words if word)}"
        yield from _lines(child.children or (), f"{indent}{'   ' if is_last else '│  '}")


def _history(child: ChildInfo) -> str:
    times = f"restarted {child.restarts} time{'s' * (child.restarts != 1)}" if child.restarts else ""
    last = f"last: {child.cause.splitlines()[0]}" if child.cause else ""
    return ", ".join(word for word in (times, last) if word)
