"""Invalid arguments raise ValueError before any octet is sent; `test_proxy.py` tests `Proxy`."""

from __future__ import annotations

import re
from functools import partial

import anyio
import pytest

from socksclient import create_connection
from socksclient.anyio import connect_socket
from socksclient.testing import SocksServer

from helpers.support import Address, Dial, assert_echoes, resolved_names


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (("", 80), "host is empty"),
        (("n" * 256, 80), "host is 256 octets long"),
        (("nul\0.example", 80), r"has '\x00' in it"),
        (("bü cher.example", 80), "not a valid internationalised name"),
        (("ü" * 64 + ".example", 80), "not a valid internationalised name"),
        (("fe80::1%eth0", 80), "zone id"),
        (("[fe80::1%eth0]", 80), "zone id"),
        (("name.example:80", 80), "has ':' in it"),
        (("[name.example]", 80), "in brackets but is not an IPv6 address"),
        (("name.example", 0), "port 0"),
        (("name.example", -1), "port -1"),
        (("name.example", 65536), "port 65536"),
        (("name.example", "80"), "port must be an integer, not '80'"),
        (("name.example", 80.5), "port must be an integer, not 80.5"),
    ],
)
def test_invalid_destination(dial: Dial, address: Address, words: str) -> None:
    with SocksServer() as server:
        for url in (server.url, server.url.replace("socks5h", "socks5")):
            with pytest.raises(ValueError, match=re.escape(words)):
                dial(address, proxy=url)
        assert server.connections == []


def test_local_address_refuses_name() -> None:
    # It would be resolved by bind, beyond every deadline.
    with SocksServer() as server:
        with pytest.raises(ValueError, match="must be an IP address, not 'localhost'"):
            create_connection(("192.0.2.1", 80), source_address=("localhost", 0), proxy=server.url)
        connect = partial(connect_socket, "192.0.2.1", 80, proxy=server.url, local_host="a.test")
        with pytest.raises(ValueError, match=r"must be an IP address, not 'a\.test'"):
            anyio.run(connect)
        assert server.connections == []


def test_local_address_empty(echo_server: Address) -> None:
    with SocksServer() as server:
        with create_connection(echo_server, source_address=("", 0), proxy=server.url) as sock:
            assert_echoes(sock)


def test_invalid_proxy(dial: Dial) -> None:
    with pytest.raises(ValueError, match="scheme"):
        dial(("192.0.2.1", 80), proxy="127.0.0.1:1080")
    with pytest.raises(TypeError, match=r"proxy must be a str, a .* not int in a bytes"):
        dial(("192.0.2.1", 80), proxy=b"socks5h://127.0.0.1:1080")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "sent", "address_type"),
    [
        ("name_with.underscore.example.", "name_with.underscore.example.", 0x03),
        ("UPPER.example", "UPPER.example", 0x03),
        ("bücher.example", "xn--bcher-kva.example", 0x03),
        ("127.1", "127.1", 0x03),
        ("n" * 255, "n" * 255, 0x03),
        ("127.0.0.1", "127.0.0.1", 0x01),
        ("[::1]", "::1", 0x04),
        ("0:0::0:1", "::1", 0x04),
    ],
)
def test_destination_octets(
    dial: Dial, echo_server: Address, host: str, sent: str, address_type: int
) -> None:
    with SocksServer(routes={(sent, 80): echo_server}) as server:
        with dial((host, 80), proxy=server.url) as sock:
            assert_echoes(sock)
        assert server.requests[0].destination == (sent, 80)
        assert server.requests[0].address_type == address_type


@pytest.mark.parametrize(
    ("userinfo", "username", "password"),
    [
        ("user:pass", "user", "pass"),
        ("user", "user", ""),
        ("user:", "user", ""),
        (":pass", "", "pass"),
        (":", "", ""),
        ("%C3%BCser:p%40%3A%2F%25%F0%9F%94%91", "üser", "p@:/%🔑"),
        ("u" * 255 + ":" + "p" * 255, "u" * 255, "p" * 255),
        ("%C3%BC" * 127 + ":" + "p" * 128, "ü" * 127, "p" * 128),
    ],
)
def test_credentials_octets(
    dial: Dial, echo_server: Address, userinfo: str, username: str, password: str
) -> None:
    with SocksServer(accounts={username: password}) as server:
        host, port = server.address
        with dial(echo_server, proxy=f"socks5h://{userinfo}@{host}:{port}") as sock:
            assert_echoes(sock)
        [request] = server.requests
        assert request.methods == b"\x00\x02"
        assert (request.username, request.password) == (username, password)


def test_onion_proxy_is_refused(dial: Dial) -> None:
    with resolved_names() as resolved:
        with pytest.raises(ValueError, match=r"abc\.onion is known to Tor only"):
            dial(("192.0.2.1", 80), proxy="socks5h://abc.onion")
    assert resolved == []


def test_onion_proxy_behind_tor(echo_server: Address) -> None:
    with SocksServer() as tor:
        tor.routes["abc.onion", 1080] = tor.address
        with create_connection(echo_server, proxy=[tor.url, "socks5h://abc.onion"]) as sock:
            assert_echoes(sock)
