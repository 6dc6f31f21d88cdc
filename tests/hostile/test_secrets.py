"""A canary for a password: it is looked for in every output there is, in every form it can be written in."""

import base64
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from murmur import AgentRuntime
from murmur.broker_url import BrokerURL
from murmur.redaction import RedactingFilter, one_safe_text, protect, redact
from murmur.worker import Worker
from tests.brokers.redis_server import RedisServer
from tests.hostile.leaky_app import Leaky

ROOT = Path(__file__).parents[2]
APP = str(Path(__file__).with_name("leaky_app.py"))
CANARY = "c4n/ry & p@ss%wörd'"
FORMS = (CANARY, quote(CANARY, safe=""), quote_plus(CANARY), repr(CANARY)[1:-1], json.dumps(CANARY)[1:-1])
ENCODED = (*FORMS, base64.b64encode(CANARY.encode()).decode())


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests of this process had protected, a password like `pass`, is not looked for here."""
    monkeypatch.setattr("murmur.redaction._known", set())


def assert_no_canary(text: str) -> None:
    for form in ENCODED:
        assert form not in text, text


def test_nothing_that_is_printed_logged_answered_or_kept_shows_the_password(
    start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    server = start_redis(password=CANARY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MURMUR_BROKER": server.url}
    told: list[str] = []

    def murmur(*arguments: str) -> str:
        command = [sys.executable, "-m", "murmur.cli.main", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        told.append(done.stdout + done.stderr)
        return done.stdout

    start = [sys.executable, "-m", "murmur.cli.main", "worker", "start", "--app", APP]
    (tmp_path / "tasks.jsonl").write_text('"retry"\n"answer"\n')
    gather = ("gather", "leaky", "--tasks", "tasks.jsonl", "--out", "out.jsonl")
    for as_json, commands in (
        ([], [("--tb", "run", "leaky", "retry")]),
        (["--json"], [("run", "leaky", "answer"), gather]),
    ):
        worker = subprocess.Popen(
            [*start, *as_json], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            for words in commands:
                murmur(*words)
            listed = Path(f"/proc/{worker.pid}/cmdline").read_bytes().decode()
            worker.send_signal(signal.SIGTERM)
            logged = "".join(worker.communicate(timeout=60))
        finally:
            worker.kill()
            worker.communicate()
        assert "lost" in logged
        assert "\x1b" not in logged
        assert "\x07" not in logged
        told += [listed, logged]
    told.append((tmp_path / "out.jsonl").read_text())
    letters = murmur("dead", "list", "leaky", "--json")
    assert letters.count("ConnectionError") >= 2
    murmur("run", "leaky", "x", "--broker", server.url.replace("c4n", "c5n"))
    environment["MURMUR_BROKER"] = server.url.replace(str(server.port), "1")
    murmur("--tb", "run", "leaky", "x")
    for text in told:
        assert_no_canary(text)


def test_no_object_shows_the_password(start_redis: Callable[..., RedisServer]) -> None:
    url = start_redis(password=CANARY).url
    runtime, worker = AgentRuntime(broker=url), Worker(broker=url, agents=[Leaky])
    assert_no_canary(f"{runtime!r} {worker!r} {runtime._queue!r} {BrokerURL.parse(url)!r} {BrokerURL.parse(url)}")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("redis://user:hunter22@host:1/0", "redis://user:***@host:1/0"),
        ("see amqp://:p%40ss@h and nats://a:b@h", "see amqp://:***@h and nats://a:***@h"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer ***"),
        (f"key sk-ant-{'x1' * 12}!", "key ***!"),
        ("password=hunter2, next", "password=***, next"),
        ("api_key: hunter2", "api_key: ***"),
        ("nothing of the kind: http://host:80/path", "nothing of the kind: http://host:80/path"),
        ("tokens_used=15", "tokens_used=15"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str, left: str) -> None:
    assert redact(text) == left


def test_what_is_short_is_not_looked_for_and_control_characters_are_shown() -> None:
    protect("a")
    assert one_safe_text("a banana\n\x1b[0m\x00\x9b") == "a banana\n\\x1b[0m\\x00\\x9b"


def test_the_filter_of_logging_takes_it_out_of_messages_arguments_and_tracebacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    protect(CANARY)
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(RedactingFilter())
    log = logging.Logger("of this test")
    log.addHandler(handler)
    try:
        int(CANARY)
    except ValueError:
        log.exception("with %s", CANARY)
    told = capsys.readouterr().out
    assert "with ***" in told
    assert "ValueError: invalid literal" in told
    assert_no_canary(told)


def test_redacting_a_large_text_is_quick_enough_to_do_always() -> None:
    text = "a:b/c@ d " * 40_000
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 2.0  # a guard against patterns that explode, not a measurement
