"""A real RabbitMQ with everything of its own: ports, node name, cookie, files. Debian's service is not used.

An operator's commands go through `erl_call`, which asks the node itself: they take milliseconds
where rabbitmqctl takes seconds. A node starts in some five seconds, so tests that do not kill it
share one, over all processes of a run, each in a virtual host of its own.
"""

import itertools
import json
import os
import re
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final
from urllib.parse import quote

from tests.brokers.certificates import Certificates
from tests.brokers.server import HOST, LEASH, Server, ServerFailed, free_port

_SCRIPT: Final = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # what /usr/sbin/rabbitmq-server runs as another user
MAX_MESSAGE: Final = 4_000_000  # bytes, less than we would send
_PATIENCE: Final = 1.0  # seconds for a greeting
_COMMAND_WITHIN: Final = 30.0
_names = itertools.count(1)  # of callers: RabbitMQ refuses two of one name


class RabbitServer(Server):
    """One RabbitMQ node. `settings`: lines of its rabbitmq.conf; `terms`: of its advanced.config, for `rabbit`."""

    name = "RabbitMQ"
    binary = "rabbitmq-server"
    get_it = "apt-get install rabbitmq-server"
    ready_within = 90.0
    stop_within = 30.0

    def __init__(self, folder: Path, *, settings: tuple[str, ...] = (), terms: str = "") -> None:
        super().__init__(folder)
        self.settings, self.terms = settings, terms
        self.registry_port = free_port()
        self.cookie = secrets.token_hex(8)

    @classmethod
    def attached(cls, folder: Path) -> "RabbitServer":
        """Return one that another process of this run started in `folder`."""
        server = cls(folder)
        server.port, server.registry_port, server.cookie = json.loads((folder / "where.json").read_text())
        return server

    @property
    def url(self) -> str:
        """Its default virtual host."""
        return self.at("/")

    def at(self, vhost: str, *, user: str = "guest", password: str = "guest") -> str:
        """Return the URL of a virtual host."""
        place = "" if vhost == "/" else "/" + quote(vhost, safe="")
        return f"amqp://{user}:{quote(password, safe='')}@{HOST}:{self.port}{place}"

    def command(self) -> list[str]:
        """Run the node in the foreground, and beside it the registry that Erlang wants."""
        (self.folder / "rabbitmq.conf").write_text(
            "\n".join(
                (
                    f"listeners.tcp.1 = {HOST}:{self.port}",
                    "loopback_users = none",
                    "disk_free_limit.absolute = 1MB",
                    "vm_memory_high_watermark.absolute = 2GB",
                    f"max_message_size = {MAX_MESSAGE}",
                    "log.console.level = warning",
                    *self.settings,
                )
            )
            + "\n"
        )
        (self.folder / "advanced.config").write_text(f"[{{rabbit, [{self.terms}]}}].\n")
        (self.folder / "enabled_plugins").write_text("[].\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(self.cookie)
        (self.folder / "where.json").write_text(json.dumps([self.port, self.registry_port, self.cookie]))
        registry = f"{sys.executable} -I -S {LEASH} $$ epmd -port {self.registry_port} -address {HOST} &"
        return ["env", *self._environment(), "sh", "-c", f"{registry} exec {_SCRIPT}"]

    def answers(self) -> bool:
        """Say whether it greets, as it does once it serves."""
        try:
            with socket.create_connection((HOST, self.port), timeout=_PATIENCE) as link:
                link.sendall(b"AMQP\x00\x00\x09\x01")
                return link.recv(1) == b"\x01"
        except OSError:
            return False

    def call(self, expression: str) -> str:
        """Evaluate an Erlang expression in the node; return what it is, as Erlang writes it."""
        done = subprocess.run(
            ["erl_call", "-h", f"test{os.getpid()}-{next(_names)}", "-n", self._node, "-c", self.cookie, "-e"],
            input=f"{expression}.\n".encode(),
            env={**os.environ, "ERL_EPMD_PORT": str(self.registry_port), "HOME": str(self.folder)},
            capture_output=True,
            timeout=_COMMAND_WITHIN,
            check=False,
        )
        answer = done.stdout.decode(errors="replace")
        found = re.fullmatch(r"\{ok, (.*)\}", answer, re.DOTALL)
        if found is None:
            raise ServerFailed(f"{self.name} does not know {expression!r}: {answer}{done.stderr.decode()}")
        return found.group(1)

    def sync(self) -> None:
        """Have it write what it knows of its queues: a node killed within half a second of making one cannot use it."""
        self.call("[dets:sync(T) || T <- dets:all()], mnesia:sync_log()")

    def add_vhost(self, vhost: str) -> str:
        """Make a virtual host; return its URL."""
        self.call(
            f'rabbit_vhost:add(<<"{vhost}">>, <<"test">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"guest">>, <<"{vhost}">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>)'
        )
        return self.at(vhost)

    def listen_with_tls(self, tls: Certificates) -> int:
        """Open one more port, which speaks TLS; return it."""
        port = free_port()
        files = f'[{{certfile, "{tls.certificate}"}}, {{keyfile, "{tls.key}"}}]'
        self.call("rabbit_networking:ensure_ssl()")
        self.call(f'rabbit_networking:start_ssl_listener({{"{HOST}", {port}}}, {files}, 1)')
        return port

    def delete_vhost(self, vhost: str) -> None:
        """Forget a virtual host, and all that is in it."""
        self.call(f'rabbit_vhost:delete(<<"{vhost}">>, <<"test">>)')

    def queues(self, vhost: str = "/") -> list[str]:
        """Return the names of its queues."""
        names = f'[binary_to_list(element(4, amqqueue:get_name(Q))) || Q <- rabbit_amqqueue:list(<<"{vhost}">>)]'
        return re.findall(r'"([^"]*)"', self.call(names))

    def delete_queues(self, vhost: str = "/") -> None:
        """Delete every queue of a virtual host, whoever reads it."""
        self.call(
            f'[rabbit_amqqueue:delete(Q, false, false, <<"test">>) || Q <- rabbit_amqqueue:list(<<"{vhost}">>)], ok'
        )

    def connections(self) -> int:
        """Count its clients."""
        return int(self.call("length(rabbit_networking:connections())"))

    @property
    def _node(self) -> str:
        return f"m{self.registry_port}@localhost"

    def _environment(self) -> list[str]:
        folder = self.folder
        settings = {
            "HOME": folder,
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_MNESIA_BASE": folder / "mnesia",
            "RABBITMQ_LOG_BASE": folder / "log",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "enabled_plugins",
            "RABBITMQ_CONFIG_FILE": folder / "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": folder / "advanced.config",
            "RABBITMQ_DIST_PORT": free_port(),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +SDio 2",
            "ERL_EPMD_PORT": self.registry_port,
            "ERL_EPMD_ADDRESS": HOST,
            "RUNNING_UNDER_SYSTEMD": "true",  # so the script becomes the node, and signals reach it
        }
        return [f"{name}={value}" for name, value in settings.items()]
