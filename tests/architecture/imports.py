"""What each module imports, read from its source without running it.

Every import counts, wherever it stands: at the top, inside a function, under TYPE_CHECKING, or
as `import_module("literal.name")`. Only where it stands is noted, for rules about lateness.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

PACKAGES: Final = ("murmur", "supervisors")
_DYNAMIC: Final = frozenset({"import_module", "__import__"})


@frozen
class Import:
    """One module needs another: `target` is `a.b.c`, of ours always a module that exists."""

    target: str
    line: int
    is_late: bool  # inside a function: loaded when it is called, not when the module is

    @property
    def top(self) -> str:
        """The package or distribution at the top of the target."""
        return self.target.partition(".")[0]


@frozen
class Module:
    """One source file of ours."""

    name: str  # murmur.transports.redis; a package is named without `__init__`
    path: str  # from the root, with slashes
    tree: ast.Module
    imports: tuple[Import, ...] = ()


def read_modules(root: Path) -> Mapping[str, Module]:
    """Return every module of the packages under `root`, by name."""
    found: dict[str, Module] = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            path = file.relative_to(root).as_posix()
            parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
            found[".".join(parts)] = Module(".".join(parts), path, ast.parse(file.read_text(), path))
    return {
        name: Module(name, module.path, module.tree, tuple(_imports(module, found))) for name, module in found.items()
    }


def _imports(module: Module, known: Mapping[str, Module]) -> Iterator[Import]:
    late = {
        id(inner)
        for outer in ast.walk(module.tree)
        if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(outer)
    }
    for node in ast.walk(module.tree):
        for target in _targets(node, module, known):
            yield Import(target, getattr(node, "lineno", 0), id(node) in late)


def _targets(node: ast.AST, module: Module, known: Mapping[str, Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _base(node, module)
        # `from murmur import store` needs murmur.store; `from murmur import Actor` needs murmur.
        names = [f"{base}.{alias.name}" for alias in node.names]
        yield from (name if name in known else base for name in names)
    elif isinstance(node, ast.Call) and node.args and _called(node) in _DYNAMIC:
        first = node.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value


def _base(node: ast.ImportFrom, module: Module) -> str:
    """Return the absolute name of what `from … import` names, dots resolved."""
    if not node.level:
        return node.module or ""
    above = module.name.split(".")
    if not module.path.endswith("/__init__.py"):
        above = above[:-1]
    above = above[: len(above) - (node.level - 1)]
    return ".".join([*above, *([node.module] if node.module else [])])


def _called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""
