"""Watching and commanding workers from the command line: real processes, a real Redis."""

import io
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from murmur.beats import Beat, Branch
from murmur.cli.top import _Screen
from murmur.watch import Sighting
from tests.brokers.redis_server import RedisServer
from tests.cli.test_commands import APP, environment, murmur, running, starts, until

__all__ = ["environment", "murmur"]

WITHIN = 90.0  # seconds after which a test has waited in vain
Murmur = Callable[..., subprocess.CompletedProcess[str]]


def test_a_fleet_is_watched_and_commanded(
    murmur: Murmur, redis_server: RedisServer, tmp_path: Path, environment: dict[str, str]
) -> None:
    environment["MURMUR_BROKER"] = redis_server.url
    start = ("worker", "start", "--app", APP)
    (tmp_path / "tasks.jsonl").write_text("600\n")
    gather = ("gather", "napper", "--tasks", "tasks.jsonl", "--out", "out.jsonl", "--batch-id", "nap")
    with (
        running(tmp_path, environment, *start, "--consumer-id", "alone", "--agents", "echo") as alone,
        running(
            tmp_path, environment, *start, "--consumer-id", "node", "--agents", "napper", "--processes", "2"
        ) as node,
        running(tmp_path, environment, *gather),
    ):
        until(lambda: starts(tmp_path).total() == 1, WITHIN)
        seen = {}

        def both_are_seen() -> bool:
            seen.update(look(murmur))
            return set(workers(seen)) == {"alone", "node"}

        until(both_are_seen, WITHIN)
        assert [workers(seen)[name]["running"] for name in ("alone", "node")] == [0, 1]
        assert workers(seen)["node"]["agents"] == ["napper"]
        assert seen["mailboxes"]["napper"] == {"ready": 0, "inflight": 1, "dead": 0}

        screen = murmur("top", "--once").stdout
        assert re.search(r"├─ process-1  \d+ +up +napper", screen)
        assert "napper 1 " in screen

        drawn = murmur("tree", "node").stdout
        assert f"node  serving  pid {node.pid} on " in drawn
        assert "│  ├─ process-1  up  pid " in drawn
        assert "napper  up  1 running" in drawn

        unknown = murmur("worker", "drain", "nobody")
        assert unknown.returncode == 1
        assert "no worker 'nobody' was heard; heard: " in unknown.stderr

        drained = murmur("worker", "drain", "alone")
        assert (drained.returncode, drained.stderr) == (0, "alone has left\n")
        assert alone.wait(WITHIN) == 0
        late = murmur("worker", "drain", "node", "--wait", "1")
        assert late.returncode == 1
        assert "node has not left; it was " in late.stderr
        stopped = murmur("worker", "stop", "node")
        assert (stopped.returncode, stopped.stderr) == (0, "node has left\n")
        assert node.wait(WITHIN) == 0
        assert look(murmur)["mailboxes"] == {}


def test_no_worker_at_all_is_said(murmur: Murmur, redis_server: RedisServer) -> None:
    assert murmur("top", "--once", "--broker", redis_server.url).stdout == "no worker was heard\n"


def look(murmur: Murmur) -> dict[str, dict[str, dict[str, object]]]:
    done = murmur("top", "--once", "--json")
    assert done.returncode == 0, done.stderr
    seen: dict[str, dict[str, dict[str, object]]] = json.loads(done.stdout)
    return seen


def workers(seen: dict[str, dict[str, dict[str, object]]]) -> dict[str, dict[str, object]]:
    return {str(one["worker_id"]): one for one in seen["workers"]}  # type: ignore[index, union-attr]


def test_a_process_that_is_replaced_or_idle_does_not_leave_the_screen() -> None:
    processes = (
        Branch(id="process-1", state="starting", restarts=7, cause="killed by signal 9"),
        Branch(id="process-2", state="up", pid=42, running=0),  # of so many agents that idle ones are left out
    )
    actors = Branch(
        id="actors", state="up", children=(Branch(id="echo", state="held", running=0, cause="no such model"),)
    )
    tree = (Branch(id="cancels", state="up"), Branch(id="pool", state="up", children=processes), actors)
    beat = Beat(
        v=1,
        worker_id="n1",
        incarnation="x",
        host="h",
        pid=1,
        state="serving",
        at=1.0,
        started_at=0.0,
        every=2.0,
        tree=tree,
    )
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(_Screen([Sighting(beat=beat, age=0.0)], {}))
    rows = [" ".join(row.split()) for row in console.export_text().splitlines()]
    assert "├─ process-1 starting 7" in rows
    assert "├─ process-2 42 up 0 0" in rows
    assert "└─ actors up echo (held) 0" in rows
    assert "n1, process-1: killed by signal 9" in rows
    assert "n1, actors/echo: no such model" in rows
