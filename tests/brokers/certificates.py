"""An authority of a test's own, with a certificate for this host and one for a client, made by openssl."""

import subprocess
from pathlib import Path
from typing import Final

from attrs import frozen

from tests.brokers.server import HOST

_CONFIG: Final = f"""
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[host]
basicConstraints = CA:FALSE
subjectAltName = IP:{HOST}
authorityKeyIdentifier = keyid
[client]
basicConstraints = CA:FALSE
authorityKeyIdentifier = keyid
"""


@frozen
class Certificates:
    """Files in PEM. `stranger` is an authority that signed none of them."""

    ca: Path
    stranger: Path
    certificate: Path
    key: Path
    client_certificate: Path
    client_key: Path


def made_in(folder: Path) -> Certificates:
    """Make all of them."""
    config = folder / "openssl.cnf"
    config.write_text(_CONFIG)

    def make(name: str, kind: str, *more: object) -> tuple[Path, Path]:
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        new = (
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
        )
        words = (
            "openssl",
            "req",
            "-x509",
            "-config",
            config,
            "-extensions",
            kind,
            "-subj",
            f"/CN={name}",
            "-days",
            "2",
        )
        subprocess.run([str(word) for word in (*words, *new, *more)], check=True, capture_output=True, timeout=60)
        return certificate, key

    ca, ca_key = make("authority", "authority")
    stranger, _ = make("stranger", "authority")
    signed = ("-CA", ca, "-CAkey", ca_key)
    return Certificates(ca, stranger, *make("host", "host", *signed), *make("client", "client", *signed))
