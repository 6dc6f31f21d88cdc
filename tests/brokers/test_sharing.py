"""One server is given to all who come to one place, and taken away behind the last."""

from pathlib import Path

from tests.brokers.fixtures import is_open, require
from tests.brokers.redis_server import RedisServer
from tests.brokers.sharing import shared

started: list[int] = []


def start(folder: Path) -> tuple[RedisServer, str]:
    require(RedisServer)
    server = RedisServer(folder)
    server.start()
    started.append(server.port)
    return server, str(server.port)


def serves(port: str) -> bool:
    return is_open(int(port))


def test_those_who_share_a_folder_share_a_server_that_goes_with_the_last(tmp_path: Path) -> None:
    with shared(tmp_path, start, serves) as first:
        with shared(tmp_path, start, serves) as second:
            assert second == first
            assert serves(first)
        assert serves(first)
    assert not serves(first)


def test_one_that_is_gone_is_started_again_for_who_comes_later(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    before = len(started)
    for _ in range(2):
        with shared(folder, start, serves):
            pass
    assert len(started) == before + 2


def test_one_that_died_with_its_starter_is_started_again(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "address").write_text("1")  # nobody listens there
    (folder / "users").mkdir()
    (folder / "users" / "4194305.1").touch()  # no such process: beyond the greatest pid
    with shared(folder, start, serves) as port:
        assert serves(port)
    assert not serves(port)
