"""CONNECT of HTTP, as `socksclient.testing.SocksServer` speaks it: raw octets on a socket."""

from __future__ import annotations

import socket

import pytest

from socksclient import Proxy, create_connection
from socksclient.testing import SocksServer

from helpers.raw_clients import http_head, talk
from helpers.support import (
    GREETING,
    LONG,
    REFUSED_PORT,
    Address,
    assert_echoes,
    receive_exactly,
)

REFUSED = http_head("HTTP/1.1 502 Bad Gateway", "Via: SocksServer")
UNAUTHORIZED = http_head(
    "HTTP/1.1 407 Proxy Authentication Required",
    "Via: SocksServer",
    'Proxy-Authenticate: Basic realm="SocksServer"',
)


@pytest.mark.parametrize("line", ["GET http://h/ HTTP/1.1", "COPY / HTTP/1.0"])
def test_http_refuses_methods_other_than_connect(line: str) -> None:
    with SocksServer() as server:
        refused = http_head("HTTP/1.1 405 Method Not Allowed", "Via: SocksServer")
        talk(server, (http_head(line), refused))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost"])
def test_http_answers_502_if_the_destination_refuses(host: str) -> None:
    target = f"{host}:{REFUSED_PORT}"
    with SocksServer() as server:
        talk(server, (http_head(f"CONNECT {target} HTTP/1.1", f"Host: {target}"), REFUSED))
        [seen] = server.requests
        assert seen.destination == (host.strip("[]"), int(target.rpartition(":")[2]))
        assert (seen.protocol, seen.username, seen.reply) == ("HTTP", None, 502)


@pytest.mark.parametrize("name", ["name.invalid", "n" * 64, "a..b"])
def test_http_answers_502_if_the_name_has_no_address(name: str) -> None:
    with SocksServer() as server:
        talk(server, (http_head(f"CONNECT {name}:80 HTTP/1.1"), REFUSED))


def test_http_reads_a_head_that_comes_octet_by_octet_and_no_further(greeter: Address) -> None:
    with SocksServer(routes={("name.test", 80): greeter}) as server:
        with socket.create_connection(server.address, LONG) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for octet in b"CONNECT name.test:80 HTTP/1.1\r\nX: y\r\n\r\ntoken":
                sock.send(bytes([octet]))
            head = b"HTTP/1.1 200 OK\r\nVia: SocksServer\r\n\r\n"
            assert receive_exactly(sock, len(head)) == head
            assert receive_exactly(sock, len(GREETING) + 5) == GREETING + b"token"


def test_http_without_accounts_accepts_a_bearer_token(echo_server: Address) -> None:
    headers = {"Proxy-Authorization": "Bearer t0ken"}
    with SocksServer() as server:
        proxy = Proxy(*server.address, scheme="http", headers=headers)
        with create_connection(echo_server, LONG, proxy=proxy) as sock:
            assert_echoes(sock)
        [seen] = server.requests
    assert (seen.username, seen.password) == (None, None)
    assert b"\r\nProxy-Authorization: Bearer t0ken\r\n" in seen.received


@pytest.mark.parametrize(
    "field",
    [
        "X: y",
        "Proxy-Authorization: Basic dXNlcjo=",
        "Proxy-Authorization: Basic dXNlcjp3cm9uZw==",
        "Proxy-Authorization: Basic OnBhc3M=",
        "Proxy-Authorization: Bearer t0ken",
    ],
)
def test_http_answers_407_to_credentials_of_no_account(field: str) -> None:
    with SocksServer(accounts={"user": "pass"}) as server:
        talk(server, (http_head("CONNECT name.test:80 HTTP/1.1", field), UNAUTHORIZED))
        assert server.requests[0].destination == ("name.test", 80)


def test_http_accepts_and_records_the_credentials_of_an_account() -> None:
    field = "proxy-AUTHORIZATION: Basic dXNlcjpwYTpzcw=="
    with SocksServer(accounts={"user": "pa:ss"}) as server:
        request = http_head(f"CONNECT 127.0.0.1:{REFUSED_PORT} HTTP/1.1", field)
        talk(server, (request, REFUSED))
        assert (server.requests[0].username, server.requests[0].password) == ("user", "pa:ss")
