"""The record that `socksclient.testing.SocksServer` keeps of a connection."""

from __future__ import annotations

from socksclient import create_connection
from socksclient.testing import SocksServer

from helpers.support import (
    Address,
    assert_echoes,
)


def test_record_of_a_connection_by_socks5(echo_server: Address) -> None:
    with SocksServer(accounts={"user": "pass"}) as server:
        with create_connection(echo_server, proxy=server.url) as sock:
            assert_echoes(sock)
            [seen] = server.requests
            assert seen.client == sock.getsockname()
        host, port = echo_server
        assert seen.methods == b"\x00\x02"
        assert (seen.username, seen.password) == ("user", "pass")
        assert (seen.command, seen.address_type) == (0x01, 0x01)
        assert seen.destination == (host, port)
        assert seen.reply == 0x00
        octets = port.to_bytes(2, "big")
        assert (
            seen.received
            == (b"\x05\x02\x00\x02\x01\x04user\x04pass\x05\x01\x00\x01\x7f\x00\x00\x01") + octets
        )
        assert seen.sent.startswith(b"\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01")
        assert [who for who, _ in seen.transcript] == ["client", "server"] * 3


def test_record_of_a_connection_by_socks4(echo_server: Address) -> None:
    with SocksServer(accounts={"me": "pass"}) as server:
        with create_connection(echo_server, proxy=server.url_as("socks4")) as sock:
            assert_echoes(sock)
        [seen] = server.requests
    assert (seen.protocol, seen.command, seen.reply) == ("SOCKS4", 0x01, 0x5A)
    assert (seen.methods, seen.address_type) == (None, None)
    assert (seen.username, seen.password, seen.destination) == ("me", None, echo_server)
    port = echo_server[1].to_bytes(2, "big")
    assert seen.received == b"\x04\x01" + port + b"\x7f\x00\x00\x01me\x00"
    assert seen.sent[:2] == b"\x00\x5a"
    assert [who for who, _ in seen.transcript] == ["client", "server"]


def test_record_of_a_connection_by_http(echo_server: Address) -> None:
    with SocksServer(accounts={"user": "p:w"}) as server:
        with create_connection(echo_server, proxy=server.url_as("http")) as sock:
            assert_echoes(sock)
        [seen] = server.requests
    assert (seen.protocol, seen.command, seen.reply) == ("HTTP", 0x01, 200)
    assert (seen.methods, seen.address_type) == (None, None)
    assert (seen.username, seen.password) == ("user", "p:w")
    assert seen.destination == echo_server
    assert seen.received.startswith(b"CONNECT 127.0.0.1:")
    assert seen.received.endswith(b"\r\n\r\n")
    assert seen.sent == b"HTTP/1.1 200 OK\r\nVia: SocksServer\r\n\r\n"


def test_record_shows_no_password_in_its_repr(echo_server: Address) -> None:
    with SocksServer(accounts={"user": "p4ss"}) as server:
        for scheme in ("socks5h", "http"):
            create_connection(echo_server, proxy=server.url_as(scheme)).close()
        # The transcript has all octets of the handshake, and so has the octets of the password.
        assert [seen.password for seen in server.requests] == ["p4ss", "p4ss"]
        assert "password" not in repr(server.requests)


def test_record_of_connections_by_all_protocols_to_one_server(echo_server: Address) -> None:
    with SocksServer() as server:
        for scheme in ("socks5h", "socks4a", "http", "socks4", "socks5"):
            with create_connection(echo_server, proxy=server.url_as(scheme)) as sock:
                assert_echoes(sock)
        assert [seen.protocol for seen in server.requests] == [
            *("SOCKS5", "SOCKS4", "HTTP", "SOCKS4", "SOCKS5")
        ]


def test_record_has_the_name_that_the_client_sent_despite_a_route(echo_server: Address) -> None:
    with SocksServer(routes={("name.test", 80): echo_server}) as server:
        with create_connection(("name.test", 80), proxy=server.url) as sock:
            assert_echoes(sock)
        assert server.requests[0].destination == ("name.test", 80)
