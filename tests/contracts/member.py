"""A consumer that a contract can kill, freeze and resume: in this process, or a child process with the real adapter.

Both speak of messages by their ids, so that the same test drives either. What a child does
is what `LocalMember` does there; `member_process.py` carries the calls across.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from attrs import frozen

from murmur.transport import Delivery, Outgoing, TopicSpec, Transport

_SCRIPT = Path(__file__).with_name("member_process.py")
_ANSWER_WITHIN = 60.0  # seconds; a child on a busy machine, not a broker


@frozen
class Seen:
    """A delivery, as far as it crosses a process boundary."""

    id: str
    deliveries: int


@runtime_checkable
class Member(Protocol):
    """A consumer of work topics."""

    async def receive(self, topic: str, *, credit: int, wait: float) -> list[Seen]:
        """Receive, and hold what came."""

    async def settle(self, verb: str, ids: Sequence[str]) -> list[str]:
        """Call `ack`, `release` or `dead` for held messages; return the reasons, in order."""

    async def lost(self, *, count: int, wait: float) -> list[str]:
        """Return the ids of all that was lost so far, once there are `count`, or after `wait` seconds."""

    async def serve(self, topic: str, *, inbox: str) -> None:
        """From now on receive in the background, and ack with a result for `inbox` under the message's id."""

    async def block(self, seconds: float) -> None:
        """Let nothing run in the event loop for so long."""

    async def kill(self) -> None:
        """End it as `kill -9` does."""

    async def pause(self) -> None:
        """Freeze it as SIGSTOP does; nothing but `resume` and `kill` may be called until then."""

    async def resume(self) -> None:
        """Let it go on."""

    async def close(self) -> None:
        """End it in order, if it still lives."""


class LocalMember:
    """The consumer itself. What `kill` and `pause` mean in one process is its subclass's to say."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._held: dict[str, Delivery] = {}
        self._lost: list[str] = []
        self._news = asyncio.Event()
        self._background: set[asyncio.Task[None]] = {asyncio.create_task(self._listen())}

    async def receive(self, topic: str, *, credit: int, wait: float) -> list[Seen]:
        deliveries = await self.transport.receive("workers", {topic: credit}, credit=credit, wait=wait)
        self._held |= {one.id: one for one in deliveries}
        return [Seen(one.id, one.deliveries) for one in deliveries]

    async def settle(self, verb: str, ids: Sequence[str]) -> list[str]:
        deliveries = [self._held[one] for one in ids]
        if verb == "dead":
            return [(await self.transport.dead(one, b'{"reason":"test"}')).reason for one in deliveries]
        settled = await (self.transport.ack if verb == "ack" else self.transport.release)(deliveries)
        return [one.reason for one in settled]

    async def lost(self, *, count: int, wait: float) -> list[str]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while len(self._lost) < count:
                    self._news.clear()
                    await self._news.wait()
        return list(self._lost)

    async def serve(self, topic: str, *, inbox: str) -> None:
        self._background.add(asyncio.create_task(self._serve(topic, inbox)))

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  blocking the loop is what is asked for

    async def close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.transport.close(grace=1.0)

    async def _listen(self) -> None:
        async for delivery in self.transport.lost():
            self._lost.append(delivery.id)
            self._news.set()

    async def _serve(self, topic: str, inbox: str) -> None:
        while True:
            deliveries = await self.transport.receive("workers", {topic: 5}, credit=5, wait=1.0)
            results = [Outgoing(inbox, b"result of " + one.id.encode(), one.id) for one in deliveries]
            await self.transport.ack(deliveries, results)


class ChildMember:
    """A consumer in a process of its own, which signals can kill and stop."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, target: str, url: str, consumer_id: str, specs: Sequence[TopicSpec], *, namespace: str = ""
    ) -> "ChildMember":
        """Start a child on `target`, an adapter's `module:connect`, and return once its topics are open."""
        topics = [{"name": one.name, "lease": one.lease, "dead_topic": one.dead_topic} for one in specs]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(_SCRIPT),
            json.dumps(
                {"target": target, "url": url, "consumer_id": consumer_id, "topics": topics, "namespace": namespace}
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        member = cls(process)
        await member._answer()
        return member

    async def receive(self, topic: str, *, credit: int, wait: float) -> list[Seen]:
        answer = await self._call("receive", topic=topic, credit=credit, wait=wait)
        return [Seen(one["id"], one["deliveries"]) for one in answer]

    async def settle(self, verb: str, ids: Sequence[str]) -> list[str]:
        return await self._call("settle", verb=verb, ids=list(ids))

    async def lost(self, *, count: int, wait: float) -> list[str]:
        return await self._call("lost", count=count, wait=wait)

    async def serve(self, topic: str, *, inbox: str) -> None:
        await self._call("serve", topic=topic, inbox=inbox)

    async def block(self, seconds: float) -> None:
        await self._call("block", seconds=seconds)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._ended()

    async def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    async def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGCONT)
            with contextlib.suppress(ConnectionError):
                await self._call("close")
        await self._ended()

    async def _ended(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _ANSWER_WITHIN)
        finally:
            # The transport of a pipe is closed by its loop's next turn; else it warns when it is collected.
            await asyncio.sleep(0)

    async def _call(self, verb: str, /, **arguments: object) -> list:  # type: ignore[type-arg]  # JSON
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n")
        await stdin.drain()
        return await self._answer()

    async def _answer(self) -> list:  # type: ignore[type-arg]  # JSON
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _ANSWER_WITHIN)
        if not line:
            raise ConnectionError(f"the member process ended with {await self._process.wait()}; see its stderr")
        answer: Mapping[str, list] = json.loads(line)  # type: ignore[type-arg]  # JSON
        return answer["answer"]
