"""With a key file, what is not signed by us never runs, and no result of a stranger is believed."""

import asyncio
import base64
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from murmur import Actor, AgentRuntime, wiring
from murmur.envelope import VERSION, ResultMessage, TaskMessage, decode_letter, encode
from murmur.errors import BadSetting, BadSignature
from murmur.signing import HEADER, Seal, read_keys
from murmur.store import Completion, NewTask
from murmur.stores.nats import NatsStore
from murmur.stores.nats_rows import key_of
from murmur.task_queue import TaskQueue
from murmur.transport import Outgoing
from murmur.worker import Worker
from tests.brokers.nats_server import NatsServer
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
_numbers = count()
# The same in every process of a run: test names are made of them.
OLD, NEW, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 4))


class Counter(Actor[int, int]):
    """Counts what reached it."""

    seen: ClassVar[list[int]] = []

    async def receive(self, number: int) -> int:
        self.seen.append(number)
        return number


def key(key_id: str, use: str, secret: str = "") -> str:
    return f'[[key]]\nid = "{key_id}"\nuse = "{use}"\nsecret = "{secret}"\n'


@pytest.fixture
def key_file(tmp_path: Path) -> Callable[..., Path]:
    def made(*keys: str) -> Path:
        path = tmp_path / f"keys-{next(_numbers)}.toml"
        path.write_text("\n".join(keys))
        return path

    return made


@pytest.fixture(params=["memory", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    Counter.seen.clear()
    if request.param == "memory":
        return f"memory://signing-{next(_numbers)}"
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    return server.url


@pytest.fixture
async def foe(broker: str) -> Callable[[], Awaitable[TaskQueue]]:
    async def opened() -> TaskQueue:
        queue = wiring.connect(broker, store=None, namespace="", consumer_id="foe", lease=None, retention=60.0)
        await queue.open(owner="foe", lease=None)
        await queue.open_tasks(["counter", "other"])
        return queue

    return opened


def task(task_id: str, number: int = 666) -> bytes:
    return encode(TaskMessage(v=VERSION, task_id=task_id, agent="counter", input=msgspec.Raw(str(number).encode())))


async def letters_of(queue: TaskQueue, agent: str, count: int) -> list[str]:
    async with asyncio.timeout(10.0):
        while len(letters := await queue.dead_letters(agent)) < count:
            await asyncio.sleep(0.01)
    return [decode_letter(letter).reason for letter in letters]


async def test_signed_work_is_done_and_everything_else_is_quarantined(
    broker: str, key_file: Callable[..., Path], foe: Callable[[], Awaitable[TaskQueue]]
) -> None:
    keys, others = key_file(key("k1", "sign", NEW), key("k0", "revoked")), key_file(key("k1", "sign", OTHER))
    queue, stranger, revoked = await foe(), read_keys(others), Seal({"k0": ("sign", base64.b64decode(OLD))})
    topic, ours = "counter.tasks", read_keys(keys)
    signed = ours.signature("task", topic, task("good"))
    bad = {
        "is not signed": (task("a"), {}),
        "was altered": (task("b", 667), {HEADER: ours.signature("task", topic, task("b"))}),
        "signed for another topic": (task("c"), {HEADER: ours.signature("task", "other.tasks", task("c"))}),
        "was altered, or": (task("d"), {HEADER: stranger.signature("task", topic, task("d"))}),
        "is revoked": (task("e"), {HEADER: revoked.signature("task", topic, task("e"))}),
        "not in the key file": (task("f"), {HEADER: Seal({"kx": ("sign", b"x" * 32)}).signature("task", topic, b"")}),
        "not of the form": (task("g"), {HEADER: "v1;k1;***"}),
        "not of the form v1": (task("h"), {HEADER: signed.replace("v1", "v9")}),
        "was altered, or signed": (task("i"), {HEADER: ours.signature("result", "", task("i"))}),
    }
    for number, (body, headers) in enumerate(bad.values()):
        await queue.transport.publish([Outgoing(topic, body, f"foe-{number}", headers)])
    async with (
        AgentRuntime(broker=broker, signing_keys=keys) as runtime,
        Worker(broker=broker, agents=[Counter], signing_keys=keys, drain=1.0),
    ):
        assert [one.output for one in await runtime.gather(Counter, tasks=range(5), timeout=20.0)] == [
            0,
            1,
            2,
            3,
            4,
        ]
        reasons = await letters_of(queue, "counter", len(bad))
        for word in bad:
            assert any(word in reason for reason in reasons), (word, reasons)
        for number in range(3):  # a valid envelope, replayed
            await queue.transport.publish([Outgoing(topic, task("good"), f"again-{number}", {HEADER: signed})])
        assert (await runtime.run(Counter, 9, timeout=20.0)).output == 9
        async with asyncio.timeout(10.0):
            while 666 not in Counter.seen:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
    assert sorted(Counter.seen) == [0, 1, 2, 3, 4, 9, 666]
    await queue.close()


async def test_a_result_of_a_stranger_is_left_aside(
    broker: str, key_file: Callable[..., Path], foe: Callable[[], Awaitable[TaskQueue]]
) -> None:
    keys, queue = key_file(key("k1", "sign", NEW)), await foe()
    async with AgentRuntime(broker=broker, signing_keys=keys) as runtime:
        gathering = asyncio.ensure_future(runtime.gather(Counter, tasks=[1, 2], batch_id="b", timeout=30.0))
        await asyncio.sleep(0.3)  # published, and nobody serves it
        inbox = queue.topics.inbox(runtime.runtime_id)
        forged = [
            encode(ResultMessage(v=1, task_id=f"b.{n}", agent="counter", success=True, output=msgspec.Raw(b"666")))
            for n in range(2)
        ]
        stranger = read_keys(key_file(key("k1", "sign", OTHER)))
        bodies = [*forged, *map(stranger.sealed, forged)]
        await queue.transport.publish([Outgoing(inbox, body, f"foe-{n}") for n, body in enumerate(bodies)])
        async with Worker(broker=broker, agents=[Counter], signing_keys=keys, drain=1.0):
            assert [result.output for result in await gathering] == [1, 2]
    await queue.close()


async def test_a_stored_result_that_was_forged_is_told_and_nothing_hangs(
    broker: str, key_file: Callable[..., Path], foe: Callable[[], Awaitable[TaskQueue]]
) -> None:
    queue = await foe()
    await queue.submit([NewTask("b.0", "counter", "counter.tasks", task("b.0"))])
    (delivery,) = await queue.receive({"counter": 1}, credit=1, wait=5.0)
    (work,) = await queue.grant([delivery])
    forged = encode(ResultMessage(v=1, task_id="b.0", agent="counter", success=True, output=msgspec.Raw(b"666")))
    await queue.settle([Completion(work.claim, forged)])
    async with AgentRuntime(broker=broker, signing_keys=key_file(key("k1", "sign", NEW))) as runtime:
        (result,) = await runtime.gather(Counter, tasks=[0], batch_id="b", timeout=20.0)
    assert result.output is None
    assert "not readable" in str(result.error)
    await queue.close()


async def test_keys_are_rotated_without_a_pause(broker: str, key_file: Callable[..., Path]) -> None:
    old = key_file(key("old", "sign", OLD))
    both = key_file(key("new", "sign", NEW), key("old", "verify", OLD))
    learns = key_file(key("old", "sign", OLD), key("new", "verify", NEW))
    for of_worker, of_publisher in ((learns, old), (both, learns), (both, both)):
        async with (
            Worker(broker=broker, agents=[Counter], signing_keys=of_worker, drain=1.0),
            AgentRuntime(broker=broker, signing_keys=of_publisher) as runtime,
        ):
            assert (await runtime.run(Counter, 5, timeout=20.0)).output == 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", r"\[\[key\]\] tables"),
        ("not toml at all", "a TOML file"),
        (key("a b", "sign", NEW), "an id of up to 64"),
        (key("a", "sing", NEW), 'use = "sign", "verify" or "revoked"'),
        (key("a", "sign", "***"), "base64"),
        (key("a", "sign", "c2hvcnQ="), "at least 32 bytes"),
        (key("a", "sign", NEW) + key("a", "verify", OLD), "each id once"),
        (key("a", "sign", NEW) + key("b", "sign", OLD), "one key"),
    ],
)
def test_a_bad_key_file_says_what_is_wrong_and_shows_no_secret(
    key_file: Callable[..., Path], content: str, says: str
) -> None:
    with pytest.raises(BadSetting, match=says) as caught:
        Worker(broker="memory://x", agents=[Counter], signing_keys=key_file(content))
    assert NEW not in str(caught.value)
    assert OLD not in str(caught.value)


