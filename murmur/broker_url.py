"""One parser for the URLs of brokers and stores, which never shows a password.

Every adapter gets its host, credentials and options from here, decoded once: clients differ
in whether they percent-decode. The text form is redacted, so that a URL may be logged.
"""

import ssl
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import field, frozen

from murmur.errors import BadURL
from murmur.nearest import nearest
from murmur.redaction import protect

SCHEMES: Final = ("redis", "rediss", "unix", "nats", "tls", "kafka", "kafka+ssl", "amqp", "amqps", "memory", "sqlite")
_PORTS: Final = {
    "redis": 6379,
    "rediss": 6379,
    "nats": 4222,
    "tls": 4222,
    "kafka": 9092,
    "kafka+ssl": 9093,
    "amqp": 5672,
    "amqps": 5671,
}
_REDIS: Final = ("redis", "rediss", "unix")
_TLS: Final = ("rediss", "tls", "kafka+ssl", "amqps")
_HIDDEN: Final = "***"


@frozen
class BrokerURL:
    """A parsed URL. `str()` and `repr()` show everything but the password and secret options."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    options: dict[str, str] = field(factory=dict, repr=False)
    raw: str = field(default="", repr=False)  # as typed, for clients that parse URLs themselves

    @classmethod
    def parse(cls, text: str) -> "BrokerURL":
        """Return the URL in `text`. Raises `BadURL`, which names what is wrong and the nearest scheme."""
        scheme, separator, rest = text.partition("://")
        if not separator:
            raise BadURL(url=_redact(text), problem="expected scheme://host, for instance redis://localhost:6379")
        if scheme not in SCHEMES:
            likely = ", ".join(f"{one}://" for one in nearest(scheme, SCHEMES))
            raise BadURL(url=_redact(text), problem=f"unknown scheme {scheme!r}; known, nearest first: {likely}")
        before, _, query = rest.partition("?")
        authority, slash, path = before.partition("/")
        userinfo, _, addresses = authority.rpartition("@")
        user, _, password = userinfo.partition(":")
        given = dict(parse_qsl(query))
        for secret in (password, unquote(password), *(value for name, value in given.items() if _is_secret(name))):
            protect(secret)
        return cls(
            scheme=scheme,
            hosts=tuple(_host(text, scheme, address) for address in addresses.split(",") if address),
            path=slash + path,
            username=unquote(user) or None,
            password=unquote(password) or None,
            options=given,
            raw=text,
        )

    def __str__(self) -> str:
        return _redact(self.raw)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its hosts as clients want them: "host:port", IPv6 in brackets."""
        return tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)

    @property
    def is_tls(self) -> bool:
        """Whether the connection is to be encrypted, and the host's certificate verified."""
        return self.scheme in _TLS

    def channel(self, name: str) -> str:
        """Return what a broadcast is called there. Redis has databases, its channels do not: they need the number."""
        said = self.options.get("db") or ("" if self.scheme == "unix" else self.path.replace("/", ""))
        database = int(said) if self.scheme in _REDIS and said.isdigit() else 0
        return f"{name}@{database}" if database else name

    def tls(self) -> ssl.SSLContext | None:
        """Return what verifies the host, None for a plain connection. Blocking: reads files.

        Options of the URL: `ca` (file of trusted certificates, default the system's), `cert` and `key` (ours).
        Raises: BadURL, when one of the files cannot be used.
        """
        if not self.is_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.options.get("ca"))
            if "cert" in self.options:
                context.load_cert_chain(self.options["cert"], self.options.get("key"))
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(f"{name}={self.options[name]}" for name in ("ca", "cert", "key") if name in self.options)
            raise BadURL(url=str(self), problem=f"its certificates cannot be used ({files}): {error}") from None
        return context


def _host(text: str, scheme: str, address: str) -> tuple[str, int]:
    if scheme in ("memory", "sqlite", "unix"):
        return (address, 0)
    try:
        parts = urlsplit(f"//{address}")
        port = parts.port
    except ValueError:
        raise BadURL(url=_redact(text), problem=f"{address.rpartition(':')[2]!r} is not a port (0 to 65535)") from None
    if not parts.hostname:
        raise BadURL(url=_redact(text), problem="no host; write scheme://host:port")
    return (parts.hostname, port or _PORTS[scheme])


def _redact(text: str) -> str:
    """Return `text` with the password of its user part, and secret-looking options, replaced."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    authority, mark, tail = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    if at and ":" in userinfo:
        userinfo = f"{userinfo.partition(':')[0]}:{_HIDDEN}"
    head, question, query = (host + mark + tail).partition("?")
    if question:
        pairs = (pair.partition("=") for pair in query.split("&"))
        query = "&".join(f"{k}{eq}{_HIDDEN if _is_secret(k) else v}" for k, eq, v in pairs)
    return f"{scheme}{separator}{userinfo}{at}{head}{question}{query}"


def _is_secret(option: str) -> bool:
    return any(word in option.lower() for word in ("password", "secret", "token", "passwd"))
