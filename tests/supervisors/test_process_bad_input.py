"""What cannot be started in a process, and what the user is told."""

import subprocess
import sys
import threading
from typing import Any

import anyio
import pytest

from supervisors import ChildContext, ChildSpec, Processes, Recycle, SpecError, StartFailed, Watchdog, open_supervisor
from tests.backends import ASYNCIO, on
from tests.supervisors import process_children as children
from tests.supervisors.processes import process, tree


async def refusal(*specs: ChildSpec, processes: Processes | None = None) -> str:
    """Why the tree did not start."""
    with pytest.raises(StartFailed) as failure:
        async with open_supervisor(tree(*specs), processes=processes):
            pass
    return str(failure.value)


@on(ASYNCIO)
@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("nowhere_at_all:run", "no module named 'nowhere_at_all'; check the spelling"),
        ("no.parent:run", "No module named 'no'"),
        ("os:nothing", "has no attribute 'nothing'"),
        ("tests.supervisors.process_children:SLEEP", "not a function"),
        ("tests.supervisors.unimportable:run", "this module ends whoever imports it"),
    ],
)
async def test_a_start_that_is_not_there_is_named(start: str, said: str) -> None:
    assert said in await refusal(process(start))


@on(ASYNCIO)
async def test_a_function_inside_a_function_cannot_cross() -> None:
    async def local(ctx: ChildContext) -> None:
        ctx.ready()

    said = await refusal(process(local))
    assert (
        "local cannot be sent to a process: it is defined inside a function; define it at the top of a module" in said
    )


@on(ASYNCIO)
async def test_a_name_that_leads_to_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = children.wait
    monkeypatch.setattr(children, "wait", children.deaf)
    assert "not what was given" in await refusal(process(original))


@on(ASYNCIO)
async def test_an_argument_that_cannot_cross_is_named() -> None:
    said = await refusal(process(children.end, args=(threading.Lock(),)))
    assert "an argument of tests.supervisors.process_children:end cannot be sent to a process" in said
    assert "pass plain data" in said


@on(ASYNCIO)
async def test_ready_takes_plain_data() -> None:
    assert "ctx.ready() in a process takes plain data" in await refusal(process(children.ready_with_object))


@on(ASYNCIO)
@pytest.mark.parametrize("module", ["nowhere_at_all", "tests.supervisors.unimportable"])
async def test_what_cannot_be_preloaded_is_named_and_ends_nobody_else(module: str) -> None:
    said = await refusal(process(children.wait), processes=Processes(preload=("json", module)))
    assert f"preload failed for {module}:" in said
    assert "json" not in said


@pytest.mark.parametrize(
    ("child", "said"),
    [
        ("plain", "started True"),
        ("with_class", "with_class (defined in __main__) cannot be sent to a process: "),
        ("with_argument", " __main__:Part (defined in __main__) cannot be sent to a process: "),
    ],
)
def test_children_of_a_script_cross_by_value_or_say_what_to_do(child: str, said: str) -> None:
    program = [sys.executable, "-m", "tests.supervisors.main_script", child]
    done = subprocess.run(program, capture_output=True, text=True, timeout=30, check=True)
    assert said in done.stdout
    assert "move it to a module that can be imported" in done.stdout or child == "plain"


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Processes(method="fork"), "method must be 'forkserver' or 'spawn': a fork of a process with an event"),
        (lambda: Processes(method="thread"), "method must be 'forkserver' or 'spawn'; got 'thread'"),
        (lambda: Processes(preload=("a", 3)), "preload must be names of modules to import; got 3"),
        (lambda: Watchdog(every=0), "every must be a finite number above 0; got 0"),
        (lambda: Watchdog(every=5.0), "late must be longer than one beat, every=5 s; got 5.0"),
        (lambda: Recycle(tasks=0), "tasks must be a whole number of at least 1; got 0"),
        (lambda: Recycle(jitter=1), "jitter must be a number from 0 to below 1; got 1"),
        (lambda: ChildSpec(id="a", start="m:f", watchdog=Watchdog()), "watchdog of child 'a' must be None with"),
        (lambda: ChildSpec(id="a", start="m:f", recycle=Recycle()), "recycle of child 'a' must be None with"),
        (lambda: process("m:f", watchdog=3), "watchdog must be a Watchdog or None; got 3"),
        (lambda: process("m:f", peer=3), "peer must be an async function of a context and a Link, or None; got 3"),
    ],
)
def test_a_wrong_value_is_refused_by_name(build: Any, said: str) -> None:
    with pytest.raises(SpecError, match="must be") as refused:
        build()
    assert said in str(refused.value)


@on(ASYNCIO)
async def test_a_module_that_never_ends_to_preload_does_not_hold_the_tree() -> None:
    child = process(children.wait, start_timeout=1.0)
    with anyio.fail_after(10):
        assert "not ready after 1 s" in await refusal(
            child, processes=Processes(preload=("tests.supervisors.endless",))
        )
