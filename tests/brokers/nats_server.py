"""A real NATS with JetStream on files: with or without a password, limited users, TLS."""

import json
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.brokers.server import HOST, Server

_PATIENCE: Final = 1.0  # seconds for one exchange of ours
_ALSO: Final = "/usr/sbin"  # where Debian puts it, which is not on everybody's PATH


class NatsServer(Server):
    """One nats-server. What it acknowledged outlives `kill()`; `jetstream=False` keeps nothing at all."""

    name = "NATS"
    binary = "nats-server"
    get_it = "apt-get install nats-server"

    def __init__(
        self,
        folder: Path,
        *,
        jetstream: bool = True,
        password: str | None = None,
        permissions: Mapping[str, object] | None = None,
        certificate: tuple[Path, Path] | None = None,
        authority: Path | None = None,
        settings: str = "",
    ) -> None:
        """Settle how it will run.

        Args:
            folder: where its files go.
            jetstream: whether it keeps streams.
            password: of the user "user", the only one.
            permissions: what that user may do, as NATS writes it: {"publish": {"deny": [...]}}.
            certificate: files of a certificate and its key; with them it wants TLS.
            authority: a file; with it clients must have a certificate, too, signed by that.
            settings: more lines of its configuration.
        """
        super().__init__(folder)
        self.jetstream = jetstream
        self.password = password
        self.permissions = permissions
        self.certificate = certificate
        self.authority = authority
        self.settings = settings

    @classmethod
    def found(cls) -> str | None:
        """Return where the binary is; None if it is not installed."""
        return shutil.which(cls.binary, path=f"{os.environ.get('PATH', '')}{os.pathsep}{_ALSO}")

    @classmethod
    def is_installed(cls) -> bool:
        """Say whether the binary is where Debian or the PATH has it."""
        return cls.found() is not None

    @property
    def url(self) -> str:
        """Its address."""
        credentials = "" if self.password is None else f"user:{quote(self.password, safe='')}@"
        return f"{'tls' if self.certificate else 'nats'}://{credentials}{HOST}:{self.port}"

    def command(self) -> list[str]:
        """Run in the foreground from a file, so that the password is in no process list."""
        lines = [f"listen: {HOST}:{self.port}", 'server_name: "test"']
        if self.jetstream:
            lines.append(f"jetstream {{ store_dir: {json.dumps(str(self.folder / 'store'))} }}")
        if self.password is not None:
            user = {"user": "user", "password": self.password, "permissions": self.permissions or {}}
            lines.append(f"authorization {{ users: [ {json.dumps(user)} ] }}")
        if self.certificate is not None:
            certificate, key = self.certificate
            tls: dict[str, object] = {"cert_file": str(certificate), "key_file": str(key)}
            if self.authority is not None:
                tls |= {"ca_file": str(self.authority), "verify": True}
            lines.append(f"tls {json.dumps(tls)}")
        file = self.folder / "nats.conf"
        file.touch(mode=0o600)
        file.write_text("\n".join([*lines, self.settings]) + "\n")
        return [self.found() or self.binary, "-c", str(file)]

    def answers(self) -> bool:
        """Say whether it greets, and, with JetStream, has read its streams again."""
        try:
            with socket.create_connection((HOST, self.port), timeout=_PATIENCE) as link, link.makefile("rb") as lines:
                greeting = lines.readline()
                if not greeting.startswith(b"INFO "):
                    return False
                if not self.jetstream or b'"auth_required":true' in greeting or self.certificate is not None:
                    return True
                link.sendall(
                    b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n'
                    b"SUB _INBOX.ready 1\r\nPUB $JS.API.INFO _INBOX.ready 0\r\n\r\n"
                )
                while line := lines.readline():
                    if line.startswith((b"MSG", b"HMSG")):
                        return line.startswith(b"MSG")
                return False
        except OSError:
            return False
