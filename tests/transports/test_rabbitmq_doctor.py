"""The doctor of RabbitMQ, and what is said where nothing can be connected: each on a real server, or what is none."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from murmur import wiring
from murmur.doctor import Finding, Severity
from murmur.errors import BrokerRefused, BrokerUnreachable
from murmur.transport import TopicSpec
from murmur.transports import rabbitmq as adapter
from tests.brokers.fixtures import RabbitPlace
from tests.brokers.server import HOST

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


async def examined(url: str) -> list[Finding]:
    return await wiring.examine(url, store="memory://", namespace="")


async def opened(url: str) -> None:
    transport = adapter.connect(url, consumer_id="a", namespace="", lease=30.0)
    try:
        async with asyncio.timeout(30):
            await transport.open([TopicSpec("echo.tasks")])
    finally:
        await transport.close()


@contextlib.asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[str]:
    """Listen as something else does: say `answer` to whatever comes, and hang up; None: say nothing at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1)
            if answer is None:
                await reader.read()
            else:
                writer.write(answer)
                await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield f"{HOST}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_a_server_that_does_all_has_nothing_worse_than_a_note(rabbitmq: RabbitPlace) -> None:
    found = await examined(rabbitmq.url)
    assert [one for one in found if one.severity is Severity.BROKEN] == []
    assert await asyncio.to_thread(rabbitmq.server.queues, rabbitmq.vhost) == []


async def test_missing_rights_are_named_with_the_command_that_gives_them(rabbitmq: RabbitPlace) -> None:
    def may(configure: str, write: str, read: str) -> None:
        rabbitmq.server.call(
            f'rabbit_auth_backend_internal:set_permissions(<<"weak">>, <<"{rabbitmq.vhost}">>, '
            f'<<"{configure}">>, <<"{write}">>, <<"{read}">>, <<"test">>)'
        )

    await asyncio.to_thread(
        rabbitmq.server.call, 'catch rabbit_auth_backend_internal:add_user(<<"weak">>, <<"canary-9">>, <<"test">>)'
    )
    url = rabbitmq.server.at(rabbitmq.vhost, user="weak", password="canary-9")
    with pytest.raises(BrokerRefused, match="set_permissions"):
        await opened(url)
    for rights, what in ((("", ".*", ".*"), "make queues"), ((".*", "", ".*"), "publish"), ((".*", ".*", ""), "read")):
        await asyncio.to_thread(may, *rights)
        found = [one for one in await examined(url) if one.severity is Severity.REFUSED]
        assert [one.invariant for one in found] == ["I22"], found
        assert what in found[0].what
        assert "rabbitmqctl set_permissions" in found[0].mend
    await asyncio.to_thread(may, ".*", ".*", ".*")
    assert not any(one.severity in (Severity.REFUSED, Severity.BROKEN) for one in await examined(url))


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"\x15\x03\x03\x00\x02\x02\x46", "TLS is wanted here"),
        (b"", "TLS may be wanted here"),
        (b"-ERR unknown command 'AMQP'\r\n", "no RabbitMQ; it said"),
        (b"AMQP\x00\x01\x00\x00", "speaks AMQP 1.0.0 only"),
        (b"\x01\x00\x00\x00\x00\x00\x04junk\xce", "cannot be read"),
        (None, "says nothing"),
    ],
)
async def test_what_is_no_rabbitmq_is_told_in_one_line(answer: bytes | None, what: str) -> None:
    async with listening(answer) as address:
        with pytest.raises(BrokerUnreachable, match=what):
            await opened(f"amqp://{address}")


def test_the_command_tells_in_one_line_and_its_exit_code_says_it(rabbitmq: RabbitPlace) -> None:
    def doctor(url: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "murmur.cli.main", "doctor", "--store", "memory://"]
        environment = {**os.environ, "MURMUR_BROKER": url}  # a password does not stand in a process list
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    assert doctor(rabbitmq.url).returncode == 0
    wrong = doctor(rabbitmq.server.at(rabbitmq.vhost, password="canary-8"))
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
    assert "canary-8" not in wrong.stdout + wrong.stderr
