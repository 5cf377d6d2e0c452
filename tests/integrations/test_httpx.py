"""The transports for httpx and httpx2 do through a proxy what `HTTPTransport` does directly."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from socksclient import Proxy, ProxyConnectError
from socksclient.testing import Faults, SocksServer

from helpers.http_clients import (
    ACCOUNTS,
    HTTP,
    HTTPS,
    OK,
    ONE_CONNECTION,
    PROXY_HOST,
    Driver,
    Pair,
    answering,
    fail,
    nothing_left_open,
    routes_to,
)
from helpers.origin import Origin, content, digest, digest_of
from helpers.support import LONG, REFUSED_PORT, SHORT, Address, eventually, serving

pytest_plugins = ["helpers.http_fixtures"]

MEGABYTES_100 = 100_000_000


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
def test_transport_request_by_url_and_http_version(
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


def test_transport_request_body(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url) as client:
        assert client.request("POST", HTTP + "echo", content=b"and back").content == b"and back"
        assert client.send([b"and ", b"back"], HTTPS + "echo").content == b"and back"


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_transport_downloads_100_megabytes(driver: Driver, server: SocksServer, url: str) -> None:
    url += f"download?octets={MEGABYTES_100}"
    with driver.through(server.url) as client, client.stream(url) as response:
        assert client.digest(response) == digest(MEGABYTES_100)


@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_transport_uploads_100_megabytes(driver: Driver, server: SocksServer, url: str) -> None:
    with driver.through(server.url) as client:
        response = client.send(content(MEGABYTES_100), url + "upload")
    assert response.json() == {"sha256": digest(MEGABYTES_100), "octets": MEGABYTES_100}


def test_transport_without_timeout_races_proxy_addresses(
    driver: Driver, server: SocksServer, names: dict[str, list[str]]
) -> None:
    """The proxy has one address, and then two, of which the first one answers."""
    server.misbehave(Faults(drip=0.001))
    proxy = f"socks5h://proxy.test:{server.address[1]}"
    for addresses in [PROXY_HOST], [PROXY_HOST, "127.0.0.4"]:
        names["proxy.test"] = addresses
        with driver.through(proxy) as client:
            assert client.get(HTTP, timeout=None).status_code == 200
            assert client.get(HTTPS, timeout=None).status_code == 200
    assert len(server.requests) == 4


def test_client_redirects_and_cookies(driver: Driver, server: SocksServer) -> None:
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
    # The cookie belongs to another host.
    assert response.text == ""
    assert [request.destination for request in server.requests] == [
        ("origin.test", 80),
        ("other.test", 80),
    ]


def test_transport_in_client_mounts(driver: Driver, server: SocksServer) -> None:
    elsewhere = driver.httpx.MockTransport(lambda _request: driver.httpx.Response(418))
    mounts = {"all://origin.test": driver.transport(server.url)}
    with driver.client(elsewhere, mounts=mounts) as client:
        assert client.get(HTTP).status_code == 200
        assert client.get("http://other.test/").status_code == 418
    assert [request.destination for request in server.requests] == [("origin.test", 80)]


def test_transport_ignores_proxies_of_environment(
    driver: Driver, server: SocksServer, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{REFUSED_PORT}")
        monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{REFUSED_PORT}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    # Without a transport of ours, httpx uses the proxies of the environment.
    with pytest.raises(driver.httpx.ConnectError):
        driver.httpx.get(f"http://127.0.0.1:{origin.http_port}/")
    with driver.through(server.url) as client:
        assert client.get(HTTP).status_code == 200
        assert client.get(HTTPS).status_code == 200
    assert len(server.requests) == 2


def test_transport_sends_proxy_credentials(driver: Driver, origin: Origin) -> None:
    with SocksServer(host=PROXY_HOST, accounts=ACCOUNTS, routes=routes_to(origin)) as server:
        with driver.through(server.url) as client:
            assert client.get(HTTP).status_code == 200
        with driver.through(Proxy(*server.address, username="user", password="pass")) as client:
            assert client.get(HTTP).status_code == 200
    assert [(seen.username, seen.password) for seen in server.requests] == [("user", "pass")] * 2


def test_response_body_ended_by_connection_close(driver: Driver) -> None:
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


def test_network_stream_of_upgraded_connection(driver: Driver) -> None:
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
        # `read` returns no more octets than were asked for.
        assert client.run(stream.read, 3) == b"and"
        assert client.run(stream.read, 100, timeout=LONG) == b" back"
        assert client.run(stream.read, 100) == b""


# The pool


def test_pool_reuses_connection(driver: Driver, server: SocksServer) -> None:
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
    [{"keepalive_expiry": 0.0}, {"max_keepalive_connections": 0}],
    ids=str,
)
def test_pool_closes_connection_by_keepalive_limits(
    driver: Driver, server: SocksServer, limits: dict[str, Any]
) -> None:
    with driver.through(server.url, limits=limits) as client:
        client.get(HTTP)
        with nothing_left_open():
            client.get(HTTP)
            client.get(HTTP)
    assert len(server.connections) == 3


def test_pool_limits_raise_pool_timeout(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        with client.stream(HTTP + "stall"):
            with pytest.raises(driver.httpx.PoolTimeout) as caught:
                client.get(HTTP, timeout=driver.httpx.Timeout(LONG, pool=0.1))
            assert caught.value.request.url == HTTP
        assert client.get(HTTP).status_code == 200
    assert len(server.connections) == 2


def test_pool_with_concurrent_requests(driver: Driver, server: SocksServer) -> None:
    with (
        driver.through(server.url, limits={"max_connections": 3}) as client,
        ThreadPoolExecutor(12) as threads,
    ):
        answers = threads.map(client.get, [HTTP + "download?octets=200000"] * 12)
        assert [digest_of([answer.content]) for answer in answers] == [digest(200000)] * 12
        assert len(server.connections) <= 12
    assert eventually(lambda: len(server.requests) == len(server.connections))


def test_http2_requests_share_one_connection(driver: Driver, server: SocksServer) -> None:
    # In httpcore, several threads cannot use a blocking HTTP/2 connection at the same time.
    count = 1 if driver.blocking else 12
    with driver.through(server.url, http2=True) as client, ThreadPoolExecutor(count) as threads:
        assert client.get(HTTPS).http_version == "HTTP/2"
        answers = threads.map(client.get, [HTTPS + "download?octets=200000"] * 12)
        assert [digest_of([answer.content]) for answer in answers] == [digest(200000)] * 12
    assert len(server.connections) == 1


def test_pool_replaces_connection_closed_by_server(driver: Driver) -> None:
    with (
        answering(OK) as url,
        SocksServer(host=PROXY_HOST) as server,
        driver.through(server.url, limits=ONE_CONNECTION) as client,
    ):
        stream = client.get(url).extensions["network_stream"]
        assert eventually(lambda: bool(stream.get_extra_info("is_readable")))
        assert client.get(url).text == "ok"
    assert len(server.connections) == 2


def test_unread_response_body_leaves_nothing_open(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, limits=ONE_CONNECTION) as client, nothing_left_open():
        with client.stream(HTTP + "download?octets=10000000"):
            pass
        with client.stream(HTTPS + "stall"):
            pass


def test_client_close_closes_all_connections(driver: Driver, server: SocksServer) -> None:
    with nothing_left_open():
        client = driver.through(server.url)
        client.get(HTTP)
        stream = client.get(HTTPS).extensions["network_stream"]
        assert stream.get_extra_info("is_readable") is False
        client.close()
    assert eventually(lambda: stream.get_extra_info("is_readable") is True)


def test_socks_transport_is_context_manager(pair: Pair, server: SocksServer) -> None:
    with nothing_left_open(), pair.transport(server.url, blocking=True) as transport:
        assert transport.handle_request(pair.httpx.Request("GET", HTTP)).read()


@pytest.mark.anyio
async def test_async_socks_transport_is_async_context_manager(
    pair: Pair, server: SocksServer
) -> None:
    async with pair.transport(server.url, blocking=False) as transport:
        response = await transport.handle_async_request(pair.httpx.Request("GET", HTTP))
        assert await response.aread()
        stream = response.extensions["network_stream"]
    assert stream.get_extra_info("is_readable")


# Clients of another kind


@pytest.mark.parametrize("by_environment", [False, True])
@pytest.mark.anyio
async def test_client_of_other_kind_is_told_transport_class(
    pair: Pair, server: SocksServer, by_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("all_proxy", server.url)
    kinds = (pair.socksclient.SocksTransport, pair.socksclient.AsyncSocksTransport)
    blocking, awaited = (kind.from_env() if by_environment else kind(server.url) for kind in kinds)
    client = pair.httpx.Client(transport=awaited)
    text = "^Client takes SocksTransport, not AsyncSocksTransport$"
    for call in (client.__enter__, partial(client.get, HTTP), client.close):
        with pytest.raises(AttributeError, match=text):
            call()
    async_client = pair.httpx.AsyncClient(transport=blocking)
    text = "^AsyncClient takes AsyncSocksTransport, not SocksTransport$"
    for call in (async_client.__aenter__, partial(async_client.get, HTTP), async_client.aclose):
        with pytest.raises(AttributeError, match=text):
            await call()
    assert server.connections == []
    assert not hasattr(awaited, "handle_request")
    assert not hasattr(blocking, "handle_async_request")
    with pytest.raises(AttributeError, match="object has no attribute 'something'"):
        blocking.something  # noqa: B018


def test_transport_refuses_object_other_than_request(pair: Pair, server: SocksServer) -> None:
    transport = pair.transport(server.url, blocking=True)
    name = pair.httpx.__name__
    with pytest.raises(TypeError, match=f"the request must be an {name}.Request, not a str"):
        transport.handle_request(HTTP)


# Options


def test_local_address_option(driver: Driver, server: SocksServer) -> None:
    with driver.through(server.url, local_address="127.0.0.2") as client:
        client.get(HTTP)
    [connection] = server.connections
    assert connection.client[0] == "127.0.0.2"


def test_local_address_of_another_machine_is_connect_error(
    driver: Driver, server: SocksServer
) -> None:
    with driver.through(server.url, local_address="192.0.2.1") as client:
        error = fail(client, HTTP, "ConnectError")
    assert isinstance(error.__cause__, ProxyConnectError)
    assert server.connections == []


def test_socket_options_are_set(driver: Driver, server: SocksServer) -> None:
    # The options serve two connections, although an iterator yields them only once.
    options = iter([(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)])
    with driver.through(server.url, socket_options=options) as client:
        for url in (HTTP, HTTPS):
            sock = client.get(url).extensions["network_stream"].get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_invalid_socket_option_is_connect_error(driver: Driver, server: SocksServer) -> None:
    options = [(socket.SOL_SOCKET, 9999, 1)]
    with driver.through(server.url, socket_options=options) as client:
        fail(client, HTTP, "ConnectError")


def test_network_stream_get_extra_info(driver: Driver, server: SocksServer) -> None:
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


def test_network_stream_get_extra_info_after_close(driver: Driver) -> None:
    """The stream returns None or raises an OSError, as the streams of httpcore do."""
    with (
        answering(b"HTTP/1.0 200 OK\r\n\r\nuntil the end") as url,
        SocksServer(host=PROXY_HOST) as server,
        driver.through(server.url) as client,
    ):
        stream = client.get(url).extensions["network_stream"]
        assert eventually(lambda: stream.get_extra_info("is_readable") is True)
        with suppress(OSError):
            assert stream.get_extra_info("server_addr") in (None, server.address)


def test_trace_extension(driver: Driver, server: SocksServer) -> None:
    events: list[str] = []
    with driver.through(server.url) as client:
        client.get(HTTPS, extensions=client.trace(lambda name, _: events.append(name)))
    assert events[:4] == [
        "connection.connect_tcp.started",
        "connection.connect_tcp.complete",
        "connection.start_tls.started",
        "connection.start_tls.complete",
    ]


@pytest.mark.parametrize("blocking", [True, False])
def test_create_ssl_context_gets_keyword_arguments(
    pair: Pair, blocking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before httpx 0.28, the first parameter was `cert`, and not `verify`."""
    seen: dict[str, object] = {}

    def create_ssl_context(**options: object) -> ssl.SSLContext:
        seen.update(options)
        return ssl.create_default_context()

    monkeypatch.setattr(pair.httpx, "create_ssl_context", create_ssl_context)
    pair.transport("socks5h://127.0.0.1", blocking=blocking)
    assert seen == {"verify": True, "cert": None, "trust_env": True}


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("proxy", ["127.0.0.1:1080", "ftp://127.0.0.1", "socks5h://127.0.0.1:0x50"])
def test_transport_refuses_invalid_proxy_url(pair: Pair, blocking: bool, proxy: str) -> None:
    with pytest.raises(ValueError, match=r"proxy|scheme|port"):
        pair.transport(proxy, blocking=blocking)


