"""What is wrong with a broker or its URL is told in one line, with the cause and what mends it, without the password.

Each is tried as users meet it, by `murmur doctor`, and the last one of each broker by `murmur worker start`, which
tells what is wrong with a connection by the same lines. The commands run in this process, which is what makes
so many of them cheap. The promise is ten seconds.
"""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiokafka.admin import NewTopic
from attrs import frozen

from murmur import wiring
from murmur.broker_url import BrokerURL
from murmur.cli import gather, run, worker
from murmur.cli import main as command_line
from murmur.errors import BrokerRefused
from murmur.transport import Outgoing, Refusal, TopicSpec
from murmur.transports import kafka
from murmur.transports.kafka_link import KafkaLink
from tests.brokers.certificates import Certificates
from tests.brokers.fixtures import NatsStarter, RabbitPlace, RedisStarter
from tests.brokers.kafka_server import KafkaServer
from tests.brokers.nats_operator import operator
from tests.brokers.server import HOST, free_port
from tests.tls.test_tls import is_served

APP = str(Path(__file__).with_name("agents_app.py"))
START = ("worker", "start", "--app", APP, "--agents", "echo", "--heartbeat", "0")
WITHIN = 60.0  # seconds, on a machine with much else to do
CANARY = "canary-7"


@frozen
class Said:
    """What a command wrote, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """Its last line on stderr: before it, a worker that came further has shown its banner."""
        return self.err.strip().splitlines()[-1]


Say = Callable[..., Said]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Type a command with a broker's URL in the environment."""
    for module in (worker, run, gather):
        monkeypatch.setattr(module, "log_to_stderr", lambda **_: None)  # the tests' own logging stays

    def typed(url: str, *words: str) -> Said:
        monkeypatch.setenv("MURMUR_BROKER", url)
        capsys.readouterr()
        began = time.monotonic()
        code = command_line._run(list(words))
        assert time.monotonic() - began < WITHIN
        told = capsys.readouterr()
        assert CANARY not in told.out + told.err
        assert "Traceback" not in told.err, told.err
        return Said(code, told.out, told.err)

    return typed


def assert_refused(say: Say, *cases: tuple[str, str]) -> None:
    """Each URL is refused in one line that matches, by the doctor; the last one by a worker, too."""
    for url, problem in cases:
        said = say(url, "doctor")
        assert said.code == 2
        assert re.fullmatch(f"{problem}.*\n", said.err), said.err
    assert say(url, *START) == said


