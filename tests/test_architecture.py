"""The house stands as it was drawn: directions, sizes, headers, and what starting costs.

What is checked, and how, is in tests/architecture/; its own tests plant a violation of each.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.architecture.imports import Module, read_modules
from tests.architecture.rooms import cycles, misplaced_clients, wrong_directions
from tests.architecture.sources import long_files, mentions_of_workplace, without_docstring
from tests.architecture.start_up import MOST_MODULES, heavy_modules, modules_above_bare

ROOT: Final = Path(__file__).parents[1]

STARTS: Final = {"import murmur": "import murmur", "import supervisors": "import supervisors"}
if any((ROOT / "murmur" / "cli").glob("*.py")):
    STARTS["murmur --help"] = (
        "import sys; sys.argv = ['murmur', '--help']; from murmur.cli.main import main; sys.exit(main())"
    )

each_start = pytest.mark.parametrize("program", STARTS.values(), ids=STARTS.keys())


def none_of(problems: Iterable[str]) -> None:
    """Fail with one problem a line, if there is any."""
    found = list(problems)
    assert not found, "\n" + "\n".join(found)


@pytest.fixture(scope="module")
def modules() -> Mapping[str, Module]:
    return read_modules(ROOT)


def test_rooms_import_in_one_direction(modules: Mapping[str, Module]) -> None:
    none_of(wrong_directions(modules))


def test_no_modules_import_each_other(modules: Mapping[str, Module]) -> None:
    none_of(cycles(modules))


def test_clients_are_imported_only_by_the_adapter_that_bears_their_name(modules: Mapping[str, Module]) -> None:
    none_of(misplaced_clients(modules))


def test_every_module_says_what_it_is(modules: Mapping[str, Module]) -> None:
    none_of(without_docstring(modules))


def test_every_source_file_has_one_idea() -> None:
    none_of(long_files(ROOT))


def test_nothing_names_the_workplace() -> None:
    none_of(mentions_of_workplace(ROOT))


@pytest.mark.parametrize("name", STARTS)
def test_starting_loads_little(name: str) -> None:
    assert len(modules_above_bare(STARTS[name], cwd=ROOT)) <= MOST_MODULES[name]


@each_start
def test_starting_loads_no_client_and_no_server(program: str) -> None:
    none_of(heavy_modules(program, cwd=ROOT))


def test_supervisors_alone_load_nothing_of_murmur() -> None:
    none_of(name for name in modules_above_bare("import supervisors", cwd=ROOT) if name.partition(".")[0] == "murmur")
