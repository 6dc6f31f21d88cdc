"""The Kafka launcher gives one server to all who come to one place, and takes it away behind the last."""

import socket
from pathlib import Path

import pytest

from tests.brokers.fixtures import require
from tests.brokers.kafka_server import KafkaServer, shared_server


def is_served(url: str) -> bool:
    host, _, port = url.removeprefix("kafka://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_those_who_share_a_folder_share_a_server_that_goes_with_the_last(tmp_path: Path) -> None:
    require(KafkaServer)
    with shared_server(tmp_path) as first:
        with shared_server(tmp_path) as second:
            assert second == first
            assert is_served(first)
        assert is_served(first)
    assert not is_served(first)


def test_a_shared_server_that_is_gone_is_started_again_for_who_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(KafkaServer, "start", lambda server: started.append(server.url))
    for _ in range(2):
        with shared_server(tmp_path):
            pass
    assert len(started) == 2
