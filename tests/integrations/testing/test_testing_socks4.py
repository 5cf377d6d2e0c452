"""SOCKS4 and 4A, as `socksclient.testing.SocksServer` speaks them: raw octets on a socket."""

from __future__ import annotations

import socket

import pytest

from socksclient.testing import SocksServer

from helpers.raw_clients import NOWHERE, talk
from helpers.support import (
    LONG,
    REFUSED_PORT,
    Address,
    receive_exactly,
)


def test_socks4_replies_5b_if_the_destination_refuses() -> None:
    port = REFUSED_PORT.to_bytes(2, "big").hex()
    with SocksServer() as server:
        talk(server, (f"04 01 {port} 7f 00 00 01 6d 65 00", "00 5b 00 00 00 00 00 00"))
        [seen] = server.requests
        assert (seen.protocol, seen.username, seen.reply) == ("SOCKS4", "me", 0x5B)
        assert seen.address_type is None
        assert seen.methods is None


@pytest.mark.parametrize("name", ["name.invalid", "n" * 64, "a..b", ""])
def test_socks4_replies_5b_if_the_name_has_no_address(name: str) -> None:
    with SocksServer() as server:
        request = f"04 01 00 50 00 00 00 01 00 {name.encode().hex()} 00"
        talk(server, (request, "00 5b 00 00 00 00 00 00"))
        assert server.requests[0].destination == (name, 80)


def test_socks4_reads_a_request_that_comes_octet_by_octet(echo_server: Address) -> None:
    with SocksServer(routes={("name.test", 80): echo_server}) as server:
        with socket.create_connection(server.address, LONG) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for octet in b"\x04\x01\x00\x50\x00\x00\x00\xffme\x00name.test\x00token":
                sock.send(bytes([octet]))
            assert receive_exactly(sock, 2) == b"\x00\x5a"
            assert receive_exactly(sock, 6 + 5)[-5:] == b"token"


@pytest.mark.parametrize("user", ["", "6d", "6d 65 65", "ff"])
def test_socks4_replies_5d_to_an_unknown_user_id(user: str) -> None:
    with SocksServer(accounts={"me": "pass"}) as server:
        talk(server, (f"04 01 00 50 7f 00 00 01 {user} 00", "00 5d 00 00 00 00 00 00"))


@pytest.mark.parametrize("command", ["00", "09", "f2"])
def test_socks4_refuses_an_unknown_command(command: str) -> None:
    with SocksServer() as server:
        talk(server, (f"04 {command} 00 50 7f 00 00 01 00", "00 5b 00 00 00 00 00 00"))


def test_socks4_refuses_udp_associate() -> None:
    with SocksServer() as server:
        talk(server, ("04 03 00 00 00 00 00 00 00", "00 5b 00 00 00 00 00 00"))


def test_bind_is_refused_if_the_name_has_no_address() -> None:
    with SocksServer() as server:
        name = b"name.invalid".hex()
        talk(server, (f"04 02 00 50 00 00 00 01 00 {name} 00", "00 5b 00 00 00 00 00 00"))
        request = f"05 02 00 03 0c {name} 00 50"
        talk(server, ("05 01 00", "05 00"), (request, f"05 04 00 {NOWHERE}"))


def test_socks4_sends_both_replies_to_bind() -> None:
    with SocksServer() as server, socket.create_connection(server.address, LONG) as sock:
        sock.sendall(bytes.fromhex("04 02 00 00 7f 00 00 01 00"))
        first = receive_exactly(sock, 8)
        assert first[:2] + first[4:] == bytes.fromhex("00 5a 7f 00 00 01")
        address = ("127.0.0.1", int.from_bytes(first[2:4], "big"))
        with socket.create_connection(address, LONG) as peer:
            port = peer.getsockname()[1].to_bytes(2, "big")
            assert receive_exactly(sock, 8) == b"\x00\x5a" + port + b"\x7f\x00\x00\x01"
            peer.sendall(b"token")
            assert receive_exactly(sock, 5) == b"token"
        assert server.requests[0].second_reply == 0x5A
        assert server.requests[0].peer == ("127.0.0.1", int.from_bytes(port, "big"))


def test_socks4_bind_refuses_a_peer_from_another_address() -> None:
    with SocksServer() as server, socket.create_connection(server.address, LONG) as sock:
        sock.sendall(bytes.fromhex("04 02 00 00 7f 00 00 02 00"))
        port = int.from_bytes(receive_exactly(sock, 8)[2:4], "big")
        with socket.create_connection(("127.0.0.1", port), LONG) as peer:
            assert receive_exactly(sock, 8)[:2] == b"\x00\x5b"
            assert peer.recv(1) == sock.recv(1) == b""


def test_socks4_bind_listens_at_ipv4_for_a_name_with_ipv6_first(
    names: dict[str, list[str]],
) -> None:
    names.update({"peer.test": ["::1", "127.0.0.1"], "127.0.0.1": ["127.0.0.1"]})
    with SocksServer() as server, socket.create_connection(server.address, LONG) as sock:
        sock.sendall(bytes.fromhex("04 02 00 00 00 00 00 01 00") + b"peer.test\0")
        reply = receive_exactly(sock, 8)
        with socket.socket() as peer:
            host = socket.inet_ntoa(reply[4:]).replace("0.0.0.0", "127.0.0.1")
            peer.connect((host, int.from_bytes(reply[2:4], "big")))
            assert receive_exactly(sock, 2) == b"\x00\x5a"
