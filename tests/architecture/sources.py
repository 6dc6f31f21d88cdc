"""What every file must be: short, introduced by a docstring, and free of its maker's workplace."""

import ast
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.architecture.imports import PACKAGES, Module

MOST_LINES: Final = 400
_SOURCES: Final = (".py", ".lua")
_MADE: Final = frozenset(
    {".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".bench", "__pycache__"}
    | {"build", "dist", "site"}
)
# Spelled so that this file does not mention them.
_WORKPLACE: Final = re.compile(r"(?<![\w.~-])/wor" + r"k/|\.\./sha" + "red")


def long_files(root: Path) -> Iterator[str]:
    """Say which source file of the packages has more lines than one idea needs."""
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*")):
            if file.suffix in _SOURCES:
                count = len(file.read_text().splitlines())
                if count > MOST_LINES:
                    yield f"{file.relative_to(root)}: {count} lines, {MOST_LINES} are the most; find its second idea"


def without_docstring(modules: Mapping[str, Module]) -> Iterator[str]:
    """Say which module does not tell what it is."""
    for module in modules.values():
        if not ast.get_docstring(module.tree):
            yield f"{module.path}: begin it with a docstring: what it is, why, what it leaves to others"


def mentions_of_workplace(root: Path) -> Iterator[str]:
    """Say where a file names a folder that only one machine has."""
    for file in _project_files(root):
        try:
            text = file.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if found := _WORKPLACE.search(line):
                yield f"{file.relative_to(root)}:{number}: names {found[0]!r}, which is one machine's own"


def _project_files(root: Path) -> Iterator[Path]:
    """Yield what could be committed: all but what tools leave behind."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _MADE and not name.endswith(".egg-info"))
        yield from (Path(folder, name) for name in sorted(names) if name not in _MADE)