def test_a_seal_shows_no_secret_and_one_that_only_verifies_does_not_sign(key_file: Callable[..., Path]) -> None:
    seal = read_keys(key_file(key("a", "verify", NEW)))
    assert repr(seal) == "Seal(signs with None, verifies ['a'], refuses [])"
    with pytest.raises(BadSetting, match="a key with use"):
        seal.signature("task", "t", b"{}")
    with pytest.raises(BadSignature):
        seal.opened(b"{}")


def test_the_command_line_takes_a_key_file(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "murmur.cli.main",
        "run",
        "echo",
        "x",
        "--signing-keys",
        str(tmp_path / "none.toml"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "none.toml" in done.stderr


async def test_a_mark_that_no_signature_covers_counts_for_nothing(
    nats_server: NatsServer, key_file: Callable[..., Path]
) -> None:
    keys = key_file(key("k1", "sign", NEW))
    queue = wiring.connect(
        nats_server.url, store=None, namespace="mark", consumer_id="w", lease=30.0, retention=60.0, signing_keys=keys
    )
    await queue.open(owner="w", lease=30.0)
    await queue.open_tasks(["counter"])
    store, topic = queue.store, "mark.counter.tasks"
    assert isinstance(store, NatsStore)
    await queue.submit([NewTask("marked", "counter", topic, task("marked"))])
    (delivery,) = await queue.receive({"counter": 1}, credit=1, wait=30.0)
    assert set(delivery.headers) == {HEADER}
    (work,) = await queue.grant([delivery])
    result = encode(ResultMessage(v=VERSION, task_id="marked", agent="counter", success=True))
    await queue.settle([Completion(work.claim, result)])
    (entry,) = await store._rows.get([key_of("marked")])
    assert entry is not None
    forged = {**delivery.headers, "Murmur-Row": str(entry.revision)}
    await queue.transport.publish([Outgoing(topic, delivery.body, "forged", forged)])
    (replayed,) = await queue.receive({"counter": 1}, credit=1, wait=30.0)
    assert replayed.headers == forged
    assert list(await queue.grant([replayed])) == []
    await queue.close()
