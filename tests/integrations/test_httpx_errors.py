"""The errors of the transports for httpx and httpx2, their deadlines, and cancellation."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream

from socksclient import (
    AuthenticationError,
    Flow,
    Method,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
    Reply,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient.exceptions import ConnectionRefused, Phase, TTLExpired
from socksclient.testing import Faults, SocksServer
from socksclient.testing.conversation import reset

from helpers.http_clients import (
    ACCOUNTS,
    HANDSHAKE,
    HTTP,
    HTTPS,
    OK,
    ONE_CONNECTION,
    PROXY_HOST,
    Client,
    Driver,
    Pair,
    answering,
    fail,
    nothing_left_open,
    routes_to,
    saying_nothing,
)
from helpers.origin import BEGINNING, Origin
from helpers.support import BACKENDS, LONG, REFUSED_PORT, SHORT, resolver, serving, silence
from helpers.turns import Played, cancelled_in_turn, playing, speak_http, speak_tls, ways

pytest_plugins = ["helpers.http_fixtures"]

# httpx leaves the body of a failed request to the garbage collector, and trio warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'httpx._content:ResourceWarning")


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
def test_refusal_or_fault_of_proxy_is_proxy_error(
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
        error = fail(client, url, "ProxyError")
        assert_caused(error, cause, phase, server.url, url)
        if faults.reply is not None:
            assert isinstance(error.__cause__, ReplyError)
            assert error.__cause__.reply == Reply(faults.reply)
        # The pool may have one connection only: the failed one has given its place back.
        assert client.get(url).status_code == 200


def assert_caused(
    error: Exception, cause: type[SocksError], phase: Phase, proxy: str, url: str
) -> None:
    """Check that the `SocksError` is the cause, and that it is complete."""
    reason = error.__cause__
    assert isinstance(reason, cause)
    assert isinstance(reason, SocksError)
    assert reason.phase == phase
    assert reason.proxy == Proxy.from_url(proxy)
    assert reason.destination == (urlsplit(url).hostname, 443 if url.startswith("https") else 80)
    assert str(error) == str(reason)
    assert "pass" not in str(error)


def test_wrong_credentials_are_proxy_error(driver: Driver) -> None:
    with SocksServer(host=PROXY_HOST, accounts=ACCOUNTS) as server:
        proxy = Proxy(*server.address, username="user", password="passwd")
        with driver.through(proxy) as client:
            error = fail(client, HTTP, "ProxyError")
    assert isinstance(error.__cause__, AuthenticationError)
    assert "passwd" not in repr(error)


def test_proxy_refusing_connections_is_connect_error(driver: Driver) -> None:
    proxy = f"socks5h://127.0.0.1:{REFUSED_PORT}"
    with driver.through(proxy) as client:
        error = fail(client, HTTP, "ConnectError")
    assert_caused(error, ProxyConnectError, "connect", proxy, HTTP)


def test_proxy_name_without_address_is_connect_error(
    driver: Driver, names: dict[str, list[str]]
) -> None:
    proxy = "socks5h://proxy.test:1080"
    with driver.through(proxy) as client:
        error = fail(client, HTTP, "ConnectError")
    assert_caused(error, ProxyConnectError, "resolve", proxy, HTTP)


def test_destination_name_without_address_is_connect_error(
    driver: Driver, server: SocksServer, names: dict[str, list[str]]
) -> None:
    proxy = server.url.replace("socks5h", "socks5")
    with driver.through(proxy) as client:
        error = fail(client, HTTP, "ConnectError")
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
def test_destination_beyond_socks_is_unsupported_protocol(
    driver: Driver, server: SocksServer, url: str
) -> None:
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        with (
            nothing_left_open(),
            pytest.raises(driver.httpx.UnsupportedProtocol, match=r"zone id|port|octets") as caught,
        ):
            client.get(url)
        assert isinstance(caught.value.__cause__, ValueError)
        assert server.connections == []
        assert client.get(HTTP).status_code == 200


def test_connect_timeout_is_deadline_of_every_phase(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cases run at the same time, so that they take no longer than one."""
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
        (Faults(drip=0.55), "authentication"),
        (Faults(drip=1.1), "method selection"),
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
        # The handshake for TLS with the destination stalls.
        cases.append((server.url, f"https://{host}:{port}/", None))
        clients = [stack.enter_context(driver.through(proxy)) for proxy, _, _ in cases]
        threads = stack.enter_context(ThreadPoolExecutor(len(cases)))
        stack.callback(released.set)

        def fetch(client: Client, url: str) -> tuple[float, Any]:
            begin = time.monotonic()
            with pytest.raises(driver.httpx.ConnectTimeout) as caught:
                client.get(url, timeout=driver.httpx.Timeout(None, connect=2.0))
            return time.monotonic() - begin, caught.value

        with nothing_left_open():
            results = list(threads.map(fetch, clients, (url for _, url, _ in cases)))
        for (proxy, url, phase), (seconds, error) in zip(cases, results, strict=True):
            assert 1.9 <= seconds < LONG, (proxy, url)
            assert error.request.url == url
            if phase is None:
                assert not isinstance(error.__cause__, SocksError)
            else:
                assert isinstance(error.__cause__, ProxyTimeout)
                assert error.__cause__.phase == phase
                assert error.__cause__.proxy == Proxy.from_url(proxy)


