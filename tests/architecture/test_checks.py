"""Each check of the architecture finds what it is there for: a violation is planted and named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture.imports import read_modules
from tests.architecture.rooms import cycles, misplaced_clients, wrong_directions
from tests.architecture.sources import MOST_LINES, long_files, mentions_of_workplace, without_docstring
from tests.architecture.start_up import heavy_modules, modules_above_bare

Plant = Callable[[str, str], None]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Write a file of a house in which nothing else is wrong."""

    def write(path: str, text: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    write("murmur/__init__.py", '"""The facade."""\n')
    write("murmur/store.py", '"""A port."""\n')
    write("murmur/stores/__init__.py", '"""Adapters."""\n')
    write("supervisors/__init__.py", '"""Supervision."""\n')
    return write


def problems(root: Path) -> list[str]:
    modules = read_modules(root)
    return [*wrong_directions(modules), *cycles(modules), *misplaced_clients(modules), *without_docstring(modules)]


def test_a_house_as_drawn_has_no_problems(plant: Plant, tmp_path: Path) -> None:
    plant("murmur/stores/redis.py", '"""An adapter."""\nimport redis\nimport os\nfrom murmur.store import x\n')
    plant("murmur/cli/main.py", '"""Thin."""\nimport click\nfrom murmur.stores import redis\n')
    plant("murmur/wiring.py", '"""Exempt."""\nfrom murmur.cli import main\n')
    assert not problems(tmp_path)
    assert not list(long_files(tmp_path))
    assert not list(mentions_of_workplace(tmp_path))


@pytest.mark.parametrize(
    "line",
    [
        "import murmur.stores.redis",
        "from murmur.stores import redis",
        "from .stores.redis import RedisStore",
        "from . import stores",
        "def f():\n    from murmur.stores.redis import RedisStore",
        "if TYPE_CHECKING:\n    from murmur.stores.redis import RedisStore",
        "import importlib\nimportlib.import_module('murmur.stores.redis')",
    ],
)
def test_the_core_may_not_import_an_adapter_however_it_is_written(plant: Plant, tmp_path: Path, line: str) -> None:
    plant("murmur/stores/redis.py", '"""An adapter."""\n')
    plant("murmur/core.py", f'"""The core."""\n{line}\n')
    (problem,) = wrong_directions(read_modules(tmp_path))
    assert problem.startswith("murmur/core.py:")
    assert "core imports murmur.stores" in problem


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("supervisors/tree.py", "import murmur.store"),
        ("murmur/transports/nats.py", "import murmur.stores"),
        ("murmur/server/app.py", "import murmur.cli"),
        ("murmur/store.py", "from murmur import Actor"),
        ("murmur/cellar/wine.py", "import murmur.store"),
    ],
)
def test_every_room_has_its_limits(plant: Plant, tmp_path: Path, path: str, line: str) -> None:
    plant(path, f'"""A module."""\n{line}\n')
    (problem,) = wrong_directions(read_modules(tmp_path))
    assert problem.startswith(f"{path}:2: ")


def test_a_cycle_within_a_room_is_named_in_full(plant: Plant, tmp_path: Path) -> None:
    plant("murmur/stores/a.py", '"""A."""\nimport murmur.stores.b\n')
    plant("murmur/stores/b.py", '"""B."""\ndef f():\n    from murmur.stores import c\n')
    plant("murmur/stores/c.py", '"""C."""\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import a\n')
    (cycle,) = cycles(read_modules(tmp_path))
    assert {"murmur.stores.a", "murmur.stores.b", "murmur.stores.c"} <= set(cycle.split(" → "))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("murmur/stores/memory.py", "import redis.asyncio"),
        ("murmur/worker/loop.py", "from anthropic import AsyncAnthropic"),
        ("murmur/transports/redis.py", "def f():\n    from faststream import FastStream"),
        ("murmur/store.py", "import unheard_of"),
        ("murmur/store.py", "import psutil"),
        ("supervisors/tree.py", "import cattrs"),
        ("supervisors/tree.py", "import trio"),
        ("supervisors/tree.py", "import rich"),
    ],
)
def test_a_client_outside_its_adapter_is_found(plant: Plant, tmp_path: Path, path: str, line: str) -> None:
    plant(path, f'"""A module."""\n{line}\n')
    (problem,) = misplaced_clients(read_modules(tmp_path))
    assert problem.startswith(f"{path}:")


def test_supervisors_may_draw_with_rich_when_asked_to(plant: Plant, tmp_path: Path) -> None:
    plant("supervisors/tree.py", '"""Drawing."""\ndef draw():\n    import rich\n')
    assert not problems(tmp_path)


def test_a_module_without_docstring_is_found(plant: Plant, tmp_path: Path) -> None:
    plant("murmur/store.py", "x = 1\n")
    (problem,) = without_docstring(read_modules(tmp_path))
    assert problem.startswith("murmur/store.py: ")


@pytest.mark.parametrize("path", ["murmur/store.py", "supervisors/deep/down.py", "murmur/stores/lua/take.lua"])
def test_a_file_one_line_too_long_is_found(plant: Plant, tmp_path: Path, path: str) -> None:
    plant(path, "x = 1\n" * MOST_LINES)
    assert not list(long_files(tmp_path))
    plant(path, "x = 1\n" * (MOST_LINES + 1))
    (problem,) = long_files(tmp_path)
    assert problem.startswith(f"{path}: {MOST_LINES + 1} lines")


@pytest.mark.parametrize("path", ["README.md", ".ci/run", "docs/a/b.md", "murmur/x.py"])
@pytest.mark.parametrize("word", ["see /wor" + "k/main", "cp ../sha" + "red/a b", "'/wor" + "k/x'"])
def test_the_workplace_is_found_wherever_it_is_named(plant: Plant, tmp_path: Path, path: str, word: str) -> None:
    plant(path, f"first\n{word}\n")
    (problem,) = mentions_of_workplace(tmp_path)
    assert problem.startswith(f"{path}:2: ")


@pytest.mark.parametrize("word", ["https://x.org/wor" + "k/1", "net/wor" + "k/", "~/wor" + "k/", "/wor" + "kers/"])
def test_other_paths_are_not_the_workplace(plant: Plant, tmp_path: Path, word: str) -> None:
    plant("README.md", f"{word}\n")
    assert not list(mentions_of_workplace(tmp_path))


def test_what_tools_leave_behind_is_not_read(plant: Plant, tmp_path: Path) -> None:
    plant(".venv/lib/x.py", "/wor" + "k/\n")
    plant(".git/config", "/wor" + "k/\n")
    assert not list(mentions_of_workplace(tmp_path))


def test_what_a_start_loads_is_counted(plant: Plant, tmp_path: Path) -> None:
    plant("planted.py", "x = 1\n")
    assert modules_above_bare("import planted", cwd=tmp_path) == {"planted"}
    assert not modules_above_bare("pass", cwd=tmp_path)


def test_a_heavy_import_is_named_at_any_depth(plant: Plant, tmp_path: Path) -> None:
    plant("planted.py", "import rich.text\n")
    assert list(heavy_modules("import planted", cwd=tmp_path)) == ["rich"]


def test_an_exit_does_not_hide_what_was_loaded(tmp_path: Path) -> None:
    assert list(heavy_modules("import sys, rich\nsys.exit(0)", cwd=tmp_path)) == ["rich"]


def test_a_start_that_fails_is_no_quick_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no_such_thing"):
        modules_above_bare("import no_such_thing", cwd=tmp_path)
    with pytest.raises(AssertionError, match="no_such_thing"):
        list(heavy_modules("import no_such_thing", cwd=tmp_path))