@pytest.fixture
def somebody_else() -> Iterator[str]:
    """The address of a web server, which answers whatever comes and hangs up."""
    listener = socket.create_server((HOST, 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(10.0)
                try:
                    client.recv(1_000)
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"{HOST}:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


# -- anywhere ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["redis", "nats", "amqp", "kafka"])
def test_nobody_there(scheme: str, say: Say) -> None:
    said = say(f"{scheme}://user:{CANARY}@{HOST}:{free_port()}", "doctor")
    assert said.code == 2
    assert re.fullmatch(r"E111 no answer from .*refused.*Is the server running, .*\n", said.err), said.err


@pytest.mark.parametrize(
    ("scheme", "problem"),
    [
        ("redis", "no Redis"),
        ("nats", "NATS"),
        ("amqp", "no RabbitMQ"),
        ("kafka", "does it speak Kafka"),
    ],
)
def test_another_protocol_on_the_port(scheme: str, problem: str, somebody_else: str, say: Say) -> None:
    said = say(f"{scheme}://user:{CANARY}@{somebody_else}", "doctor")
    assert said.code == 2
    assert re.fullmatch(rf"E111 no answer from .*{problem}.*\n", said.err), said.err


@pytest.mark.parametrize("scheme", ["rediss", "tls", "amqps", "kafka+ssl"])
def test_files_that_are_not_there(scheme: str, say: Say) -> None:
    said = say(f"{scheme}://user:{CANARY}@{HOST}:{free_port()}?ca=/nowhere.pem", "doctor")
    assert said.code == 2
    assert re.fullmatch(r"E110 cannot use .*certificates cannot be used \(ca=/nowhere.pem\).*\n", said.err), said.err


# -- each broker ---------------------------------------------------------------------------------------------------


def test_redis(start_redis: RedisStarter, certificates: Certificates, say: Say) -> None:
    server = start_redis(password="s3same", tls=certificates)
    assert_refused(
        say,
        (f"redis://:{CANARY}@{HOST}:{server.port}", "E112 .*invalid username-password pair"),
        (f"redis://{HOST}:{server.port}", "E112 .*NOAUTH"),
        (f"rediss://:{CANARY}@{HOST}:{server.port}", "E111 .*the scheme is redis://"),
        (f"redis://:{CANARY}@{HOST}:{server.tls_port}", "E111 .*the scheme is rediss://"),
        (f"{server.url}?cafile=x", "E110 .*unknown option 'cafile'; there are ca, cert, key, db"),
    )


def test_a_read_only_replica_of_redis(start_redis: RedisStarter, say: Say) -> None:
    replica = start_redis()
    replica.call("REPLICAOF", HOST, str(free_port()))
    for words in (("doctor",), START):
        said = say(replica.url, *words)
        assert said.code == 2
        assert re.fullmatch("E112 .*read-only replica: name its primary.*\n", said.err), said.err


def test_a_key_of_redis_that_is_somebody_elses(start_redis: RedisStarter, say: Say) -> None:
    server = start_redis(aof=True)
    server.call("SET", "echo.tasks", "x")
    said = say(server.url, *START)
    assert said.code == 2
    assert re.match("E112 .*WRONGTYPE.*use a namespace", said.line), said.err


@pytest.mark.parametrize("rules", [("~*", "&*", "+@all", "-@write"), ("~other*", "&*", "+@all"), ("+ping",)])
def test_rights_that_redis_withholds(rules: tuple[str, ...], start_redis: RedisStarter, say: Say) -> None:
    server = start_redis(aof=True)
    server.call("ACL", "SETUSER", "weak", "reset", "on", f">{CANARY}", *rules)
    url = f"redis://weak:{CANARY}@{HOST}:{server.port}"
    for words in (("doctor",), START, ("run", "--app", APP, "echo", "x")):
        said = say(url, *words)
        assert said.code == 2
        assert re.match("E112 .*redis-cli ACL SETUSER weak", said.line), said.err
    server.call(*said.line.partition("redis-cli ")[2].split())
    assert say(url, "doctor").code == 0


@pytest.mark.parametrize(
    ("may_not", "mend"),
    [
        ({"publish": {"deny": ["$JS.API.>"]}}, r'publish to "\$JS.API.>"'),
        ({"publish": {"deny": ["$KV.>"]}}, r"\$KV.>"),
        ({"subscribe": {"deny": ["_INBOX.>"]}}, r'subscribe to "_INBOX.>"'),
    ],
)
def test_rights_that_nats_withholds(may_not: dict[str, object], mend: str, start_nats: NatsStarter, say: Say) -> None:
    server = start_nats(password=CANARY, permissions=may_not)
    for words in (("doctor",), START, ("run", "--app", APP, "echo", "x")):
        said = say(server.url, *words)
        assert said.code == 2
        assert re.match(f"E112 .*Let this user .*{mend}.* in nats-server.conf", said.line), said.err


def test_a_task_that_may_not_be_published_is_told(start_nats: NatsStarter, say: Say, tmp_path: Path) -> None:
    server = start_nats(password=CANARY, permissions={"publish": {"deny": ["*.tasks"]}})
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('"x"\n')
    for words in (("run", "echo", "x"), ("gather", "echo", "--tasks", str(tasks), "--out", str(tmp_path / "out"))):
        said = say(server.url, *words)
        assert said.code == 2
        assert re.search('E207 .*Let this user publish to "echo.tasks"', said.err), said.err


def test_rights_that_rabbitmq_withholds(rabbitmq: RabbitPlace, say: Say) -> None:
    server, vhost = rabbitmq.server, rabbitmq.vhost
    server.call(f'catch rabbit_auth_backend_internal:add_user(<<"w-{vhost}">>, <<"{CANARY}">>, <<"test">>)')
    url = server.at(vhost, user=f"w-{vhost}", password=CANARY)
    server.call(
        f'rabbit_auth_backend_internal:set_permissions(<<"w-{vhost}">>, <<"{vhost}">>, '
        '<<"">>, <<"">>, <<"">>, <<"test">>)'
    )
    for words in (("doctor",), START, ("run", "--app", APP, "echo", "x")):
        said = say(url, *words)
        assert said.code == 2
        assert re.match("E112 .*rabbitmqctl set_permissions", said.line), said.err


def test_nats(start_nats: NatsStarter, certificates: Certificates, say: Say) -> None:
    plain = start_nats(password="s3same")
    with_tls = start_nats(certificate=(certificates.certificate, certificates.key))
    without_streams = start_nats(jetstream=False)
    assert_refused(
        say,
        (f"nats://user:{CANARY}@{HOST}:{plain.port}", "E112 .*Authorization Violation"),
        (f"nats://{HOST}:{plain.port}", "E112 .*Authorization Violation"),
        (f"tls://user:{CANARY}@{HOST}:{plain.port}", "E112 .*it offers no TLS, and no password is sent"),
        (f"nats://user:{CANARY}@{HOST}:{with_tls.port}", "E112 .*it wants TLS; write tls://"),
        (with_tls.url, "E11. .*certificate"),
        (without_streams.url, "E112 .*JetStream is off; start the server with --jetstream"),
    )


@pytest.mark.parametrize(
    ("name", "subject", "problem"),
    [
        ("all", "echo.*", "belongs to another stream already; use a namespace"),
        ("echo~tasks", "echo.tasks", "retention is 'limits' and must be 'workqueue'.*Delete it, or use another"),
    ],
)
def test_a_stream_of_nats_that_is_somebody_elses(
    name: str, subject: str, problem: str, start_nats: NatsStarter, say: Say
) -> None:
    server = start_nats()

    async def make() -> None:
        async with operator(server.url) as link:
            await link.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [subject]})

    asyncio.run(make())
    said = say(server.url, *START)
    assert said.code == 2
    assert re.match(f"E112 .*{problem}", said.line), said.err


