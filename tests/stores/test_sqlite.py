"""What only a store in a file can do wrong: lose what it confirmed, mistake a file, fill a disk, outlive a reboot."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from murmur import Actor, AgentRuntime
from murmur.errors import BadURL, BrokerRefused, OutcomeUnknown
from murmur.store import Claim, Completion, GrantRequest, NewTask, State, Written
from murmur.stores.sqlite import SqliteStore, connect
from murmur.transport import Delivery

pytestmark = pytest.mark.anyio

_KILLED = """
import asyncio, os, signal, sys
from murmur.store import Claim, Completion, GrantRequest
from murmur.stores.sqlite import connect
from murmur.transport import Delivery

async def main():
    store = connect("sqlite:///" + sys.argv[1], namespace="", retention=60.0, mailbox=None)
    await store.open(owner="w", lease=30.0)
    for number in range(10_000):
        task_id = f"t.{number}"
        delivery = Delivery("a.tasks", b"{}", {}, task_id, 1, None)
        (claim,) = await store.grant([GrantRequest(delivery, task_id, "a", None)])
        await store.complete([Completion(claim, b'"done"')])
        print(number, flush=True)

asyncio.run(main())
"""


def opened(path: Path, *, retention: float = 60.0) -> SqliteStore:
    return connect(f"sqlite:///{path}", namespace="", retention=retention, mailbox=None)


async def granted(store: SqliteStore, task_id: str) -> Claim:
    delivery = Delivery("a.tasks", b"{}", {}, task_id, 1, None)
    (grant,) = await store.grant([GrantRequest(delivery, task_id, "a", None)])
    assert isinstance(grant, Claim)
    return grant


def confirmed_before_it_was_killed(path: Path) -> list[int]:
    """Return what a process said it had stored, until it was killed in the middle."""
    done: list[int] = []
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done.append(int(line))
            if len(done) == 50:
                process.send_signal(signal.SIGKILL)
    return done


async def test_what_was_confirmed_is_there_after_the_process_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    done = await asyncio.to_thread(confirmed_before_it_was_killed, path)
    assert len(done) >= 50
    store = opened(path)
    await store.open(owner="w2", lease=30.0)
    rows = await store.read([f"t.{number}" for number in done])
    assert {row and row.state for row in rows} == {State.DONE}
    await store.close()


_OPENS = """
import asyncio, sys
from murmur.store import NewTask
from murmur.stores.sqlite import connect

async def main():
    store = connect("sqlite:///" + sys.argv[1], namespace="", retention=60.0, mailbox=None)
    await store.open(owner=sys.argv[2], lease=5.0)
    for number in range(30):
        await store.admit([NewTask(f"t.{sys.argv[2]}.{number}", "a", "a.tasks", b"{}")])
    await store.close()

