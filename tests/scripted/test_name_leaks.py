"""Under socks5h no resolver of this process sees the name of a destination.

The names are caught by an audit hook, below all that Python code could call: socket's functions,
the event loops' and trio's.
"""

from __future__ import annotations

import socket

import anyio
import httpx
import pytest

import socksclient.anyio
from socksclient import AsyncSocksTransport, Flow, Method, Proxy, SocksTransport
from socksclient.testing import Faults, SocksServer

from helpers.origin import Origin
from helpers.support import LONG, Address, Dial, assert_echoes, resolved_names

SECRET = "secret-name.test"


def test_resolved_names_catches_socket_functions() -> None:
    with resolved_names() as names:
        socket.getaddrinfo("localhost", 80)
        socket.gethostbyname("localhost")
        with pytest.raises(OSError, match="known"):
            socket.gethostbyaddr("nowhere.invalid")
    assert names == ["localhost", "localhost", "nowhere.invalid"]


@pytest.mark.anyio
async def test_resolved_names_catches_event_loops() -> None:
    with resolved_names() as names:
        await anyio.getaddrinfo("localhost", 80)
    assert set(names) == {"localhost"}


@pytest.mark.parametrize("proxy_host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("faults", [Faults(), Faults(reply=0x04), Faults(close_after=2)], ids=str)
def test_name_leak_of_sockets(
    dial: Dial, echo_server: Address, proxy_host: str, faults: Faults
) -> None:
    with SocksServer(routes={(SECRET, 80): echo_server}, faults=faults) as server:
        proxy = f"socks5h://{proxy_host}:{server.address[1]}"
        with resolved_names() as names:
            if faults == Faults():
                with dial((SECRET, 80), proxy=proxy) as sock:
                    assert_echoes(sock)
            else:
                with pytest.raises(socksclient.SocksError):
                    dial((SECRET, 80), proxy=proxy)
        assert set(names) <= {proxy_host}
        assert server.requests[0].destination == (SECRET, 80)
        assert server.requests[0].address_type == 0x03


def test_name_leak_of_custom_method(dial: Dial) -> None:
    def negotiate(_proxy: Proxy) -> Flow[None]:
        yield (SECRET, 2)  # type: ignore[misc]

    with SocksServer(faults=Faults(method=0x80)) as server, resolved_names() as names:
        proxy = Proxy(*server.address, methods=(Method(0x80, negotiate),))
        with pytest.raises(AttributeError, match="no attribute 'send'"):
            dial(("origin.test", 80), proxy=proxy)
    assert names == ["127.0.0.1"] * len(names)


@pytest.mark.anyio
async def test_name_leak_of_streams(echo_server: Address) -> None:
    with SocksServer(routes={(SECRET, 80): echo_server}) as server, resolved_names() as names:
        async with await socksclient.anyio.connect_tcp(SECRET, 80, proxy=server.url) as stream:
            await stream.send(b"token")
            assert await stream.receive() == b"token"
    assert names == []


def routes(origin: Origin) -> dict[Address, Address]:
    return {(SECRET, 80): ("127.0.0.1", origin.http_port)}


def test_name_leak_of_httpx_blocking(origin: Origin) -> None:
    with (
        SocksServer(routes=routes(origin)) as server,
        resolved_names() as names,
    ):
        with httpx.Client(transport=SocksTransport(server.url), timeout=LONG) as client:
            assert client.get(f"http://{SECRET}/").status_code == 200
        assert server.requests[0].destination == (SECRET, 80)
    assert names == []


@pytest.mark.anyio
async def test_name_leak_of_httpx_awaited(origin: Origin) -> None:
    with (
        SocksServer(routes=routes(origin)) as server,
        resolved_names() as names,
    ):
        async with httpx.AsyncClient(transport=AsyncSocksTransport(server.url)) as client:
            assert (await client.get(f"http://{SECRET}/")).status_code == 200
        assert server.requests[0].destination == (SECRET, 80)
    assert names == []