@pytest.mark.parametrize("kind", ["Transport", "AsyncTransport"])
def test_transport_signature_equals_signature_in_httpx(pair: Pair, kind: str) -> None:
    ours, theirs = (
        {name: option.default for name, option in inspect.signature(cls).parameters.items()}
        for cls in (
            getattr(pair.socksclient, kind.replace("Transport", "SocksTransport")),
            getattr(pair.httpx, kind.replace("Transport", "HTTPTransport")),
        )
    )
    del ours["proxy"], theirs["proxy"], theirs["uds"]
    limits = ours.pop("limits")
    assert pair.httpx.Limits(**limits._asdict()) == theirs.pop("limits")
    assert ours == theirs


@pytest.mark.parametrize("kind", ["SocksTransport", "AsyncSocksTransport"])
def test_transport_docstring_explains_every_option(pair: Pair, kind: str) -> None:
    transport = getattr(pair.socksclient, kind)
    assert f"`{pair.httpx.__name__}." in transport.__doc__
    for name in inspect.signature(transport).parameters:
        assert f"{name}: " in transport.__init__.__doc__


@pytest.mark.parametrize("blocking", [True, False])
def test_local_address_refuses_host_name(pair: Pair, blocking: bool) -> None:
    with pytest.raises(ValueError, match="must be an IP address, not 'localhost'"):
        pair.transport("socks5h://127.0.0.1", blocking=blocking, local_address="localhost")


# Retries


def test_retries_after_connect_timeout(driver: Driver, server: SocksServer) -> None:
    timeout = driver.httpx.Timeout(LONG, connect=SHORT)
    server.misbehave([Faults(stall_after=0), Faults(stall_after=0)])
    with driver.through(server.url) as client:
        fail(client, HTTP, "ConnectTimeout", timeout=timeout)
    assert len(server.connections) == 1
    with driver.through(server.url, retries=1) as client:
        assert client.get(HTTP, timeout=timeout).status_code == 200
    assert len(server.connections) == 3


def test_retries_after_refused_connection(driver: Driver) -> None:
    events: list[str] = []
    with driver.through(f"socks5h://127.0.0.1:{REFUSED_PORT}", retries=1) as client:
        trace = client.trace(lambda name, _: events.append(name))
        fail(client, HTTP, "ConnectError", extensions=trace)
    assert events.count("connection.connect_tcp.started") == 2


def test_no_retries_after_refused_request(driver: Driver, server: SocksServer) -> None:
    server.misbehave([Faults(reply=0x05)])
    with driver.through(server.url, retries=1) as client:
        fail(client, HTTP, "ProxyError")
    assert len(server.connections) == 1