def test_connect_timeout_frees_place_in_pool(driver: Driver, server: SocksServer) -> None:
    server.misbehave([Faults(stall_after=HANDSHAKE - 1), Faults(stall_after=HANDSHAKE)])
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        # The first timeout passes in the handshake with the proxy, the second in the TLS handshake.
        for url in (HTTP, HTTPS):
            fail(client, url, "ConnectTimeout", timeout=driver.httpx.Timeout(LONG, connect=SHORT))
        assert client.get(HTTPS).status_code == 200
    assert len(server.connections) == 3


def test_error_of_own_method_is_proxy_error(driver: Driver) -> None:
    def negotiate(_proxy: Proxy) -> Flow[None]:
        yield from ()
        raise FileNotFoundError("no keytab")

    with SocksServer(host=PROXY_HOST, faults=Faults(method=0x80)) as server:
        proxy = Proxy(*server.address, methods=(Method(0x80, negotiate),))
        with driver.through(proxy) as client:
            with (
                nothing_left_open(),
                pytest.raises(driver.httpx.ProxyError, match="no keytab") as caught,
            ):
                client.get(HTTP)
        assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_connect_timeout_notes_errors_of_earlier_addresses(
    driver: Driver, names: dict[str, list[str]]
) -> None:
    names["origin.test"] = ["192.0.2.1", "192.0.2.2"]
    faults = [Faults(reply=0x04), Faults(stall_after=2)]
    with SocksServer(host=PROXY_HOST, faults=faults) as server:
        with driver.through(server.url.replace("socks5h", "socks5")) as client:
            with pytest.raises(driver.httpx.ConnectTimeout) as caught:
                client.get(HTTP, timeout=SHORT)
    assert isinstance(caught.value.__cause__, ProxyTimeout)
    [note] = caught.value.__cause__.__notes__
    assert note.startswith("before that, 192.0.2.1: ")


def test_redirection_to_host_beyond_socks(driver: Driver, server: SocksServer) -> None:
    url = f"{HTTP}redirect?to=http://{'n' * 256}/"
    with driver.through(server.url) as client:
        with pytest.raises(driver.httpx.UnsupportedProtocol, match="host is 256 octets long"):
            client.get(url, follow_redirects=True)


# The same errors as without a proxy


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "RemoteProtocolError"),
        (b"220 not HTTP\r\n\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\n", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nx", "RemoteProtocolError"),
    ],
)
def test_invalid_response_fails_as_without_proxy(
    driver: Driver, server: SocksServer, answer: bytes, error: str
) -> None:
    with answering(answer) as url:
        assert_fails_alike(driver, server, url, error)


def test_incomplete_body_fails_as_without_proxy(
    driver: Driver, server: SocksServer, origin: Origin
) -> None:
    url = f"http://127.0.0.1:{origin.http_port}/break"
    assert_fails_alike(driver, server, url, "RemoteProtocolError")


@pytest.mark.parametrize("path", ["stall", "stall/before"])
def test_read_timeout_is_raised_as_without_proxy(
    driver: Driver, server: SocksServer, origin: Origin, path: str
) -> None:
    timeout = driver.httpx.Timeout(LONG, read=0.1)
    with ExitStack() as stack:
        port = origin.http_port
        if path == "stall/before":
            _, port = stack.enter_context(saying_nothing())
        url = f"http://127.0.0.1:{port}/{path}"
        assert_fails_alike(driver, server, url, "ReadTimeout", timeout=timeout)


def test_invalid_request_fails_as_without_proxy(
    driver: Driver, server: SocksServer, origin: Origin
) -> None:
    url = f"http://127.0.0.1:{origin.http_port}/"
    assert_fails_alike(driver, server, url, "LocalProtocolError", headers={"x": "a\nb"})
    assert_fails_alike(driver, server, "ftp://127.0.0.1/", "UnsupportedProtocol")


def assert_fails_alike(
    driver: Driver,
    server: SocksServer,
    url: str,
    name: str,
    **options: Any,
) -> None:
    """Check that the error is the same without the proxy, and that its place is free again."""
    with driver.direct() as client:
        fail(client, url, name, **options)
    with driver.through(server.url, limits=ONE_CONNECTION) as client:
        fail(client, url, name, **options)
        assert client.get(HTTP).status_code == 200


