"""The messages of SOCKS4 and 4A, and which addresses they carry."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from socksclient import ProtocolError, ReplyError
from socksclient.protocol import socks4
from socksclient.protocol.address import Host
from socksclient.protocol.codes import Command, Socks4Reply

PAIRS = [bytes(pair) for pair in itertools.product(range(256), repeat=2)]


@pytest.mark.parametrize(
    ("host", "port", "username", "message"),
    [
        ("192.0.2.1", 80, "me", "0401 0050 c0000201 6d65 00"),
        ("example.com", 80, "", "0401 0050 00000001 00 6578616d706c652e636f6d 00"),
        ("example.com", 443, "me", "0401 01bb 00000001 6d65 00 6578616d706c652e636f6d 00"),
        ("192.0.2.1", 65535, "", "0401 ffff c0000201 00"),
        ("0.0.0.0", 1, "ü", "0401 0001 00000000 c3bc 00"),
        ("127.1", 80, "", "0401 0050 00000001 00 3132372e31 00"),
    ],
)
def test_a_request_of_socks4(host: str, port: int, username: str, message: str) -> None:
    octets = bytes.fromhex(message)
    for command in Command:
        sent = socks4.encode_request(command, Host.parse(host), port, username)
        assert sent == octets[:1] + bytes([command]) + octets[2:]


def test_replies_of_socks4_are_judged_by_their_first_two_octets() -> None:
    for pair in PAIRS:
        version, code = pair
        for octets in (pair, pair + bytes(6), pair + b"\xff" * 9):
            if (version, code) == (0x00, Socks4Reply.GRANTED):
                socks4.check_reply(octets)
                continue
            with pytest.raises(ProtocolError if version else ReplyError):
                socks4.check_reply(octets)


@given(st.ip_addresses(v=4).map(str), st.integers(0, 0xFFFF))
def test_the_address_of_a_reply_of_socks4(host: str, port: int) -> None:
    request = socks4.encode_request(Command.CONNECT, Host.parse(host), port, "")
    assert socks4.decode_address(request[2:8]) == (host, port)


@pytest.mark.parametrize(
    ("host", "carried"),
    [
        ("0.0.0.0", True),
        ("0.0.0.1", False),
        ("0.0.0.255", False),
        ("0.0.1.0", True),
        ("192.0.2.1", True),
        ("255.255.255.255", True),
        ("::", False),
        ("2001:db8::1", False),
        ("::ffff:192.0.2.1", False),
        ("example.com", False),
        ("127.1", False),
    ],
)
def test_which_addresses_socks4_carries(host: str, carried: bool) -> None:
    assert socks4.Socks4().carries(Host.of(host)) == carried
