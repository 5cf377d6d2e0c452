"""The transports for httpx: what `httpx.HTTPTransport` does, and all of it through a proxy."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import threading
import time
import types
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpcore
import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

import socksclient.httpx
from socksclient import (
    AuthenticationError,
    Flow,
    Method,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyLike,
    ProxyTimeout,
    Reply,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient.exceptions import ConnectionRefused, Phase, TTLExpired
from socksclient.httpx import AsyncSocksTransport, SocksTransport
from socksclient.testing import Faults, SocksServer
from socksclient.testing_session import reset

from origin import BEGINNING, Origin, content, digest, digest_of
from support import (
    BACKENDS,
    Address,
    eventually,
    refused_port,
    resolver,
    serving,
    silence,
)

T = TypeVar("T")

HTTP = "http://origin.test/"
HTTPS = "https://origin.test/"
PROXY_HOST = "127.0.0.3"  # no other server is there
ACCOUNTS = {"user": "pass"}
HANDSHAKE = 2 + 10  # the octets that a proxy says in it, without authentication
MEGABYTES_100 = 100_000_000
ONE_CONNECTION = httpx.Limits(max_connections=1)


# httpx leaves the body of a request that fails to the garbage collector; trio complains of that.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx._content:ResourceWarning")


# Blocking or awaited: one test for all


class Client:
    """`httpx.Client`, or an `httpx.AsyncClient` whose event loop is in another thread."""

    def __init__(
        self, transport: Any, portal: BlockingPortal | None, options: dict[str, Any]
    ) -> None:
        kind: Any = httpx.Client if portal is None else httpx.AsyncClient
        self.client = kind(transport=transport, **{"timeout": 10.0, **options})
        self._portal = portal

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The result of the function, awaited if need be."""
        if self._portal is None:
            return function(*args, **kwargs)
        return self._portal.call(partial(function, *args, **kwargs))

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        response: httpx.Response = self.run(self.client.request, method, url, **options)
        return response

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def send(self, pieces: Iterable[bytes], url: str, **options: Any) -> httpx.Response:
        """A POST of a body that is not there as a whole."""
        body = iter(pieces) if self._portal is None else _awaited(pieces)
        return self.request("POST", url, content=body, **options)

    @contextmanager
    def stream(self, url: str, **options: Any) -> Iterator[httpx.Response]:
        """A response whose body has not been read."""
        request = self.client.build_request("GET", url, **options)
        response: httpx.Response = self.run(self.client.send, request, stream=True)
        try:
            yield response
        finally:
            self.run(response.close if self._portal is None else response.aclose)

    def digest(self, response: httpx.Response) -> str:
        """SHA-256 of the body, read in pieces."""
        if self._portal is None:
            return digest_of(response.iter_raw())

        async def digest() -> str:
            return digest_of([piece async for piece in response.aiter_raw()])

        return self._portal.call(digest)

    def trace(self, note: Callable[[str, dict[str, Any]], object]) -> dict[str, Any]:
        """The request extension that calls `note` with the name of every event, and more."""

        async def note_awaited(name: str, info: dict[str, Any]) -> None:
            note(name, info)

        return {"trace": note if self._portal is None else note_awaited}

    def close(self) -> None:
        self.run(self.client.close if self._portal is None else self.client.aclose)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()