def test_write_timeout(driver: Driver, server: SocksServer) -> None:
    """The destination does not read, so some buffer on the way becomes full."""
    timeout = driver.httpx.Timeout(LONG, write=0.2)
    with saying_nothing() as (host, port), driver.through(server.url) as client:
        with nothing_left_open(), pytest.raises(driver.httpx.WriteTimeout) as caught:
            client.request("POST", f"http://{host}:{port}/", content=bytes(10**8), timeout=timeout)
        assert caught.value.request.method == "POST"


def test_reset_by_proxy_is_read_error_or_write_error(driver: Driver) -> None:
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
        # It takes a moment until the reset has arrived.
        while True:
            client.run(stream.write, b"something")

    with serving(handle, PROXY_HOST) as (host, port):
        with driver.through(f"socks5h://{host}:{port}") as client:
            fail(client, HTTP, "ReadError")
            with client.stream(HTTP) as response:
                stream = response.extensions["network_stream"]
                with pytest.raises(driver.httpcore.WriteError):
                    write(client, stream)
                # HTTP/2 writes nothing after most reads. That must not lose a response that has
                # arrived.
                client.run(stream.write, b"")


# Cancellation


@pytest.mark.anyio
@pytest.mark.parametrize("octets", [0, 1, 2, 3, HANDSHAKE - 1])
async def test_cancelled_request_frees_place_in_pool(
    pair: Pair, server: SocksServer, octets: int
) -> None:
    async def the_handshake_stalls(number: int) -> None:
        while len(server.connections) < number or len(server.connections[-1].sent) < octets:
            await anyio.lowlevel.checkpoint()

    async def expire() -> None:
        await the_handshake_stalls(2)
        scope.deadline = anyio.current_time()

    server.misbehave([Faults(stall_after=octets), Faults(stall_after=octets)])
    async with pair.async_client(server.url, limits=ONE_CONNECTION) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.get, HTTP)
            await the_handshake_stalls(1)
            group.cancel_scope.cancel()
        async with anyio.create_task_group() as group:
            group.start_soon(expire)
            with pytest.raises(TimeoutError), anyio.fail_after(60) as scope:
                await client.get(HTTP)
        assert (await client.get(HTTP)).status_code == 200
    assert len(server.connections) == 3


@pytest.mark.anyio
async def test_waiting_requests_get_place_of_cancelled_request(
    pair: Pair, server: SocksServer
) -> None:
    server.misbehave([Faults(stall_after=0)])
    statuses: list[int] = []

    async def fetch(client: Any) -> None:
        statuses.append((await client.get(HTTP)).status_code)

    async with (
        pair.async_client(server.url, limits=ONE_CONNECTION) as client,
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


@ways
@pytest.mark.parametrize("url", [HTTP, HTTPS])
def test_request_cancelled_in_any_turn_frees_place_in_pool(
    pair: Pair, origin: Origin, loop: str, natively: bool, url: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    origin.ca.issue_cert("origin.test").configure_cert(context)
    trust = origin.trust()
    timeout = pair.httpx.Timeout(LONG, pool=10.0)
    # After `Task.cancel`, httpcore 1.0 loses a place in its pool if the connection is ready just
    # then: see findings/httpcore-cancelled-requests.sh. httpcore2 does not.
    checks_connecting_only = natively and pair.httpcore.__name__ == "httpcore"
    connecting = ("connection.connect_tcp.failed", "connection.start_tls.failed")

    async def answer(stream: ByteStream) -> None:
        await speak_http(await speak_tls(context, stream) if url == HTTPS else stream)

    async def cancel_in_turn(number: int, played: Played) -> bool:
        events = []

        async def trace(name: str, _info: dict[str, Any]) -> None:
            events.append(name)

        async with pair.async_client(played.url, verify=trust, limits=ONE_CONNECTION) as client:
            request = partial(client.get, url, extensions={"trace": trace})
            in_time, _ = await cancelled_in_turn(number, request, natively=natively)
            if not checks_connecting_only or events[-1:] == [] or events[-1] in connecting:
                assert (await client.get(url, timeout=timeout)).status_code == 200, number
        await played.wait_until_all_is_closed()
        return in_time

    async def main() -> None:
        async with playing(answer) as played:
            number = 0
            while await cancel_in_turn(number, played):
                number += 1
        assert number > 20

    anyio.run(main, **BACKENDS[loop])


@pytest.mark.anyio
async def test_request_cancelled_within_body_frees_place_in_pool(
    pair: Pair, server: SocksServer
) -> None:
    async with pair.async_client(server.url, limits=ONE_CONNECTION) as client:
        with anyio.CancelScope() as scope:
            async with client.stream("GET", HTTP + "stall") as response:
                async for piece in response.aiter_raw():
                    assert piece == BEGINNING
                    scope.cancel()
        assert scope.cancelled_caught
        assert (await client.get(HTTP)).status_code == 200
