"""The functions of `socksclient.flows`, which has the names of earlier versions."""

from __future__ import annotations

import re

import pytest

from socksclient import Proxy
from socksclient.flows import check_request, handshake, request
from socksclient.protocol.codes import Command

from helpers.flow_player import (
    BOUND,
    GRANTED_BY_SOCKS4,
    GRANTED_BY_SOCKS5,
    HTTP,
    OPEN,
    SOCKS4,
    SOCKS4A,
    play,
)


def test_flows_request_and_handshake_send_the_command() -> None:
    played = play(
        request(Command.BIND, "192.0.2.1", 80), bytes.fromhex(GRANTED_BY_SOCKS5), least=True
    )
    assert played == (BOUND, ["05020001c00002010050"], b"")
    bind = handshake(SOCKS4, Command.BIND, "192.0.2.1", 80, lambda phase: None)
    played = play(bind, bytes.fromhex(GRANTED_BY_SOCKS4), least=True)
    assert played == (BOUND, ["04020050c00002016d6500"], b"")


@pytest.mark.parametrize(
    ("proxy", "host", "words"),
    [
        (SOCKS4, "::1", "SOCKS4 cannot carry the IPv6 address ::1"),
        (SOCKS4A, "::1", "SOCKS4 cannot carry the IPv6 address ::1"),
        (SOCKS4, "example.com", "socks4 carries addresses only, and 'example.com' is a name"),
    ],
)
def test_flows_handshake_refuses_what_the_protocol_cannot_carry(
    proxy: Proxy, host: str, words: str
) -> None:
    flow = handshake(proxy, Command.CONNECT, host, 80, lambda phase: None)
    with pytest.raises(ValueError, match=re.escape(words)):
        next(flow)


@pytest.mark.parametrize(
    ("proxy", "host", "words"),
    [
        (SOCKS4, "::1", "SOCKS4 cannot carry the IPv6 address ::1"),
        (OPEN, "fe80::1%eth0", "host 'fe80::1%eth0' has a zone id"),
        (HTTP, "example.com", "an HTTP proxy does not support BIND"),
    ],
)
def test_flows_check_request_refuses_what_the_protocol_cannot_carry(
    proxy: Proxy, host: str, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        check_request(proxy, Command.BIND, host)
    check_request(proxy, Command.CONNECT, "example.com")
