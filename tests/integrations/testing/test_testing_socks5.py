"""SOCKS5, as `socksclient.testing.SocksServer` speaks it: raw octets on a socket."""

from __future__ import annotations

import socket

import pytest

from socksclient import create_connection
from socksclient.testing import SocksServer

from helpers.raw_clients import NOWHERE, talk
from helpers.support import (
    LONG,
    REFUSED_PORT,
    Address,
    assert_echoes,
    eventually,
    receive_exactly,
)


def test_socks5_selects_ff_if_there_is_no_common_method() -> None:
    with SocksServer() as server:
        talk(server, ("05 01 02", "05 ff"))
        talk(server, ("05 00", "05 ff"))
    with SocksServer(accounts={"user": "pass"}) as server:
        talk(server, ("05 02 00 01", "05 ff"))


def test_socks5_refuses_and_records_wrong_credentials() -> None:
    with SocksServer(accounts={"user": "pass"}) as server:
        talk(server, ("05 01 02", "05 02"), ("01 01 75 01 70", "01 01"))
        [connection] = server.connections
        assert (connection.username, connection.password) == ("u", "p")
        assert server.requests == []


def test_socks5_records_a_username_that_is_not_utf8() -> None:
    with SocksServer(accounts={"user": "pass"}) as server:
        talk(server, ("05 01 02", "05 02"), ("01 01 ff 01 fe", "01 01"))
        assert server.connections[0].username == "\\xff"


@pytest.mark.parametrize("said", ["00", "06 01 00", "16 03 01"])
def test_server_closes_the_connection_after_an_unknown_first_octet(said: str) -> None:
    with SocksServer() as server:
        talk(server, (said, ""))
        assert server.connections[0].protocol is None


@pytest.mark.parametrize("command", ["00", "09", "f2"])
def test_socks5_refuses_an_unknown_command(command: str) -> None:
    with SocksServer() as server:
        request = f"05 {command} 00 01 7f 00 00 01 00 50"
        talk(server, ("05 01 00", "05 00"), (request, f"05 07 00 {NOWHERE}"))
        assert server.requests[0].command == int(command, 16)


def test_socks5_ignores_what_a_client_sends_on_the_control_connection() -> None:
    with SocksServer() as server, socket.create_connection(server.address, LONG) as sock:
        sock.sendall(bytes.fromhex("05 01 00" + "05 03 00 01 00 00 00 00 00 00"))
        reply = receive_exactly(sock, 2 + 10)
        sock.sendall(b"said")
        with socket.socket(type=socket.SOCK_DGRAM) as udp:
            udp.connect(("127.0.0.1", int.from_bytes(reply[-2:], "big")))
            udp.send(bytes.fromhex("00 00 00 01 7f 00 00 01 00 09") + b"data")
            received = server.connections[0].datagrams
            assert eventually(lambda: received == [(("127.0.0.1", 9), b"data")])
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


def test_socks5_replies_05_if_the_destination_refuses() -> None:
    port = REFUSED_PORT.to_bytes(2, "big").hex()
    with SocksServer() as server:
        request = f"05 01 00 01 7f 00 00 01 {port}"
        talk(server, ("05 01 00", "05 00"), (request, f"05 05 00 {NOWHERE}"))


@pytest.mark.parametrize("name", ["name.invalid", "n" * 64, "a..b"])
def test_socks5_replies_04_if_the_name_has_no_address(name: str) -> None:
    with SocksServer() as server:
        request = f"05 01 00 03 {len(name):02x} {name.encode().hex()} 00 50"
        talk(server, ("05 01 00", "05 00"), (request, f"05 04 00 {NOWHERE}"))
        assert server.requests[0].destination == (name, 80)


@pytest.mark.parametrize("scheme", ["socks5h", "socks4a", "http"])
def test_server_passes_a_half_close_on_both_ways(echo_server: Address, scheme: str) -> None:
    with SocksServer() as server:
        with create_connection(echo_server, proxy=server.url_as(scheme)) as sock:
            assert_echoes(sock)