asyncio.run(main())
"""


def test_processes_that_open_a_new_file_at_the_same_moment_share_it(tmp_path: Path) -> None:
    for attempt in range(3):
        path = tmp_path / f"{attempt}.db"
        several = [subprocess.Popen([sys.executable, "-c", _OPENS, str(path), str(number)]) for number in range(8)]
        assert [process.wait() for process in several] == [0] * 8
        with sqlite3.connect(path) as sql:
            assert sql.execute("SELECT count(*) FROM tasks").fetchall() == [(240,)]
        sql.close()


async def test_a_file_of_another_program_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.db"
    with sqlite3.connect(theirs) as sql:
        sql.execute("CREATE TABLE cats (name TEXT)")
    sql.close()
    before = theirs.read_bytes()
    with pytest.raises(BrokerRefused, match="another program's database"):
        await opened(theirs).open(owner="w", lease=1.0)
    with sqlite3.connect(theirs) as sql:
        assert sql.execute("SELECT name FROM sqlite_master").fetchall() == [("cats",)]
    sql.close()
    assert len(before) == theirs.stat().st_size


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("dear diary, " * 100)
    with pytest.raises(BrokerRefused, match="not a database"):
        await opened(tmp_path / "notes.txt").open(owner="w", lease=1.0)


async def test_a_file_of_a_later_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    store = opened(path)
    await store.open(owner="w", lease=1.0)
    await store.close()
    with sqlite3.connect(path) as sql:
        sql.execute("PRAGMA user_version = 99")
    sql.close()
    with pytest.raises(BrokerRefused, match="a later murmur"):
        await opened(path).open(owner="w", lease=1.0)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite://host/rows.db", "sqlite:////no/such/place/rows.db"]
)
def test_a_url_that_names_no_file_says_how_to_write_it(url: str) -> None:
    with pytest.raises(BadURL, match=r"sqlite:///relative|no directory"):
        connect(url, namespace="", retention=60.0, mailbox=None)


async def test_a_full_disk_is_said_and_changes_nothing_and_work_goes_on_after_it(tmp_path: Path) -> None:
    store = opened(tmp_path / "rows.db")
    await store.open(owner="w", lease=30.0)
    claim = await granted(store, "t.0")
    writer = store._writer
    assert writer is not None

    def limit(pages: int) -> None:
        assert writer.connection is not None
        writer.connection.execute(f"PRAGMA max_page_count = {pages}")

    await writer.run_in(lambda: limit(20))
    with pytest.raises(OutcomeUnknown, match="full"):
        await store.complete([Completion(claim, b'"' + b"x" * 1_000_000 + b'"')])
    (row,) = await store.read(["t.0"])
    assert row is not None
    assert row.state is State.LEASED
    await writer.run_in(lambda: limit(100_000))
    assert await store.complete([Completion(claim, b'"done"')]) == [Written.STORED]
    await store.close()


async def test_after_a_reboot_leases_are_over_and_results_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    store = opened(path)
    await store.open(owner="w", lease=3_600.0)
    await store.complete([Completion(await granted(store, "t.done"), b'"done"')])
    await granted(store, "t.leased")
    await store.close()
    with sqlite3.connect(path) as sql:  # times of a clock that had run for years
        sql.execute("UPDATE boot SET id = 'an earlier one'")
        sql.execute("UPDATE tasks SET leased_until = leased_until + 1e9 WHERE state = 'leased'")
    sql.close()
    after = opened(path)
    await after.open(owner="w2", lease=3_600.0)
    assert (await granted(after, "t.leased")).token == 2
    (row,) = await after.read(["t.done"])
    assert row is not None
    assert row.result == b'"done"'
    await after.close()


async def test_calls_that_come_together_are_one_transaction(tmp_path: Path) -> None:
    store = opened(tmp_path / "rows.db")
    await store.open(owner="w", lease=30.0)
    writer = store._writer
    assert writer is not None
    statements: list[str] = []
    await writer.run_in(lambda: writer.connection and writer.connection.set_trace_callback(statements.append))
    await asyncio.gather(*(store.admit([NewTask(f"t.{number}", "a", "a.tasks", b"{}")]) for number in range(200)))
    assert statements.count("COMMIT") <= 4
    await store.close()


async def test_two_namespaces_in_one_file_do_not_see_each_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    stores = [connect(url, namespace=name, retention=60.0, mailbox=None) for name in ("one", "two")]
    for store in stores:
        await store.open(owner="w", lease=30.0)
        await store.put("key", store._namespace.encode())
    await stores[0].admit([NewTask("t", "a", "a.tasks", b"{}")])
    assert [row is None for row in [*await stores[0].read(["t"]), *await stores[1].read(["t"])]] == [False, True]
    assert [await store.get(["key"]) for store in stores] == [[b"one"], [b"two"]]
    assert [dict(await store.listed("k")) for store in stores] == [{"key": b"one"}, {"key": b"two"}]
    for store in stores:
        await store.close()


class Doubler(Actor[int, int]):
    async def receive(self, number: int) -> int:
        return number * 2


async def test_a_fleet_works_on_rows_in_a_file_and_a_batch_is_resumed_from_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'rows.db'}"
    async with AgentRuntime(store=url) as runtime:
        first = await runtime.gather(Doubler, tasks=range(50), batch_id="doubles")
    async with AgentRuntime(store=url) as runtime:
        second = await runtime.gather(Doubler, tasks=range(50), batch_id="doubles")
    assert [result.output for result in first] == [2 * number for number in range(50)]
    assert [result.output for result in second] == [2 * number for number in range(50)]
    with sqlite3.connect(tmp_path / "rows.db") as sql:
        assert sql.execute("SELECT sum(attempts) FROM tasks").fetchall() == [(50,)]
    sql.close()