def test_what_nats_does_not_take_for_its_size(start_nats: NatsStarter, say: Say) -> None:
    server = start_nats(settings="max_payload: 64KB")
    assert "max_payload is 65,536 bytes" in say(server.url, "doctor").out
    said = say(server.url, "run", "echo", "x" * 200_000)
    assert said.code == 2
    assert re.match("E207 .*was not published: .* at most 65,536 are allowed; pass a reference", said.line), said.err


def test_rabbitmq(rabbitmq: RabbitPlace, certificates: Certificates, say: Say) -> None:
    server, vhost = rabbitmq.server, rabbitmq.vhost
    tls_port = server.listen_with_tls(certificates)
    assert_refused(
        say,
        (server.at(vhost, password=CANARY), "E112 .*Login was refused.*is the user there, and the password"),
        (server.at("nowhere", password="guest"), "E112 .*vhost nowhere not found .rabbitmqctl add_vhost"),
        (f"amqps://guest:{CANARY}@{HOST}:{server.port}/{vhost}", "E111 .*no TLS is spoken here.*amqp:// may be right"),
        (f"amqp://guest:{CANARY}@{HOST}:{tls_port}/{vhost}", "E111 .*TLS is wanted here; write amqps://"),
        (f"amqps://guest:{CANARY}@{HOST}:{tls_port}/{vhost}", "E111 .*certificate"),
    )


