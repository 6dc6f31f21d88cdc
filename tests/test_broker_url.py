"""The parser of URLs: hosts, credentials, and what verifies an encrypted host."""

import ssl
from pathlib import Path

import pytest

from murmur.broker_url import BrokerURL
from murmur.errors import BadURL


def test_several_hosts_have_addresses_as_clients_want_them() -> None:
    url = BrokerURL.parse("kafka://b%40b:p%2Fw@one:9093,[::1],two")
    assert url.addresses == ("one:9093", "[::1]:9092", "two:9092")
    assert (url.username, url.password) == ("b@b", "p/w")


@pytest.mark.parametrize("scheme", ["rediss", "tls", "kafka+ssl", "amqps"])
def test_an_encrypted_url_verifies_the_host(scheme: str) -> None:
    context = BrokerURL.parse(f"{scheme}://host").tls()
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_plain_url_verifies_nothing() -> None:
    assert BrokerURL.parse("nats://host").tls() is None


def test_certificates_that_cannot_be_used_are_named_without_a_password(tmp_path: Path) -> None:
    url = BrokerURL.parse(f"amqps://u:s3cret@host?ca={tmp_path}/none.pem")
    with pytest.raises(BadURL, match=r"none\.pem") as caught:
        url.tls()
    assert "s3cret" not in str(caught.value)
