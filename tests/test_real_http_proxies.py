"""HTTP's CONNECT, by proxies that we did not write: tinyproxy and Privoxy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest

from socksclient import (
    AsyncSocksTransport,
    AuthenticationError,
    ProtocolError,
    Proxy,
    ReplyError,
    SocksTransport,
)
from socksclient.exceptions import HTTPReply

import real_servers
from origin import Origin
from support import (
    GREETING,
    LONG,
    REFUSED_PORT,
    Address,
    Dial,
    assert_echoes,
    needs,
    receive_exactly,
    serving,
)

MISSING = real_servers.missing()
pytestmark = needs(MISSING)

DATA = b"there and back"
ACCOUNT = ("user", "pass.word")
Start = Callable[[Path], AbstractContextManager[str]]

SERVERS: dict[str, Start] = {
    "tinyproxy": real_servers.tinyproxy,
    "tinyproxy with an account": lambda path: real_servers.tinyproxy(path, account=ACCOUNT),
    "tinyproxy on ::1": lambda path: real_servers.tinyproxy(path, host="::1"),
    "privoxy": real_servers.privoxy,
    "privoxy on ::1": lambda path: real_servers.privoxy(path, host="::1"),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with SERVERS[server](tmp_path_factory.mktemp("server")) as url:
        yield url


class TestConnect:
    def test_to_ipv4(self, proxy: str, dial: Dial, echo_server: Address) -> None:
        with dial(echo_server, proxy=proxy) as sock:
            assert_echoes(sock)

    def test_to_ipv6(self, proxy: str, dial: Dial, echo_server_6: Address) -> None:
        with dial(echo_server_6, proxy=proxy) as sock:
            assert_echoes(sock)

    def test_to_a_name(self, proxy: str, dial: Dial, echo_server: Address) -> None:
        with dial(("localhost", echo_server[1]), proxy=proxy) as sock:
            assert_echoes(sock)

    def test_to_a_server_that_speaks_first(self, proxy: str, dial: Dial, greeter: Address) -> None:
        with dial(greeter, proxy=proxy) as sock:
            assert receive_exactly(sock, len(GREETING)) == GREETING
            assert_echoes(sock)

    def test_what_comes_in_one_segment_with_the_answer_is_not_lost(
        self, proxy: str, dial: Dial, greeter: Address
    ) -> None:
        with in_one_segment(Proxy.from_url(proxy)) as held_back:
            with dial(greeter, proxy=held_back) as sock:
                assert receive_exactly(sock, len(GREETING)) == GREETING
                assert_echoes(sock, DATA)


@contextmanager
def in_one_segment(proxy: Proxy) -> Iterator[Proxy]:
    """Passes on what `proxy` says, but only when the destination's greeting has come too."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy_reader, proxy_writer = await asyncio.open_connection(proxy.host, proxy.port)
        try:
            proxy_writer.write(await reader.readuntil(b"\r\n\r\n"))
            writer.write(await proxy_reader.readuntil(GREETING))
            proxy_writer.write(await reader.readexactly(len(DATA)))
            writer.write(await proxy_reader.readexactly(len(DATA)))
            await reader.read()
        finally:
            proxy_writer.close()

    with serving(relay) as (host, port):
        yield replace(proxy, host=host, port=port)


def test_a_destination_that_refuses(server: str, proxy: str, dial: Dial) -> None:
    destination = ("127.0.0.1", REFUSED_PORT)
    with pytest.raises(ReplyError) as caught:
        dial(destination, proxy=proxy)
    if server.startswith("tinyproxy"):
        assert caught.value.reply is HTTPReply.INTERNAL_SERVER_ERROR
    else:
        assert caught.value.reply is HTTPReply.SERVICE_UNAVAILABLE
    assert caught.value.phase == "request"
    assert caught.value.destination == destination


@pytest.mark.parametrize("server", ["tinyproxy with an account"], indirect=True)
class TestCredentials:
    def test_that_are_wrong(self, proxy: str, dial: Dial, echo_server: Address) -> None:
        # It says 401, as if it were the destination.
        with pytest.raises(AuthenticationError, match=r"refused the credentials \(HTTP 401\)"):
            dial(echo_server, proxy=proxy.replace("pass.word", "wrong"))

    def test_that_are_not_there(self, proxy: str, dial: Dial, echo_server: Address) -> None:
        with pytest.raises(AuthenticationError, match=r"there is no username \(HTTP 407\)"):
            dial(echo_server, proxy=f"http://{proxy.rpartition('@')[2]}")


def test_what_is_no_http_proxy(dial: Dial, echo_server: Address, tmp_path: Path) -> None:
    with real_servers.microsocks(tmp_path) as url:
        with pytest.raises(ProtocolError, match="this is a SOCKS5 server, not an HTTP proxy"):
            dial(echo_server, proxy=url.replace("socks5h", "http"))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
class TestHTTP:
    def test_blocking(self, proxy: str, origin: Origin, scheme: str, http2: bool) -> None:
        transport = SocksTransport(proxy, verify=origin.trust(), http2=http2)
        with httpx.Client(transport=transport, timeout=LONG) as client:
            check(client.get(url_of(origin, scheme)), scheme, http2)

    @pytest.mark.anyio
    async def test_awaited(self, proxy: str, origin: Origin, scheme: str, http2: bool) -> None:
        transport = AsyncSocksTransport(proxy, verify=origin.trust(), http2=http2)
        async with httpx.AsyncClient(transport=transport, timeout=LONG) as client:
            with anyio.fail_after(LONG):
                check(await client.get(url_of(origin, scheme)), scheme, http2)


def url_of(origin: Origin, scheme: str) -> str:
    port = origin.https_port if scheme == "https" else origin.http_port
    return f"{scheme}://localhost:{port}/"


def check(response: httpx.Response, scheme: str, http2: bool) -> None:
    assert response.json()["scheme"] == scheme
    # Without TLS there is no ALPN to agree on HTTP/2 by.
    assert response.http_version == ("HTTP/2" if http2 and scheme == "https" else "HTTP/1.1")
    headers = [name for name, _ in response.json()["headers"]]
    assert "proxy-authorization" not in headers
