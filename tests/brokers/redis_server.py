"""A real Redis: with or without an append-only file, a password, a Unix socket, TLS."""

import socket
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from tests.brokers.certificates import Certificates
from tests.brokers.server import HOST, Server, free_port

_PATIENCE: Final = 1.0  # seconds for one command of ours

Fsync = Literal["always", "everysec", "no"]


class RedisServer(Server):
    """One redis-server; `aof=True` keeps what it answered through `kill()`, else all is lost with it."""

    name = "Redis"
    binary = "redis-server"
    get_it = "apt-get install redis-server"

    def __init__(
        self,
        folder: Path,
        *,
        aof: bool = False,
        fsync: Fsync = "everysec",
        password: str | None = None,
        unix: bool = False,
        tls: Certificates | None = None,
    ) -> None:
        super().__init__(folder)
        self.aof = aof
        self.fsync = fsync
        self.password = password
        self.socket_file = folder / "redis.sock" if unix else None
        self.tls = tls
        self.tls_port = free_port() if tls else 0

    @property
    def url(self) -> str:
        """The TCP address, database 0."""
        return f"redis://{self._credentials()}{HOST}:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """The address of its Unix socket, database 0; it must have been made with `unix=True`."""
        if self.socket_file is None:
            raise ValueError("this Redis has no Unix socket; make it with unix=True")
        return f"unix://{self._credentials()}{self.socket_file}?db=0"

    @property
    def tls_url(self) -> str:
        """Where it speaks TLS, to clients with a certificate only; it must have been made with `tls`."""
        if self.tls is None:
            raise ValueError("this Redis speaks no TLS; make it with tls=Certificates")
        tls = self.tls
        files = f"ca={tls.ca}&cert={tls.client_certificate}&key={tls.client_key}"
        return f"rediss://{self._credentials()}{HOST}:{self.tls_port}/0?{files}"

    def command(self) -> list[str]:
        """Run in the foreground from a file, so that the password is in no process list."""
        settings = [
            f"bind {HOST}",
            f"port {self.port}",
            f'dir "{self.folder}"',
            "daemonize no",
            'save ""',
            f"appendonly {'yes' if self.aof else 'no'}",
            f"appendfsync {self.fsync}",
        ]
        if self.password is not None:
            settings.append(f"requirepass {_quoted(self.password)}")
        if self.socket_file is not None:
            settings.append(f'unixsocket "{self.socket_file}"')
        if self.tls is not None:
            settings += [
                f"tls-port {self.tls_port}",
                f"tls-cert-file {self.tls.certificate}",
                f"tls-key-file {self.tls.key}",
                f"tls-ca-cert-file {self.tls.ca}",
                "tls-auth-clients yes",
            ]
        file = self.folder / "redis.conf"
        file.touch(mode=0o600)
        file.write_text("\n".join(settings) + "\n")
        return [self.binary, str(file)]

    def answers(self) -> bool:
        """Say whether it takes commands: neither unreachable nor still reading its file."""
        try:
            return self.call("PING") == "PONG"
        except (OSError, RedisRefused):
            return False

    def flush(self) -> None:
        """Forget every key of every database."""
        self.call("FLUSHALL", "ASYNC")

    def call(self, *words: str) -> str:
        """Send one command on a connection of its own; return the first line of the answer.

        Raises: RedisRefused, on an error answer; OSError, when it cannot be reached in a second.
        """
        with socket.create_connection((HOST, self.port), timeout=_PATIENCE) as link, link.makefile("rb") as lines:
            if self.password is not None:
                link.sendall(_encoded("AUTH", self.password))
                _first_line(lines.readline())
            link.sendall(_encoded(*words))
            return _first_line(lines.readline())

    def _credentials(self) -> str:
        return "" if self.password is None else f":{quote(self.password, safe='')}@"


class RedisRefused(Exception):
    """Redis answered with an error."""


def _encoded(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n".encode()]
    for word in words:
        content = word.encode()
        parts.append(b"$%d\r\n%s\r\n" % (len(content), content))
    return b"".join(parts)


def _first_line(line: bytes) -> str:
    text = line.decode().rstrip("\r\n")
    if not text:
        raise ConnectionResetError("Redis closed the connection")
    if text.startswith("-"):
        raise RedisRefused(text[1:])
    return text[1:]


def _quoted(text: str) -> str:
    """Return a string as the configuration file wants it: every byte as its code."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'
