"""The faults of `socksclient.testing.SocksServer`."""

from __future__ import annotations

import socket
import time

import pytest

from socksclient import AuthenticationError, create_connection
from socksclient.testing import Faults, SocksServer

from helpers.raw_clients import http_head
from helpers.support import (
    LONG,
    SHORT,
    Address,
    eventually,
    receive_exactly,
)


def test_faults_for_one_connection_after_the_other(echo_server: Address) -> None:
    with SocksServer(faults=[Faults(reply=0x05), Faults(method=0xFF)]) as server:
        for error in (ConnectionRefusedError, AuthenticationError):
            with pytest.raises(error):
                create_connection(echo_server, proxy=server.url)
        for _ in range(2):
            create_connection(echo_server, proxy=server.url).close()


@pytest.mark.parametrize(
    ("faults", "scheme", "sent"),
    [
        (Faults(reply=0x5C), "socks4a", "00 5c 00 00 00 00 00 00"),
        (
            Faults(reply=0x5B, bound_address=("192.0.2.7", 0x1234)),
            "socks4a",
            "00 5b 12 34 c0 00 02 07",
        ),
        (Faults(reply=0x5B, close_after=3), "socks4a", "00 5b 00"),
        (
            Faults(reply=503),
            "http",
            http_head("HTTP/1.1 503 Service Unavailable", "Via: SocksServer"),
        ),
        (Faults(reply=503, close_after=5), "http", b"HTTP/".hex(" ")),
        (Faults(answers={"request": b"\xff"}), "http", "ff"),
        (Faults(answers={"request": b""}, close_after=0), "socks4a", ""),
    ],
    ids=str,
)
def test_faults_in_the_code_of_each_protocol(
    echo_server: Address, faults: Faults, scheme: str, sent: str
) -> None:
    with SocksServer(faults=faults) as server:
        with pytest.raises(OSError, match="proxy"):
            create_connection(echo_server, SHORT, proxy=server.url_as(scheme))
        assert eventually(lambda: server.requests[0].sent == bytes.fromhex(sent))


@pytest.mark.parametrize("scheme", ["socks4a", "http"])
def test_faults_close_after_a_whole_reply_of_socks4_and_http(
    echo_server: Address, scheme: str
) -> None:
    head = "HTTP/1.1 200 OK\r\nVia: SocksServer\r\n\r\n"
    count = 8 if scheme == "socks4a" else len(head)
    with SocksServer(faults=Faults(close_after=count)) as server:
        with create_connection(echo_server, LONG, proxy=server.url_as(scheme)) as sock:
            assert sock.recv(1) == b""


@pytest.mark.parametrize("code", [0x5B, 0x00, 0x5D, 0xFF])
def test_faults_second_reply_to_bind_by_socks4(code: int) -> None:
    faults = Faults(second_reply=code)
    with SocksServer(faults=faults) as server:
        with socket.create_connection(server.address, LONG) as sock:
            sock.sendall(bytes.fromhex("04 02 00 00 00 00 00 00 00"))
            port = int.from_bytes(receive_exactly(sock, 8)[2:4], "big")
            with socket.create_connection(("127.0.0.1", port), LONG):
                assert receive_exactly(sock, 8)[:2] == bytes([0, code])
                assert sock.recv(1) == b""


def test_misbehave_changes_the_faults_of_later_connections(echo_server: Address) -> None:
    with SocksServer() as server:
        create_connection(echo_server, proxy=server.url).close()
        server.misbehave(Faults(reply=0x05))
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                create_connection(echo_server, proxy=server.url)


def test_faults_with_values_that_are_not_valid() -> None:
    for faults in ({"second_reply": 256}, {"method": -1}, {"status": 300}):
        with pytest.raises(ValueError, match="must be between 0 and 255"):
            Faults(**faults)  # type: ignore[arg-type]
    for reply in (-1, 1000):
        with pytest.raises(ValueError, match=f"reply is {reply}, and must be between 0 and 999"):
            Faults(reply=reply)
    with pytest.raises(ValueError, match="stall_after is -1"):
        Faults(stall_after=-1)
    with pytest.raises(ValueError, match="answers has the phase 'response'"):
        Faults(answers={"response": b""})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="not iterable"):
        SocksServer(faults=5)  # type: ignore[arg-type]


def test_faults_drip_waits_before_each_octet() -> None:
    with SocksServer(faults=Faults(drip=0.1)) as server:
        with socket.create_connection(server.address) as sock:
            begin = time.monotonic()
            sock.sendall(b"\x05\x01\x00")
            assert sock.recv(2) == b"\x05"
            assert sock.recv(2) == b"\x00"
            assert time.monotonic() - begin >= 0.2


def test_faults_close_or_reset_after_a_whole_reply_of_socks5(echo_server: Address) -> None:
    for faults in (Faults(close_after=12), Faults(reset_after=12)):
        with SocksServer(faults=faults) as server:
            with create_connection(echo_server, LONG, proxy=server.url) as sock:
                if faults.close_after:
                    assert sock.recv(1) == b""
                else:
                    with pytest.raises(ConnectionResetError):
                        sock.recv(1)


def test_faults_stall_after_a_whole_reply(echo_server: Address) -> None:
    with SocksServer(faults=Faults(stall_after=12)) as server:
        with create_connection(echo_server, SHORT, proxy=server.url) as sock:
            sock.sendall(b"token")
            with pytest.raises(TimeoutError):
                sock.recv(1)


def test_faults_repr_shows_only_the_faults() -> None:
    assert repr(Faults(reply=0, drip=0.5)) == "Faults(drip=0.5, reply=0)"
    assert repr(Faults(answers={"request": b"\x05"})) == "Faults(answers={'request': b'\\x05'})"