def test_a_queue_of_rabbitmq_that_is_somebody_elses(rabbitmq: RabbitPlace, say: Say) -> None:
    rabbitmq.server.call(
        f'rabbit_amqqueue:declare({{resource, <<"{rabbitmq.vhost}">>, queue, <<"echo.tasks">>}}, '
        'true, false, [], none, <<"test">>), ok'
    )
    said = say(rabbitmq.url, *START)
    assert said.code == 2
    assert re.match("E112 .*inequivalent arg 'x-queue-type'.*rabbitmqctl delete_queue", said.line), said.err


def test_kafka_without_tls_and_passwords(shared_kafka: str, say: Say) -> None:
    at = shared_kafka.removeprefix("kafka://")
    assert_refused(
        say,
        (f"kafka+ssl://{at}", "E111 .*without TLS the scheme is kafka://"),
        (f"kafka://user:{CANARY}@{at}", "E112 .*takes no user and password"),
        (f"{shared_kafka}?mechanism=MAGIC", "E110 .*mechanism must be one of"),
    )


@pytest.mark.timeout(300)  # it starts a Kafka, and works with it
def test_kafka_with_tls_and_passwords_serves_who_has_both_and_tells_the_others_why(
    start_kafka: Callable[..., KafkaServer], say: Say
) -> None:
    password = "p@ss/w%rd:"
    server = start_kafka(users={"root": password, "weak": CANARY}, is_tls=True)
    at = f"{HOST}:{server.port}"
    assert_refused(
        say,
        (f"kafka://root:{CANARY}@{at}", r"E111 .*want TLS \(kafka\+ssl://\)"),
        (f"kafka+ssl://root:{CANARY}@{at}", "E111 .*name its authority"),
        (f"kafka+ssl://root:{CANARY}@{at}?ca={server.ca}", "E112 .*Invalid username or password"),
    )
    for words in (("doctor",), START, ("run", "--app", APP, "echo", "x")):
        said = say(f"kafka+ssl://weak:{CANARY}@{at}?ca={server.ca}", *words, "--store", "memory://")
        assert said.code == 2
        assert re.match("E112 .* may not .*--allow-principal User:weak", said.line), said.err
    asyncio.run(is_refused_a_topic(f"kafka+ssl://weak:{CANARY}@{at}?ca={server.ca}"))
    asyncio.run(is_served(f"kafka+ssl://root:{quote(password, safe='')}@{at}?partitions=2&ca={server.ca}"))


async def is_refused_a_topic(url: str) -> None:
    weak = kafka.connect(url, consumer_id="b", namespace="", lease=10.0)
    with pytest.raises(BrokerRefused, match="may not make it"):
        await weak.open([TopicSpec("other.tasks")])
    (refusal,) = await weak.publish([Outgoing("other.tasks", b"x", "1")])
    assert isinstance(refusal, Refusal)
    await weak.close()
    plane = wiring.control(url, namespace="")
    with pytest.raises(BrokerRefused, match="the control plane is not ours to use"):
        await plane.open()
        await plane.publish("murmur.beats", b"x")
    await plane.close()


def test_what_kafka_does_not_take_for_its_size(kafka_url: str, say: Say) -> None:
    async def make() -> None:
        link = KafkaLink(BrokerURL.parse(kafka_url), client_id="operator")
        await link.open()
        settings: dict[str, Any] = {"max.message.bytes": "1000", "retention.ms": "-1"}
        await link.admin.create_topics([NewTopic("small.echo.tasks", 1, 1, topic_configs=settings)])
        await link.close()

    asyncio.run(make())
    said = say(kafka_url, "run", "--namespace", "small", "--app", APP, "echo", "x" * 5_000)
    assert said.code == 2
    assert re.match(r"E207 .*echo.tasks takes no message of [\d,]+ bytes: raise its max.message.bytes", said.line)
