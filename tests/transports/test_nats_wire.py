"""The line protocol of NATS, byte by byte, and what is read off a delivery."""

import asyncio

import pytest

from murmur.transports.nats_link import pause
from murmur.transports.nats_session import delivered, place_of
from murmur.transports.nats_wire import Message, Wire, encoded_headers

pytestmark = pytest.mark.anyio

STREAM = (
    b'INFO {"max_payload":1048576}\r\n'
    b"MSG a.b 7 5\r\nhello\r\n"
    b"PING\r\n"
    b"MSG a.b 7 $JS.ACK.s.c.1.2.3.4.0 0\r\n\r\n"
    b"HMSG a.b 7 back 22 26\r\nNATS/1.0\r\nk: v%20w\r\n\r\nPING\r\n"
    b"HMSG a.b 7 16 16\r\nNATS/1.0 503\r\n\r\n\r\n"
    b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n"
    b"MSG nobody 8 1\r\nx\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1_000])
async def test_what_comes_in_pieces_is_parsed_as_a_whole(size: int) -> None:
    came: list[Message] = []
    errors: list[str] = []
    wire = Wire(on_lost=errors.append, on_error=errors.append)
    wire.subscribers[7] = came.append
    for first in range(0, len(STREAM), size):
        wire.data_received(STREAM[first : first + size])
    assert await wire.greeted == b'INFO {"max_payload":1048576}'
    assert [(one.body, one.reply, dict(one.headers), one.status) for one in came] == [
        (b"hello", b"", {}, 0),
        (b"", b"$JS.ACK.s.c.1.2.3.4.0", {}, 0),
        (b"PING", b"back", {"k": "v w"}, 0),
        (b"", b"", {}, 503),
    ]
    assert errors == ['Permissions Violation for Publish to "x"']


@pytest.mark.parametrize("value", ["", "plain", " spaces ", "100%", "a: b", "\r\nEvil: 1", "ä\u2028☃", "%41"])
def test_a_header_comes_back_as_it_was(value: str) -> None:
    sent = encoded_headers({"Name": value})
    assert sent.count(b"\r\n") == 3
    assert dict(Message(b"", b"", b"", sent).headers) == {"Name": value}


def test_a_strangers_header_harms_nobody() -> None:
    odd = b"NATS/1.0\r\nMurmur-Deliveries: many\r\nMurmur-Delay: nan\r\nno colon\r\n\xff: \xff\r\n\r\n"
    delivery, early = delivered("t", Message(b"t", b"$JS.ACK.s.c.1.2.3.4.0", b"x", odd), lease=None)
    assert (delivery.deliveries, early, delivery.id) == (1, 0.0, "")


def test_the_place_of_a_delivery_is_read_off_both_forms_of_its_reply() -> None:
    old = Message(b"", b"$JS.ACK.stream.workers.3.17.20.1500000000.9", b"")
    new = Message(b"", b"$JS.ACK.domain.hash.stream.workers.3.17.20.1500000000.9.token", b"")
    assert place_of(old) == place_of(new) == (3, 17, 1.5, 9)


def test_a_long_outage_does_not_end_in_a_stampede() -> None:
    assert pause(0.0, 1.0) == pytest.approx(0.1)
    assert pause(10.0, 0.5) == pytest.approx(2.6)
    assert pause(10_000.0, 1.0) == pytest.approx(30.0)


async def test_what_is_sent_in_one_turn_leaves_in_one_write() -> None:
    written: list[bytes] = []

    class Recorder(asyncio.Transport):
        def write(self, data: bytes) -> None:  # type: ignore[override]
            written.append(bytes(data))

    wire = Wire(on_lost=lambda _: None, on_error=lambda _: None)
    wire.connection_made(Recorder())
    wire.publish("a", b"1", reply="r")
    wire.publish("b", b"22", headers=encoded_headers({"k": "v"}))
    wire.ping(lambda: None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert written == [b"PUB a r 1\r\n1\r\nHPUB b 18 20\r\nNATS/1.0\r\nk: v\r\n\r\n22\r\nPING\r\n"]