async def _awaited(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Driver:
    """Makes clients: blocking ones, or those of one event loop."""

    def __init__(self, portal: BlockingPortal | None, origin: Origin) -> None:
        self._portal = portal
        self._origin = origin

    def transport(self, proxy: ProxyLike, **options: Any) -> Any:
        """It trusts the origin, unless the test says otherwise."""
        kind = SocksTransport if self._portal is None else AsyncSocksTransport
        return kind(proxy, **{"verify": self._origin.trust(), **options})

    def client(self, transport: Any, **options: Any) -> Client:
        return Client(transport, self._portal, options)

    def through(self, proxy: ProxyLike, **options: Any) -> Client:
        """A client that goes through `proxy`."""
        return self.client(self.transport(proxy, **options))

    def direct(self, **options: Any) -> Client:
        """The same without a proxy, with httpx's own transport, to compare with."""
        kind: Any = httpx.HTTPTransport if self._portal is None else httpx.AsyncHTTPTransport
        return self.client(kind(**{"verify": self._origin.trust(), **options}))


@pytest.fixture(scope="module")
def portals() -> Iterator[dict[str, BlockingPortal | None]]:
    with ExitStack() as stack:
        yield {
            "blocking": None,
            **{
                name: stack.enter_context(start_blocking_portal(**options))
                for name, options in BACKENDS.items()
            },
        }


@pytest.fixture(params=["blocking", *BACKENDS])
def driver(
    request: pytest.FixtureRequest, portals: dict[str, BlockingPortal | None], origin: Origin
) -> Driver:
    return Driver(portals[request.param], origin)


def routes_to(origin: Origin) -> dict[Address, Address]:
    http = ("127.0.0.1", origin.http_port)
    https = ("127.0.0.1", origin.https_port)
    return {
        ("origin.test", 80): http,
        ("origin.test", 443): https,
        ("other.test", 80): http,
        ("192.0.2.1", 443): https,
        ("xn--bcher-kva.test", 80): http,
        ("2001:db8::1", 80): http,
    }


@pytest.fixture
def server(origin: Origin) -> Iterator[SocksServer]:
    """A proxy behind which the origin has names of its own."""
    with SocksServer(host=PROXY_HOST, routes=routes_to(origin)) as server:
        yield server


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """The client's sockets that are opened in it are closed by its end.

    The garbage collector is off, and what the servers have open takes its own time.
    """
    gc.disable()
    try:
        before = client_sockets()
        yield
        assert eventually(lambda: client_sockets() <= before), client_sockets() - before
    finally:
        gc.enable()


def client_sockets() -> set[int]:
    """The inodes of the sockets that are connected to a proxy, or to nobody."""
    inodes = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as sock:
                    if not belongs_to_a_server(sock):
                        inodes.add(os.fstat(sock.fileno()).st_ino)
    return inodes


def belongs_to_a_server(sock: socket.socket) -> bool:
    """Whether it is a proxy's, or leads from a proxy to the destination."""
    if sock.family != socket.AF_INET or sock.getsockname()[0] == PROXY_HOST:
        return True
    try:
        return bool(sock.getpeername()[0] != PROXY_HOST)
    except OSError:
        return False


def fail(
    client: Client, url: str, expected: type[httpx.TransportError], **options: Any
) -> httpx.TransportError:
    """The error of a request that leaves nothing open behind it."""
    with nothing_left_open(), pytest.raises(expected) as caught:
        client.get(url, **options)
    assert type(caught.value) is expected
    assert caught.value.request.url == url
    return caught.value


# HTTP


@pytest.mark.parametrize(
    ("url", "options", "version", "destination"),
    [
        (HTTP, {}, "HTTP/1.1", ("origin.test", 80)),
        (HTTPS, {}, "HTTP/1.1", ("origin.test", 443)),
        (HTTPS, {"http2": True}, "HTTP/2", ("origin.test", 443)),
        (HTTPS, {"http1": False, "http2": True}, "HTTP/2", ("origin.test", 443)),
        (HTTP, {"http1": False, "http2": True}, "HTTP/2", ("origin.test", 80)),
        ("wss://origin.test/", {}, "HTTP/1.1", ("origin.test", 443)),
        ("ws://origin.test/", {}, "HTTP/1.1", ("origin.test", 80)),
        ("http://bücher.test/", {}, "HTTP/1.1", ("xn--bcher-kva.test", 80)),
        ("http://[2001:db8::1]/", {}, "HTTP/1.1", ("2001:db8::1", 80)),
    ],
)
def test_a_request(
    driver: Driver,
    server: SocksServer,
    url: str,
    options: dict[str, Any],
    version: str,
    destination: Address,
) -> None:
    with driver.through(server.url, **options) as client:
        response = client.get(url, headers={"x-token": "there"})
    seen = response.raise_for_status().json()
    assert response.http_version == version
    assert seen["http_version"] == version.removeprefix("HTTP/")
    assert seen["scheme"] == ("https" if destination[1] == 443 else "http")
    assert ["x-token", "there"] in seen["headers"]
    assert [request.destination for request in server.requests] == [destination]


def test_a_request_with_a_body(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url) as client:
        assert client.request("POST", HTTP + "echo", content=b"and back").content == b"and back"
        assert client.send([b"and ", b"back"], HTTPS + "echo").content == b"and back"


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_100_megabytes_down(driver: Driver, server: SocksServer, url: str) -> None:
    url += f"download?octets={MEGABYTES_100}"
    with driver.through(server.url) as client, client.stream(url) as response:
        assert client.digest(response) == digest(MEGABYTES_100)


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_100_megabytes_up(driver: Driver, server: SocksServer, url: str) -> None:
    with driver.through(server.url) as client:
        response = client.send(content(MEGABYTES_100), url + "upload")
    assert response.json() == {"sha256": digest(MEGABYTES_100), "octets": MEGABYTES_100}


def test_without_timeouts(driver: Driver, server: SocksServer, names: dict[str, list[str]]) -> None:
    """The proxy has one address, and then two, of which the first one answers."""
    server.misbehave(Faults(drip=0.001))
    proxy = f"socks5h://proxy.test:{server.address[1]}"
    for addresses in [PROXY_HOST], [PROXY_HOST, "127.0.0.4"]:
        names["proxy.test"] = addresses
        with driver.through(proxy) as client:
            assert client.get(HTTP, timeout=None).status_code == 200
            assert client.get(HTTPS, timeout=None).status_code == 200
    assert len(server.requests) == 4


def test_redirects_and_cookies(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url) as client:
        client.get(HTTP + "cookie/set")
        assert client.get(HTTP + "cookie/show").text == "seen=yes"
        response = client.get(
            HTTP + "redirect",
            params={"to": "http://other.test/cookie/show"},
            follow_redirects=True,
        )
    assert [past.url.host for past in response.history] == ["origin.test"]
    assert response.url.host == "other.test"
    assert response.text == ""  # the cookie belongs to another host
    assert [request.destination for request in server.requests] == [
        ("origin.test", 80),
        ("other.test", 80),
    ]


def test_mounts(driver: Driver, server: SocksServer) -> None:
    elsewhere = httpx.MockTransport(lambda _request: httpx.Response(418))
    mounts = {"all://origin.test": driver.transport(server.url)}
    with driver.client(elsewhere, mounts=mounts) as client:
        assert client.get(HTTP).status_code == 200
        assert client.get("http://other.test/").status_code == 418
    assert [request.destination for request in server.requests] == [("origin.test", 80)]


def test_the_proxies_of_the_environment_do_not_count(
    driver: Driver, server: SocksServer, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{refused_port()}")
        monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{refused_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(httpx.ConnectError):  # they do count where there is no transport
        httpx.get(f"http://127.0.0.1:{origin.http_port}/")
    with driver.through(server.url) as client:
        assert client.get(HTTP).status_code == 200
        assert client.get(HTTPS).status_code == 200
    assert len(server.requests) == 2


def test_credentials(driver: Driver, origin: Origin) -> None:
    with SocksServer(host=PROXY_HOST, accounts=ACCOUNTS, routes=routes_to(origin)) as server:
        with driver.through(server.url) as client:
            assert client.get(HTTP).status_code == 200
        with driver.through(Proxy(*server.address, username="user", password="pass")) as client:
            assert client.get(HTTP).status_code == 200
    assert [(seen.username, seen.password) for seen in server.requests] == [("user", "pass")] * 2


def test_a_body_that_ends_with_the_connection(driver: Driver) -> None:
    answer = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    with (
        answering(answer) as url,
        SocksServer(host=PROXY_HOST) as server,
        driver.through(server.url) as client,
        nothing_left_open(),
    ):
        response = client.get(url)
    assert response.http_version == "HTTP/1.0"
    assert response.text == "until the end"


def test_an_upgraded_connection(driver: Driver) -> None:
    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\n\r\nfirst words")
        writer.write(await reader.read(100))

    headers = {"connection": "upgrade", "upgrade": "echo"}
    with (
        serving(upgrade) as (host, port),
        SocksServer(host=PROXY_HOST) as server,
        driver.through(server.url) as client,
        client.stream(f"http://{host}:{port}/", headers=headers) as response,
    ):
        stream = response.extensions["network_stream"]
        assert client.run(stream.read, 5) == b"first"
        assert client.run(stream.read, 100) == b" words"
        client.run(stream.write, b"and back")
        assert client.run(stream.read, 3) == b"and"  # no more than asked for
        assert client.run(stream.read, 100, timeout=5.0) == b" back"
        assert client.run(stream.read, 100) == b""


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The URL of a server that hears one request, says `answer`, and hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)

    with serving(handle) as (host, port):
        yield f"http://{host}:{port}/"


@contextmanager
def saying_nothing() -> Iterator[Address]:
    """Where connections are let in, and then nothing is said or heard."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


# The pool


def test_a_connection_is_used_again(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url) as client:
        clients = [client.get(HTTP).json()["client"] for _ in range(3)]
        assert clients == clients[:1] * 3
        client.get(HTTPS)
        client.get(HTTPS)
        client.get("http://other.test/")
    assert [request.destination for request in server.requests] == [
        ("origin.test", 80),
        ("origin.test", 443),
        ("other.test", 80),
    ]


@pytest.mark.parametrize(
    "limits",
    [httpx.Limits(keepalive_expiry=0.0), httpx.Limits(max_keepalive_connections=0)],
    ids=str,
)
def test_a_connection_is_not_kept_for_longer(
    driver: Driver, server: SocksServer, limits: httpx.Limits
) -> None:
    with driver.through(server.url, limits=limits) as client:
        client.get(HTTP)
        with nothing_left_open():
            client.get(HTTP)
            client.get(HTTP)
    assert len(server.connections) == 3


def test_limits(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        with client.stream(HTTP + "stall"):
            with pytest.raises(httpx.PoolTimeout) as caught:
                client.get(HTTP, timeout=httpx.Timeout(10.0, pool=0.1))
            assert caught.value.request.url == HTTP
        assert client.get(HTTP).status_code == 200
    assert len(server.connections) == 2


def test_many_requests_at_once(driver: Driver, server: SocksServer) -> None:
    limits = httpx.Limits(max_connections=3)
    with driver.through(server.url, limits=limits) as client, ThreadPoolExecutor(12) as threads:
        answers = threads.map(client.get, [HTTP + "download?octets=200000"] * 12)
        assert [digest_of([answer.content]) for answer in answers] == [digest(200000)] * 12
        assert len(server.connections) <= 12
    assert eventually(lambda: len(server.requests) == len(server.connections))


def test_many_requests_on_one_connection(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, http2=True) as client, ThreadPoolExecutor(12) as threads:
        assert client.get(HTTPS).http_version == "HTTP/2"
        answers = threads.map(client.get, [HTTPS + "download?octets=200000"] * 12)
        assert [digest_of([answer.content]) for answer in answers] == [digest(200000)] * 12
    assert len(server.connections) == 1


def test_a_connection_that_was_closed_meanwhile_is_not_used_again(driver: Driver) -> None:
    with (
        answering(OK) as url,
        SocksServer(host=PROXY_HOST) as server,
        driver.through(server.url, limits=ONE_CONNECTION) as client,
    ):
        stream = client.get(url).extensions["network_stream"]
        assert eventually(lambda: bool(stream.get_extra_info("is_readable")))
        assert client.get(url).text == "ok"
    assert len(server.connections) == 2


def test_a_body_that_nobody_reads(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, limits=ONE_CONNECTION) as client, nothing_left_open():
        with client.stream(HTTP + "download?octets=10000000"):
            pass
        with client.stream(HTTPS + "stall"):
            pass


def test_closing_closes_all_connections(driver: Driver, server: SocksServer) -> None:
    with nothing_left_open():
        client = driver.through(server.url)
        client.get(HTTP)
        stream = client.get(HTTPS).extensions["network_stream"]
        assert stream.get_extra_info("is_readable") is False
        client.close()
    assert eventually(lambda: stream.get_extra_info("is_readable") is True)


def test_the_blocking_transport_is_a_context_manager(server: SocksServer) -> None:
    with nothing_left_open(), SocksTransport(server.url) as transport:
        assert transport.handle_request(httpx.Request("GET", HTTP)).read()


@pytest.mark.anyio
async def test_the_awaited_transport_is_a_context_manager(server: SocksServer) -> None:
    async with AsyncSocksTransport(server.url) as transport:
        response = await transport.handle_async_request(httpx.Request("GET", HTTP))
        assert await response.aread()
        stream = response.extensions["network_stream"]
    assert stream.get_extra_info("is_readable")


# Options


def test_local_address(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, local_address="127.0.0.2") as client:
        client.get(HTTP)
    [connection] = server.connections
    assert connection.client[0] == "127.0.0.2"


def test_a_local_address_that_is_not_here(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, local_address="192.0.2.1") as client:
        error = fail(client, HTTP, httpx.ConnectError)
    assert isinstance(error.__cause__, ProxyConnectError)
    assert server.connections == []


def test_socket_options(driver: Driver, server: SocksServer) -> None:
    options = iter([(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)])  # good for two connections
    with driver.through(server.url, socket_options=options) as client:
        for url in (HTTP, HTTPS):
            sock = client.get(url).extensions["network_stream"].get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_socket_options_that_cannot_be(driver: Driver, server: SocksServer) -> None:
    options = [(socket.SOL_SOCKET, 9999, 1)]
    with driver.through(server.url, socket_options=options) as client:
        fail(client, HTTP, httpx.ConnectError)


def test_what_a_network_stream_tells(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url) as client:
        plain = client.get(HTTP).extensions["network_stream"]
        tls = client.get(HTTPS).extensions["network_stream"]
        for stream, connection in zip((plain, tls), server.connections, strict=True):
            assert stream.get_extra_info("client_addr") == connection.client
            assert stream.get_extra_info("server_addr") == server.address
            assert stream.get_extra_info("socket").getsockname() == connection.client
            assert stream.get_extra_info("is_readable") is False
            assert stream.get_extra_info("something else") is None
        assert plain.get_extra_info("ssl_object") is None
        ssl_object = tls.get_extra_info("ssl_object")
        assert ssl_object.version() == "TLSv1.3"
        assert ssl_object.selected_alpn_protocol() == "http/1.1"
        assert ("DNS", "origin.test") in ssl_object.getpeercert()["subjectAltName"]


def test_what_a_network_stream_tells_of_a_closed_connection(driver: Driver) -> None:
    """Nothing of its peer, or an OSError, as the streams of httpcore."""
    with (
        answering(b"HTTP/1.0 200 OK\r\n\r\nuntil the end") as url,
        SocksServer(host=PROXY_HOST) as server,
        driver.through(server.url) as client,
    ):
        stream = client.get(url).extensions["network_stream"]
        assert eventually(lambda: stream.get_extra_info("is_readable") is True)
        with suppress(OSError):
            assert stream.get_extra_info("server_addr") in (None, server.address)


def test_sni_hostname(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url) as client:
        assert "192.0.2.1" in str(fail(client, "https://192.0.2.1/", httpx.ConnectError))
        response = client.get("https://192.0.2.1/", extensions={"sni_hostname": "origin.test"})
        assert response.status_code == 200


def test_trace(driver: Driver, server: SocksServer) -> None:
    events: list[str] = []
    with driver.through(server.url) as client:
        client.get(HTTPS, extensions=client.trace(lambda name, _: events.append(name)))
    assert events[:4] == [
        "connection.connect_tcp.started",
        "connection.connect_tcp.complete",
        "connection.start_tls.started",
        "connection.start_tls.complete",
    ]


# Retries


def test_a_timeout_is_retried(driver: Driver, server: SocksServer) -> None:
    timeout = httpx.Timeout(10.0, connect=0.3)
    server.misbehave([Faults(stall_after=0), Faults(stall_after=0)])
    with driver.through(server.url) as client:
        fail(client, HTTP, httpx.ConnectTimeout, timeout=timeout)
    assert len(server.connections) == 1
    with driver.through(server.url, retries=1) as client:
        assert client.get(HTTP, timeout=timeout).status_code == 200
    assert len(server.connections) == 3


def test_a_refused_connection_is_retried(driver: Driver) -> None:
    events: list[str] = []
    with driver.through(f"socks5h://127.0.0.1:{refused_port()}", retries=1) as client:
        trace = client.trace(lambda name, _: events.append(name))
        fail(client, HTTP, httpx.ConnectError, extensions=trace)
    assert events.count("connection.connect_tcp.started") == 2


def test_a_refused_request_is_not_retried(driver: Driver, server: SocksServer) -> None:
    server.misbehave([Faults(reply=0x05)])
    with driver.through(server.url, retries=1) as client:
        fail(client, HTTP, httpx.ProxyError)
    assert len(server.connections) == 1


# Errors on the way to the destination


@pytest.mark.parametrize("url", [HTTP, HTTPS])
@pytest.mark.parametrize(
    ("faults", "cause", "phase"),
    [
        *((Faults(reply=rep), ReplyError, "request") for rep in (1, 2, 3, 4, 7, 8, 0x5A)),
        (Faults(reply=0x05), ConnectionRefused, "request"),
        (Faults(reply=0x06), TTLExpired, "request"),
        (Faults(method=0xFF), AuthenticationError, "method selection"),
        (Faults(status=0x01), AuthenticationError, "authentication"),
        (Faults(method=0x01), ProtocolError, "method selection"),
        (Faults(answers={"method selection": b"HTTP/1.1 400"}), ProtocolError, "method selection"),
        (Faults(answers={"request": b"\x04\x00\x00\x01"}), ProtocolError, "request"),
        (Faults(answers={"request": b"\x05\x00\x00\x09\x00"}), ProtocolError, "request"),
        (Faults(close_after=0), ProxyClosed, "method selection"),
        (Faults(close_after=3), ProxyClosed, "authentication"),
        (Faults(close_after=4), ProxyClosed, "request"),
        (Faults(close_after=13), ProxyClosed, "request"),
        (Faults(reset_after=0), ProxyClosed, "method selection"),
        (Faults(reset_after=4), ProxyClosed, "request"),
    ],
    ids=str,
)
def test_what_the_proxy_refuses_or_gets_wrong_is_a_proxy_error(
    driver: Driver,
    origin: Origin,
    url: str,
    faults: Faults,
    cause: type[SocksError],
    phase: Phase,
) -> None:
    with (
        SocksServer(
            host=PROXY_HOST, accounts=ACCOUNTS, routes=routes_to(origin), faults=[faults]
        ) as server,
        driver.through(server.url, limits=ONE_CONNECTION) as client,
    ):
        error = fail(client, url, httpx.ProxyError)
        assert_caused(error, cause, phase, server.url, url)
        if faults.reply is not None:
            assert isinstance(error.__cause__, ReplyError)
            assert error.__cause__.reply == Reply(faults.reply)
        assert client.get(url).status_code == 200  # on the one connection that there may be


def assert_caused(
    error: httpx.TransportError, cause: type[SocksError], phase: Phase, proxy: str, url: str
) -> None:
    """That the `SocksError` is there, and whole."""
    reason = error.__cause__
    assert isinstance(reason, cause)
    assert isinstance(reason, SocksError)
    assert reason.phase == phase
    assert reason.proxy == Proxy.from_url(proxy)
    assert reason.destination == (httpx.URL(url).host, 443 if url.startswith("https") else 80)
    assert str(error) == str(reason)
    assert "pass" not in str(error)


def test_wrong_credentials(driver: Driver) -> None:
    with SocksServer(host=PROXY_HOST, accounts=ACCOUNTS) as server:
        proxy = Proxy(*server.address, username="user", password="passwd")
        with driver.through(proxy) as client:
            error = fail(client, HTTP, httpx.ProxyError)
    assert isinstance(error.__cause__, AuthenticationError)
    assert "passwd" not in repr(error)


def test_a_dead_proxy(driver: Driver) -> None:
    proxy = f"socks5h://127.0.0.1:{refused_port()}"
    with driver.through(proxy) as client:
        error = fail(client, HTTP, httpx.ConnectError)
    assert_caused(error, ProxyConnectError, "connect", proxy, HTTP)


def test_a_proxy_without_an_address(driver: Driver, names: dict[str, list[str]]) -> None:
    proxy = "socks5h://proxy.test:1080"
    with driver.through(proxy) as client:
        error = fail(client, HTTP, httpx.ConnectError)
    assert_caused(error, ProxyConnectError, "resolve", proxy, HTTP)


def test_a_destination_without_an_address(
    driver: Driver, server: SocksServer, names: dict[str, list[str]]
) -> None:
    proxy = server.url.replace("socks5h", "socks5")
    with driver.through(proxy) as client:
        error = fail(client, HTTP, httpx.ConnectError)
        assert_caused(error, ResolveError, "resolve", proxy, HTTP)
        assert server.connections == []
        names["origin.test"] = ["2001:db8::1"]
        assert client.get(HTTP).status_code == 200


@pytest.mark.parametrize(
    "url",
    [
        "http://[fe80::1%25lo]/",
        "https://[fe80::1%25lo]/",
        "http://origin.test:65536/",
        f"http://{'n' * 256}/",
    ],
)
def test_a_destination_that_socks_cannot_carry(
    driver: Driver, server: SocksServer, url: str
) -> None:
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        with (
            nothing_left_open(),
            pytest.raises(httpx.UnsupportedProtocol, match=r"zone id|port|octets") as caught,
        ):
            client.get(url)
        assert isinstance(caught.value.__cause__, ValueError)
        assert server.connections == []
        assert client.get(HTTP).status_code == 200


def test_no_phase_outlasts_the_connect_timeout(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at the same time, so that it takes no longer than one."""
    released = threading.Event()

    def look_up(_name: str) -> list[str]:
        released.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolver(look_up))
    stalled: list[tuple[Faults, Phase]] = [
        (Faults(stall_after=0), "method selection"),
        (Faults(stall_after=2), "authentication"),
        (Faults(stall_after=4), "request"),
        (Faults(stall_after=13), "request"),
        (Faults(drip=0.3), "authentication"),
        (Faults(drip=0.6), "method selection"),
    ]
    with ExitStack() as stack:
        host, port = stack.enter_context(silence())
        cases: list[tuple[str, str, Phase | None]] = [
            ("socks5h://proxy.test:1080", HTTP, "resolve"),
            ("socks5://127.0.0.1:1080", HTTP, "resolve"),
            (f"socks5h://{host}:{port}", HTTP, "connect"),
        ]
        for faults, stalled_phase in stalled:
            server = stack.enter_context(
                SocksServer(host=PROXY_HOST, accounts=ACCOUNTS, faults=faults)
            )
            cases.append((server.url, HTTPS, stalled_phase))
        host, port = stack.enter_context(saying_nothing())
        server = stack.enter_context(SocksServer(host=PROXY_HOST))
        cases.append((server.url, f"https://{host}:{port}/", None))  # TLS with the destination
        clients = [stack.enter_context(driver.through(proxy)) for proxy, _, _ in cases]
        threads = stack.enter_context(ThreadPoolExecutor(len(cases)))
        stack.callback(released.set)

        def fetch(client: Client, url: str) -> tuple[float, httpx.ConnectTimeout]:
            begin = time.monotonic()
            with pytest.raises(httpx.ConnectTimeout) as caught:
                client.get(url, timeout=httpx.Timeout(None, connect=1.0))
            return time.monotonic() - begin, caught.value

        with nothing_left_open():
            results = list(threads.map(fetch, clients, (url for _, url, _ in cases)))
        for (proxy, url, phase), (seconds, error) in zip(cases, results, strict=True):
            assert 0.95 <= seconds < 1.5, (proxy, url)
            assert error.request.url == url
            if phase is None:
                assert not isinstance(error.__cause__, SocksError)
            else:
                assert isinstance(error.__cause__, ProxyTimeout)
                assert error.__cause__.phase == phase
                assert error.__cause__.proxy == Proxy.from_url(proxy)


def test_a_timeout_gives_its_place_in_the_pool_back(driver: Driver, server: SocksServer) -> None:
    server.misbehave([Faults(stall_after=HANDSHAKE - 1), Faults(stall_after=HANDSHAKE)])
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        for url in (HTTP, HTTPS):  # in the handshake with the proxy, and in that of TLS
            fail(client, url, httpx.ConnectTimeout, timeout=httpx.Timeout(10.0, connect=0.1))
        assert client.get(HTTPS, timeout=httpx.Timeout(10.0, pool=0.1)).status_code == 200
    assert len(server.connections) == 3


# TLS with the destination


def test_a_certificate_is_verified_by_default(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, verify=True) as client:
        error = fail(client, HTTPS, httpx.ConnectError)
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)


