"""What process children print: handed on line by line, and never more than their supervisor can bear."""

import time
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisors import Output, Processes, Restart, SpecError, open_supervisor
from supervisors.events import ChildExited, OutputLine
from supervisors.output import Cutter, Line
from supervisors.reasons import Crashed, Killed
from tests.backends import ASYNCIO, TRIO, UVLOOP, on
from tests.supervisors import process_children as children
from tests.supervisors.processes import next_of, process, tree, until


@on(ASYNCIO, UVLOOP, TRIO)
async def test_what_a_child_and_its_tools_print_is_told_to_the_last_word() -> None:
    await _talk("forkserver")


@on(ASYNCIO)
async def test_what_a_spawned_child_prints_is_told_too() -> None:
    await _talk("spawn")


async def _talk(method: str) -> None:
    printed: dict[str, list[str]] = {"stdout": [], "stderr": []}
    async with open_supervisor(tree(), processes=Processes(method=method)) as sup:
        events = sup.events()
        await sup.start_child(process(children.talk, output=Output(), restart=Restart.TEMPORARY))
        with anyio.fail_after(30):
            async for event in events:
                if isinstance(event, OutputLine):
                    assert (event.supervisor, event.child, event.dropped) == ("root", "a", 0)
                    printed[event.stream].append(event.text)
                if isinstance(event, ChildExited):
                    assert isinstance(event.reason, Killed)
                    break
    assert printed["stdout"] == ["printed", "by a tool", "no � end"]
    assert printed["stderr"] == ["a warning", "complaint"]


@on(ASYNCIO)
async def test_a_flood_is_dropped_and_counted_and_holds_up_neither_side() -> None:
    lines: list[OutputLine] = []
    worst = 0.0

    async def measure() -> None:
        nonlocal worst
        while True:
            began = time.perf_counter()
            await anyio.sleep(0.001)
            worst = max(worst, time.perf_counter() - began)

    output = Output(to=lines.append, rate=50.0, burst=100, longest=20_000)
    async with open_supervisor(tree()) as sup, anyio.create_task_group() as tasks:
        tasks.start_soon(measure)
        await sup.start_child(process(children.print_flood, args=(200_000,), output=output))
        await until(lambda: any(line.stream == "stderr" for line in lines), within=60)
        await sup.terminate_child("a")
        tasks.cancel_scope.cancel()
    printed = [line for line in lines if line.stream == "stdout"]
    told = sum(line.text in ("blabla", "the last one") for line in printed)
    assert told + sum(line.dropped for line in printed) == 200_001
    assert 100 <= len(printed) < 20_000
    assert [line.text for line in lines if line.stream == "stderr"] == ["x" * 20_000 + "…"]
    assert worst < 5.0


@on(ASYNCIO)
async def test_who_does_not_take_the_output_ends_the_child() -> None:
    def refuse(line: OutputLine) -> None:
        raise OSError("disk full")

    async with open_supervisor(tree()) as sup:
        events = sup.events()
        await sup.start_child(
            process(children.print_flood, args=(10_000,), output=Output(to=refuse), restart=Restart.TEMPORARY)
        )
        reason = (await next_of(events, ChildExited, within=30)).reason
    assert isinstance(reason, Crashed)
    assert str(reason) == "crashed: OSError: disk full"


MANY = Output(rate=1.0, burst=1_000_000, longest=16)
FEW = Output(rate=1.0, burst=3, longest=16)


@given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 50)))
def test_lines_are_the_same_however_they_arrive(texts: list[bytes], cuts: list[int]) -> None:
    texts = [text.replace(b"\n", b".").replace(b"\r", b".") for text in texts]
    stream, cutter, lines = b"".join(text + b"\n" for text in texts), Cutter(MANY, now=0.0), []
    for size in [*cuts, len(stream)]:
        lines += cutter.feed(stream[:size], now=0.0)
        stream = stream[size:]
    expected = [text[:16].decode("utf-8", "replace") + ("…" if len(text) > 16 else "") for text in texts]
    assert lines + cutter.rest() == [Line(text) for text in expected]


@given(st.lists(st.sampled_from([b"a\n", b"bb", b"\n\n", b"x" * 40]), max_size=60), st.integers(1, 40))
def test_no_line_is_lost_uncounted(pieces: list[bytes], every: int) -> None:
    cutter, lines = Cutter(FEW, now=0.0), []
    for at, piece in enumerate(pieces):
        lines += cutter.feed(piece, now=float(at // every))
    stream = b"".join(pieces)
    whole = len(lines) + sum(line.dropped for line in lines)
    rest = cutter.rest()
    is_open = not stream.endswith(b"\n") and stream != b""
    assert whole + sum(line.dropped for line in rest) == stream.count(b"\n")
    assert bool(rest) >= is_open
    assert len(lines) <= 3 + len(pieces) / every + 1


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Output(rate=0), "rate must be a finite number above 0; got 0"),
        (lambda: Output(longest=1), "longest must be a whole number of at least 16; got 1"),
        (lambda: Output(to=3), "to must be a function of one OutputLine, or None; got 3"),  # type: ignore[arg-type]
        (lambda: process("m:f", output=True), "output must be a Output or None; got True"),
    ],
)
def test_a_wrong_value_is_refused_by_name(build: Any, said: str) -> None:
    with pytest.raises(SpecError, match="must be") as refused:
        build()
    assert said in str(refused.value)
