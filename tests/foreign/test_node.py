"""Programs in JavaScript, written from docs/wire.md alone, have tasks done on each broker and read the results."""

import asyncio
import json
import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest

from murmur import Actor
from murmur.worker import Worker

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "examples" / "foreign"
WITHIN = 60.0  # seconds after which a program has waited in vain


class Shout(Actor[str, str]):
    """Say it louder."""

    async def receive(self, text: str) -> str:
        return text.upper()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs and what they need of npm."""
    packages, lock = ROOT / ".cache" / "foreign", (PROGRAMS / "package-lock.json").read_bytes()
    there = packages / "ready"  # which lock was installed
    if shutil.which("node") is None or not there.exists() or there.read_bytes() != lock:
        reason = "Node.js, or the packages of examples/foreign, are not installed. Get them: make brokers"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("node")
    for program in PROGRAMS.glob("*.mjs"):
        shutil.copy(program, folder)
    (folder / "node_modules").symlink_to(packages / "node_modules")
    return folder


async def results_of(node: Path, program: str, broker: str, *inputs: object) -> list[dict[str, Any]]:
    """Serve, run the program, and return the results that it printed."""
    namespace = f"node-{uuid.uuid4().hex[:8]}"
    async with Worker(broker=broker, agents=[Shout], namespace=namespace, drain=1.0, heartbeat=0):
        running = await asyncio.create_subprocess_exec(
            *("node", node / program, broker, "shout", *map(json.dumps, inputs)),
            env={**os.environ, "NAMESPACE": namespace},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            printed, complaints = await asyncio.wait_for(running.communicate(), WITHIN)
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
    assert not complaints, complaints.decode()
    assert running.returncode == 0
    return [json.loads(line) for line in printed.splitlines()]


@pytest.mark.parametrize(
    ("program", "broker"),
    [
        ("redis.mjs", "redis_server"),
        ("nats.mjs", "nats_server"),
        ("kafka.mjs", "kafka_url"),
        ("rabbitmq.mjs", "rabbitmq"),
    ],
)
async def test_a_program_in_javascript_has_tasks_done_and_reads_their_results(
    program: str, broker: str, request: pytest.FixtureRequest, node: Path
) -> None:
    server = request.getfixturevalue(broker)
    found = await results_of(node, program, server if isinstance(server, str) else server.url, "hello", 5, "¡olé! ✓")
    assert sorted(one["output"] for one in found if one["success"]) == ["HELLO", "¡OLÉ! ✓"]
    (wrong,) = [one for one in found if not one["success"]]
    assert (wrong["error_type"], wrong["agent"], wrong["v"]) == ("InputError", "shout", 1)