def test_a_certificate_for_another_name(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url) as client:
        error = fail(client, HTTPS, httpx.ConnectError, extensions={"sni_hostname": "other.test"})
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)


def test_a_certificate_need_not_be_verified(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, verify=False) as client:
        assert client.get(HTTPS).status_code == 200


def test_the_environment_may_say_whom_to_trust(
    driver: Driver,
    server: SocksServer,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with driver.through(server.url, verify=True) as client:
        assert client.get(HTTPS).status_code == 200
    with driver.through(server.url, verify=True, trust_env=False) as client:
        fail(client, HTTPS, httpx.ConnectError)


class Verifier(ssl.SSLContext):
    """Looks at the certificate itself, as the contexts of truststore do on macOS and Windows."""

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        sock = super().wrap_socket(*args, **kwargs)
        if sock.version() is None:  # the handshake is still to come
            sock.close()
            raise ssl.SSLCertVerificationError("no certificate to verify")
        return sock


def test_a_context_that_verifies_in_its_own_way(
    driver: Driver, server: SocksServer, origin: Origin
) -> None:
    context = Verifier(ssl.PROTOCOL_TLS_CLIENT)
    origin.ca.configure_trust(context)
    with driver.through(server.url, verify=context) as client:
        assert client.get(HTTPS).status_code == 200


def test_certificates_in_files(
    driver: Driver, server: SocksServer, origin: Origin, tmp_path: Path
) -> None:
    """Deprecated in httpx, and handed on all the same."""
    origin.ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (
        ignored_deprecations(),
        driver.through(server.url, verify=str(tmp_path / "ca.pem")) as client,
    ):
        assert client.get(HTTPS).status_code == 200


def test_a_certificate_of_the_client(driver: Driver, tmp_path: Path) -> None:
    path = str(tmp_path / "client.pem")
    with Origin(client_certificate_wanted=True) as strict:
        strict.ca.issue_cert("client.test").private_key_and_cert_chain_pem.write_to_path(path)
        with SocksServer(host=PROXY_HOST, routes=routes_to(strict)) as server:
            with ignored_deprecations():
                client = driver.through(server.url, verify=strict.trust(), cert=path)
            with client:
                assert client.get(HTTPS).status_code == 200
            with (
                driver.through(server.url, verify=strict.trust()) as client,
                nothing_left_open(),
                pytest.raises(httpx.TransportError),
            ):
                client.get(HTTPS)


@contextmanager
def ignored_deprecations() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.mark.parametrize("kind", [SocksTransport, AsyncSocksTransport])
def test_the_options_of_tls_go_by_name(
    kind: type[SocksTransport | AsyncSocksTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before httpx 0.28 the first was `cert`: by position, the default would verify nothing."""
    seen: dict[str, object] = {}

    def create_ssl_context(**options: object) -> ssl.SSLContext:
        seen.update(options)
        return ssl.create_default_context()

    monkeypatch.setattr(httpx, "create_ssl_context", create_ssl_context)
    kind("socks5h://127.0.0.1")
    assert seen == {"verify": True, "cert": None, "trust_env": True}


@pytest.mark.parametrize("kind", [SocksTransport, AsyncSocksTransport])
@pytest.mark.parametrize("proxy", ["127.0.0.1:1080", "ftp://127.0.0.1", "socks5h://127.0.0.1:0x50"])
def test_a_proxy_that_cannot_be(
    kind: type[SocksTransport | AsyncSocksTransport], proxy: str
) -> None:
    with pytest.raises(ValueError, match=r"proxy|scheme|port"):
        kind(proxy)


# The same errors as without a proxy


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"220 not HTTP\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nx", httpx.RemoteProtocolError),
    ],
)
def test_a_response_broken_off_or_wrong(
    driver: Driver, server: SocksServer, answer: bytes, error: type[httpx.TransportError]
) -> None:
    with answering(answer) as url:
        assert_fails_alike(driver, server, url, error)


def test_a_body_broken_off(driver: Driver, server: SocksServer, origin: Origin) -> None:
    url = f"http://127.0.0.1:{origin.http_port}/break"
    assert_fails_alike(driver, server, url, httpx.RemoteProtocolError)


@pytest.mark.parametrize("path", ["stall", "stall/before"])
def test_a_read_timeout(driver: Driver, server: SocksServer, origin: Origin, path: str) -> None:
    timeout = httpx.Timeout(10.0, read=0.1)
    with ExitStack() as stack:
        port = origin.http_port
        if path == "stall/before":
            _, port = stack.enter_context(saying_nothing())
        url = f"http://127.0.0.1:{port}/{path}"
        assert_fails_alike(driver, server, url, httpx.ReadTimeout, timeout=timeout)


def test_a_request_that_cannot_be(driver: Driver, server: SocksServer, origin: Origin) -> None:
    url = f"http://127.0.0.1:{origin.http_port}/"
    assert_fails_alike(driver, server, url, httpx.LocalProtocolError, headers={"x": "a\nb"})
    assert_fails_alike(driver, server, "ftp://127.0.0.1/", httpx.UnsupportedProtocol)


@pytest.mark.parametrize("answer", [b"220 not TLS\r\n", b""])
def test_no_tls_at_the_destination(driver: Driver, server: SocksServer, answer: bytes) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)

    with (
        serving(handle) as (host, port),
        driver.through(server.url, limits=ONE_CONNECTION) as client,
    ):
        fail(client, f"https://{host}:{port}/", httpx.ConnectError)
        assert client.get(HTTPS).status_code == 200


def test_a_reset_before_tls(driver: Driver, server: SocksServer) -> None:
    def wait(name: str, info: dict[str, Any]) -> None:
        if name == "connection.connect_tcp.complete":
            stream = info["return_value"]
            assert eventually(lambda: bool(stream.get_extra_info("is_readable")))

    server.misbehave([Faults(reset_after=HANDSHAKE)])
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        with (
            nothing_left_open(),
            pytest.raises((httpx.ConnectError, httpx.ProxyError)) as caught,
        ):
            client.get(HTTPS, extensions=client.trace(wait))
        assert caught.value.request.url == HTTPS
        assert client.get(HTTPS).status_code == 200


def assert_fails_alike(
    driver: Driver,
    server: SocksServer,
    url: str,
    expected: type[httpx.TransportError],
    **options: Any,
) -> None:
    """That there is the same error with the proxy and without it, and its place is free again."""
    with driver.direct() as client:
        fail(client, url, expected, **options)
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        fail(client, url, expected, **options)
        assert client.get(HTTP).status_code == 200


def test_a_write_timeout(driver: Driver, server: SocksServer) -> None:
    """The destination does not read; somewhere on the way there is no more room."""
    timeout = httpx.Timeout(10.0, write=0.2)
    with saying_nothing() as (host, port), driver.through(server.url) as client:
        with nothing_left_open(), pytest.raises(httpx.WriteTimeout) as caught:
            client.request("POST", f"http://{host}:{port}/", content=bytes(10**8), timeout=timeout)
        assert caught.value.request.method == "POST"


def test_a_proxy_that_resets_the_connection(driver: Driver) -> None:
    answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", OK]

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(3)
        writer.write(b"\x05\x00")
        await reader.readexactly(4 + 1 + len("origin.test") + 2)
        writer.write(bytes.fromhex("05000001000000000000"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        await writer.drain()
        reset(writer)

    def write(client: Client, stream: Any) -> None:
        for _ in range(1000):
            client.run(stream.write, b"something")

    with serving(handle, PROXY_HOST) as (host, port):
        with driver.through(f"socks5h://{host}:{port}") as client:
            fail(client, HTTP, httpx.ReadError)
            with client.stream(HTTP) as response:
                stream = response.extensions["network_stream"]
                with pytest.raises(httpcore.WriteError):
                    write(client, stream)
                # HTTP/2 does so after most reads; no response that has come may be lost by it.
                client.run(stream.write, b"")


ERRORS = [
    name
    for name in httpcore.__all__
    if isinstance(getattr(httpcore, name), type) and issubclass(getattr(httpcore, name), Exception)
]


@pytest.mark.parametrize("name", [name for name in ERRORS if name != "ConnectionNotAvailable"])
def test_every_error_of_httpcore_becomes_that_of_httpx(name: str) -> None:
    error = getattr(httpcore, name)
    for raised in (error, type("Special", (error,), {})):
        with pytest.raises(httpx.TransportError) as caught, socksclient.httpx._httpx_errors():
            raise raised("the text")
        assert type(caught.value) is getattr(httpx, name)
        assert str(caught.value) == "the text"
        assert type(caught.value.__cause__) is raised


# Cancellation


@pytest.mark.anyio
@pytest.mark.parametrize("octets", [0, 1, 2, 3, HANDSHAKE - 1])
async def test_a_cancelled_request_gives_its_place_in_the_pool_back(
    server: SocksServer, octets: int
) -> None:
    server.misbehave([Faults(stall_after=octets), Faults(stall_after=octets)])
    transport = AsyncSocksTransport(server.url, limits=ONE_CONNECTION)
    async with httpx.AsyncClient(transport=transport, timeout=10.0) as client:
        with anyio.move_on_after(0.05) as scope:
            await client.get(HTTP)
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0.05):
            await client.get(HTTP)
        assert (await client.get(HTTP)).status_code == 200
    assert len(server.connections) == 3


@pytest.mark.anyio
async def test_requests_that_wait_get_the_place_of_a_cancelled_one(server: SocksServer) -> None:
    server.misbehave([Faults(stall_after=0)])
    transport = AsyncSocksTransport(server.url, limits=ONE_CONNECTION)
    statuses: list[int] = []

    async def fetch(client: httpx.AsyncClient) -> None:
        statuses.append((await client.get(HTTP)).status_code)

    async with (
        httpx.AsyncClient(transport=transport, timeout=10.0) as client,
        anyio.create_task_group() as tasks,
        anyio.create_task_group() as doomed,
    ):
        doomed.start_soon(fetch, client)
        await anyio.wait_all_tasks_blocked()
        for _ in range(3):
            tasks.start_soon(fetch, client)
        await anyio.wait_all_tasks_blocked()
        doomed.cancel_scope.cancel()
    assert statuses == [200, 200, 200]


@types.coroutine
def interrupted(
    coroutine: Coroutine[Any, Any, T],
    at: int,
    when: Callable[[], bool],
    interrupt: Callable[[], object],
) -> Generator[Any, Any, T]:
    """Awaits the coroutine, and calls `interrupt` as it begins its wait number `at`.

    Only the waits count that it begins `when` that is true.
    """
    step: Callable[[Any], Any] = coroutine.send
    value: Any = None
    waits = 0
    while True:
        try:
            what = step(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if when():
            if waits == at:
                interrupt()
            waits += 1
        try:
            value = yield what
            step = coroutine.send
        except BaseException as error:  # noqa: BLE001 - it goes where it belongs
            value = error
            step = coroutine.throw


async def cancelled(
    client: httpx.AsyncClient, url: str, at: int, during: str, natively: bool
) -> list[str]:
    """Cancels a request in its wait number `at` of that trace event; returns all events."""
    events: list[str] = []

    async def trace(name: str, _info: dict[str, Any]) -> None:
        events.append(name)

    def is_ours() -> bool:
        return events[-1:] == [during + ".started"]

    def cancel() -> None:
        events.append("cancelled")
        if natively:
            task.cancel()
        else:
            scope.cancel()

    request = interrupted(client.get(url, extensions={"trace": trace}), at, is_ours, cancel)
    if natively:
        task = asyncio.ensure_future(request)
        with suppress(asyncio.CancelledError):
            await task
    else:
        with anyio.CancelScope() as scope:
            await request
    return events


@pytest.mark.parametrize("during", ["connection.connect_tcp", "connection.start_tls"])
@pytest.mark.parametrize(
    ("name", "natively"),
    [*((name, False) for name in BACKENDS), ("asyncio", True), ("uvloop", True)],
)
def test_a_request_cancelled_wherever_it_waits(
    portals: dict[str, BlockingPortal | None],
    origin: Origin,
    name: str,
    natively: bool,
    during: str,
) -> None:
    """At every single point at which connecting and TLS can be left.

    What comes after that is httpcore's, which does lose places in its pool, with and without a
    proxy: when it is cancelled before it begins to send, for example.
    """
    driver = Driver(portals[name], origin)
    routes = routes_to(origin)
    timeout = httpx.Timeout(10.0, pool=0.1)
    struck = 0
    with SocksServer(host=PROXY_HOST, routes=routes, faults=Faults(split=True)) as server:
        for at in count():
            with driver.through(server.url, limits=ONE_CONNECTION) as client:
                before = client_sockets()
                events = client.run(cancelled, client.client, HTTPS, at, during, natively)
                if events[-2:] == ["cancelled", during + ".failed"]:
                    struck += 1
                    assert eventually(lambda: client_sockets() <= before)  # noqa: B023
                    assert client.get(HTTPS, timeout=timeout).status_code == 200
                elif "cancelled" not in events:
                    break  # there was no wait with that number
    assert struck


@pytest.mark.anyio
async def test_a_request_cancelled_in_the_middle_of_the_body(server: SocksServer) -> None:
    transport = AsyncSocksTransport(server.url, limits=ONE_CONNECTION)
    async with httpx.AsyncClient(transport=transport, timeout=10.0) as client:
        with anyio.CancelScope() as scope:
            async with client.stream("GET", HTTP + "stall") as response:
                async for piece in response.aiter_raw():
                    assert piece == BEGINNING
                    scope.cancel()
        assert scope.cancelled_caught
        assert (await client.get(HTTP)).status_code == 200


def test_an_error_of_the_callers_own_method(driver: Driver) -> None:
    def negotiate(_proxy: Proxy) -> Flow[None]:
        yield from ()
        raise FileNotFoundError("no keytab")

    with SocksServer(host=PROXY_HOST, faults=Faults(method=0x80)) as server:
        proxy = Proxy(*server.address, methods=(Method(0x80, negotiate),))
        with driver.through(proxy) as client:
            with (
                nothing_left_open(),
                pytest.raises(httpx.ProxyError, match="no keytab") as caught,
            ):
                client.get(HTTP)
        assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_label_that_tls_cannot_carry(origin: Origin) -> None:
    url = f"https://{'n' * 64}.test/"
    routes = {(f"{'n' * 64}.test", 443): ("127.0.0.1", origin.https_port)}
    with SocksServer(host=PROXY_HOST, routes=routes) as server:
        with httpx.Client(transport=SocksTransport(server.url)) as client:
            with nothing_left_open(), pytest.raises(httpx.ConnectError, match="too long"):
                client.get(url)


def test_an_interrupted_tls_handshake(
    server: SocksServer, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_self: ssl.SSLSocket, _block: bool = False) -> None:
        raise KeyboardInterrupt

    transport = SocksTransport(server.url, verify=origin.trust(), limits=ONE_CONNECTION)
    with httpx.Client(transport=transport) as client:
        with nothing_left_open(), monkeypatch.context() as patch:
            patch.setattr(ssl.SSLSocket, "do_handshake", interrupt)
            with pytest.raises(KeyboardInterrupt) as held:
                client.get(HTTPS)
        assert client.get(HTTPS).status_code == 200
        del held


@pytest.mark.parametrize("kind", [SocksTransport, AsyncSocksTransport])
def test_a_name_to_connect_from(kind: type[SocksTransport | AsyncSocksTransport]) -> None:
    with pytest.raises(ValueError, match="must be an IP address, not 'localhost'"):
        kind("socks5h://127.0.0.1", local_address="localhost")


def test_a_redirection_to_where_socks_cannot_go(driver: Driver, server: SocksServer) -> None:
    url = f"{HTTP}redirect?to=http://{'n' * 256}/"
    with driver.through(server.url) as client:
        with pytest.raises(httpx.UnsupportedProtocol, match="host is 256 octets long"):
            client.get(url, follow_redirects=True)


def test_the_errors_of_earlier_addresses_are_noted(
    driver: Driver, names: dict[str, list[str]]
) -> None:
    names["origin.test"] = ["192.0.2.1", "192.0.2.2"]
    faults = [Faults(reply=0x04), Faults(stall_after=2)]
    with SocksServer(host=PROXY_HOST, faults=faults) as server:
        with driver.through(server.url.replace("socks5h", "socks5")) as client:
            with pytest.raises(httpx.ConnectTimeout) as caught:
                client.get(HTTP, timeout=0.5)
    assert isinstance(caught.value.__cause__, ProxyTimeout)
    [note] = caught.value.__cause__.__notes__
    assert note.startswith("before that, 192.0.2.1: ")
