"""The rooms of the house, who may look into which, and who may hold a third-party client.

A new room, a new client or a new direction is a change of this table, so that it is seen.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from typing import Final

from tests.architecture.imports import PACKAGES, Import, Module

_PORTS: Final = ("supervisors", "core")
_ADAPTERS: Final = (*_PORTS, "transports", "stores", "llm", "events", "runs")
_WORKER: Final = (*_ADAPTERS, "wiring", "worker")
_RUNTIME: Final = (*_WORKER, "runtime")
_COORDINATION: Final = (*_RUNTIME, "coordination", "interop")
_SERVER: Final = (*_COORDINATION, "server")

ALLOWED: Final[Mapping[str, Sequence[str]]] = {
    "supervisors": (),
    "core": ("supervisors",),
    "transports": _PORTS,
    "stores": (*_PORTS, "transports"),  # a store on the broker's own server shares its connection
    "llm": _PORTS,
    "events": _PORTS,
    "runs": (*_PORTS, "events"),  # a run's history is made of events
    "worker": _WORKER,
    "runtime": _RUNTIME,
    "coordination": _RUNTIME,
    "interop": _RUNTIME,
    "server": _COORDINATION,
    "testing": _SERVER,  # for users' tests; nothing but a command leans on it
    "cli": (*_SERVER, "testing"),
}
"""Room → rooms it may import; its own always. Not listed: the two that are exempt."""

FOLDERS_OF_CORE: Final = frozenset({"errors"})
"""Modules of the core that became too long for one file."""

# `murmur/__init__` exports lazily and `murmur/wiring` picks adapters by name: each touches all.
FACADE: Final = "facade"
EXEMPT: Final = frozenset({FACADE, "wiring"})

EVERYWHERE: Final = frozenset({"anyio", "attr", "attrs", "cattrs", "loguru", "msgspec"})
"""Third-party packages of murmur that any of its modules may import."""

CLIENTS: Final[Mapping[str, Sequence[str]]] = {
    "aio_pika": ("murmur/transports/rabbitmq*.py",),
    "aiokafka": ("murmur/transports/kafka*.py",),
    "aiormq": ("murmur/transports/rabbitmq*.py",),
    "anthropic": ("murmur/llm/*.py",),
    "click": ("murmur/cli/*.py",),
    "dill": ("supervisors/*.py",),
    "faststream": ("murmur/events/*.py", "murmur/interop/*.py"),
    "hiredis": ("murmur/transports/redis*.py", "murmur/stores/redis*.py", "murmur/runs/redis*.py"),
    "jinja2": ("murmur/server/*.py",),
    "mcp": ("murmur/llm/mcp*.py", "murmur/server/mcp*.py"),
    "multiprocess": ("supervisors/*.py",),
    "nats": ("murmur/transports/nats*.py", "murmur/stores/nats*.py"),
    "opentelemetry": ("murmur/events/*.py",),
    "pamqp": ("murmur/transports/rabbitmq*.py",),
    "prometheus_client": ("murmur/events/*.py",),
    "pydantic": ("murmur/llm/*.py",),
    "redis": ("murmur/transports/redis*.py", "murmur/stores/redis*.py", "murmur/runs/redis*.py"),
    "rich": ("murmur/cli/*.py", "murmur/runtime/progress.py", "murmur/worker/banner.py", "supervisors/*.py"),
    "rocksdict": ("murmur/runs/rocksdb*.py",),
    "starlette": ("murmur/server/*.py",),
    "trio": ("murmur/testing/*.py", "supervisors/testing*.py"),
    "uvicorn": ("murmur/server/*.py",),
    "uvloop": ("murmur/cli/*.py", "murmur/worker/*.py"),
    "watchfiles": ("murmur/cli/reload*.py",),
    "yaml": ("murmur/cli/*.py", "murmur/llm/spec*.py", "murmur/spec*.py"),
}
"""Third-party package → the files that may import it; `*` also spans folders."""

OF_SUPERVISORS: Final = frozenset({"anyio", "attr", "attrs", "multiprocess", "dill", "msgspec", "rich", "trio"})
LATE: Final = frozenset({"rich"})  # 100 ms to import, for those who look at something


def room_of(name: str) -> str:
    """Return the room of one of our modules: `murmur.stores.redis` → `stores`."""
    top, *rest = name.split(".")
    if top == "supervisors":
        return top
    if not rest:
        return FACADE
    if rest[0] in ALLOWED or rest[0] in EXEMPT:
        return rest[0]
    return "core" if len(rest) == 1 or rest[0] in FOLDERS_OF_CORE else f"unknown room murmur/{rest[0]}/"


def wrong_directions(modules: Mapping[str, Module]) -> Iterator[str]:
    """Say of each import between rooms that is not allowed, where it is and what is."""
    for module, one in _every_import(modules):
        here = room_of(module.name)
        if here in EXEMPT or one.top not in PACKAGES:
            continue
        there = room_of(one.target)
        if there not in (here, *ALLOWED.get(here, ())):
            allowed = ", ".join(ALLOWED.get(here, ())) or "no other"
            yield f"{module.path}:{one.line}: {here} imports {one.target} ({there}); it may import: {allowed}"


def cycles(modules: Mapping[str, Module]) -> Iterator[str]:
    """Name one cycle of modules, if any; imports in functions and for types only count too."""
    needs = {
        name: {one.target for one in module.imports if one.target in modules and one.target != name}
        for name, module in modules.items()
        if room_of(name) not in EXEMPT
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        yield " → ".join(reversed(error.args[1]))


def misplaced_clients(modules: Mapping[str, Module]) -> Iterator[str]:
    """Say of each third-party import that does not belong into its file, where it is."""
    for module, one in _every_import(modules):
        if one.top in PACKAGES or one.top in sys.stdlib_module_names:
            continue
        problem = _problem(module, one)
        if problem:
            yield f"{module.path}:{one.line}: imports {one.target}; {problem}"


def _problem(module: Module, one: Import) -> str:
    is_ours = module.path.startswith("supervisors/")
    if is_ours and one.top not in OF_SUPERVISORS:
        return f"supervisors know only {', '.join(sorted(OF_SUPERVISORS))}"
    if is_ours and one.top in LATE and not one.is_late:
        return "supervisors import it inside the function that draws"
    if one.top in EVERYWHERE:
        return ""
    if one.top not in CLIENTS:
        return "nobody may yet; say who in tests/architecture/rooms.py"
    if not any(fnmatch(module.path, pattern) for pattern in CLIENTS[one.top]):
        return f"only {', '.join(CLIENTS[one.top])} may"
    return ""


def _every_import(modules: Mapping[str, Module]) -> Iterator[tuple[Module, Import]]:
    for module in modules.values():
        for one in module.imports:
            yield module, one
