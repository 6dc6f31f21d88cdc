"""A user's FastStream app with murmur in it, on a real Redis."""

import asyncio
import base64
from pathlib import Path

import pytest
from faststream import FastStream
from faststream.redis import RedisBroker

from murmur import Actor, AgentRuntime, Remote, TaskSpec
from murmur.errors import InputError, WrongForm
from murmur.interop.faststream import lifespan, publish_task, task_post
from murmur.worker import Worker
from tests.brokers.redis_server import RedisServer

pytestmark = pytest.mark.anyio

WITHIN = 60.0  # seconds after which a test has waited in vain


class Shout(Actor[str, str]):
    """Note what came, louder."""

    heard: asyncio.Queue[str]

    async def receive(self, text: str) -> str:
        Shout.heard.put_nowait(text.upper())
        return text.upper()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    Shout.heard = asyncio.Queue()


async def test_workers_and_runtimes_live_with_the_app_and_handlers_publish_tasks(redis_server: RedisServer) -> None:
    broker = RedisBroker(redis_server.url, logger=None)
    runtime = AgentRuntime(broker=redis_server.url)
    worker = Worker(broker=redis_server.url, agents=[Shout], drain=1.0, heartbeat=0)
    app = FastStream(broker, logger=None, lifespan=lifespan(worker, runtime))
    answers: asyncio.Queue[str] = asyncio.Queue()

    @broker.subscriber("questions")
    async def answer(text: str) -> None:
        answers.put_nowait((await runtime.run(Shout, f"{text} by the runtime")).unwrap())
        await publish_task(broker, Shout, f"{text} by hand")

    running = asyncio.create_task(app.run())
    async with asyncio.timeout(WITHIN):
        asking = asyncio.create_task(_asked(broker))
        assert await answers.get() == "HI BY THE RUNTIME"
        asking.cancel()
        assert {await Shout.heard.get(), await Shout.heard.get()} == {"HI BY THE RUNTIME", "HI BY HAND"}
        app.exit()
        await running
    assert worker._life is None  # it ended with the app


async def _asked(broker: RedisBroker) -> None:
    while True:  # until the app listens, nothing is heard
        try:
            if await broker.publish("hi", "questions"):
                return
        except Exception:
            pass
        await asyncio.sleep(0.05)


async def test_a_post_is_signed_where_there_are_keys(redis_server: RedisServer, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nid = "a"\nuse = "sign"\nsecret = "{base64.b64encode(b"a" * 32).decode()}"\n')
    broker = RedisBroker(redis_server.url, logger=None)
    signed = {"namespace": "lab", "signing_keys": keys}
    async with Worker(broker=redis_server.url, agents=[Shout], drain=1.0, heartbeat=0, **signed):  # type: ignore[arg-type]
        await publish_task(broker, Shout, "unsigned", namespace="lab")
        spec = TaskSpec("signed", id="once")
        assert await publish_task(broker, Shout, spec, **signed) == "once"
        assert await publish_task(broker, Remote("shout"), "from elsewhere", **signed)
        async with asyncio.timeout(WITHIN):
            assert {await Shout.heard.get(), await Shout.heard.get()} == {"SIGNED", "FROM ELSEWHERE"}
        assert Shout.heard.empty()
    await broker.stop()


async def test_what_cannot_be_a_task_is_told_before_it_is_sent() -> None:
    with pytest.raises(InputError, match="expected str, got 5"):
        task_post(Shout, 5)

    class Other:
        async def connect(self) -> object:
            return object()

    with pytest.raises(WrongForm, match="publish_task over Other"):
        await publish_task(Other(), Shout, "x")
