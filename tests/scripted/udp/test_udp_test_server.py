"""The UDP relay of `SocksServer`."""

from __future__ import annotations

import socket

import pytest

import socksclient.anyio
from socksclient.testing import SocksServer

from helpers.associations import (
    DATAGRAM,
    Associate,
)
from helpers.support import (
    LONG,
    Address,
    encode_datagram_header,
)


def test_udp_relay_serves_the_first_sender_only(udp_echo: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        datagram = encode_datagram_header(*udp_echo) + b"strange"
        udp.sendto(b"first", udp_echo)
        assert udp.recv() == b"first"
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.sendto(datagram, udp.relay_address)
        udp.sendto(b"second", udp_echo)
        assert udp.recv() == b"second"
        [seen] = server.connections
        assert seen.datagrams == [(udp_echo, b"first"), (udp_echo, b"second")]


def test_udp_relay_does_not_take_a_sender_of_garbage_for_the_client(udp_echo: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"garbage", udp.relay_address)
        udp.sendto(b"datagram", udp_echo)
        assert udp.recv() == b"datagram"


def test_udp_relay_ignores_data_on_the_control_connection(udp_echo: Address) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        udp._association.controls[0].send(b"as no client of ours does")
        udp.sendto(b"datagram", udp_echo)
        assert udp.recv() == b"datagram"


@pytest.mark.parametrize(
    "lost",
    [
        b"no header",
        b"\0\0\x01" + DATAGRAM[3:],
        encode_datagram_header("nowhere.invalid", 53) + b"no such name",
        encode_datagram_header("n" * 64, 53) + b"no name at all",
        encode_datagram_header("255.255.255.255", 53) + b"not allowed",
        encode_datagram_header("127.0.0.1", 1) + b"nobody listens",
    ],
)
def test_udp_relay_outlives_datagrams_that_it_cannot_deliver(
    lost: bytes, udp_echo: Address, names: dict[str, list[str]]
) -> None:
    with SocksServer() as server, socksclient.udp_associate(LONG, proxy=server.url) as udp:
        udp._association.udp.send(lost)
        udp.sendto(b"datagram", udp_echo)
        assert udp.recv() == b"datagram"


def test_udp_relay_resolves_names(
    associate: Associate, udp_echo: Address, names: dict[str, list[str]]
) -> None:
    names["echo.test"] = ["127.0.0.1", "127.0.0.9"]
    with SocksServer() as server:
        talk = associate(server.url)
        talk.send(b"datagram", ("echo.test", udp_echo[1]))
        assert talk.receive() == (b"datagram", udp_echo)
