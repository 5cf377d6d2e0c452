"""HTTP's CONNECT: the octets of requests, invalid arguments, successes, httpx and secrets."""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trustme

import socksclient
import socksclient.anyio
from socksclient import (
    AuthenticationError,
    ProtocolError,
    Proxy,
    ProxyClosed,
    SocksError,
)
from socksclient.exceptions import ConnectionNotAllowed
from socksclient.protocol.codes import Command
from socksclient.protocol.http import MAX_HEAD_SIZE
from socksclient.testing import Faults, SocksServer

from helpers.http_clients import (
    HTTP,
    HTTPS,
    ONE_CONNECTION,
    PROXY_HOST,
    Driver,
    answering,
    fail,
    routes_to,
    saying_nothing,
)
from helpers.origin import Origin
from helpers.schemes import ODD_FIELDS
from helpers.support import (
    BACKENDS,
    GREETING,
    LONG,
    SHORT,
    Address,
    Dial,
    assert_echoes,
    nothing_left_open,
    receive_exactly,
    serving,
)

pytest_plugins = ["helpers.http_fixtures"]

NAME = ("origin.test", 443)
OK = b"HTTP/1.1 200 OK\r\n\r\n"
ACCOUNTS = {"user": "pass"}

# RFC 7617 §2 and §2.1
ALADDIN = ("Aladdin", "open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
POUNDS = ("test", "123\u00a3", "dGVzdDoxMjPCow==")


AGENT = "User-Agent: socksclient\r\n"


class TestRequest:
    @pytest.mark.parametrize(
        ("address", "target"),
        [
            (("example.com", 443), "example.com:443"),
            (("example.com", 80), "example.com:80"),
            (("EXAMPLE.com.", 65535), "EXAMPLE.com.:65535"),
            (("under_score.example", 1), "under_score.example:1"),
            (("bücher.example", 80), "xn--bcher-kva.example:80"),
            (("n" * 255, 80), f"{'n' * 255}:80"),
            (("192.0.2.1", 80), "192.0.2.1:80"),
            (("0.0.0.1", 80), "0.0.0.1:80"),
            (("127.1", 80), "127.1:80"),
            (("2001:db8::1", 443), "[2001:db8::1]:443"),
            (("[2001:DB8:0::1]", 443), "[2001:db8::1]:443"),
        ],
    )
    def test_http_request_octets(
        self, dial: Dial, echo_server: Address, address: Address, target: str
    ) -> None:
        host = target.rpartition(":")[0].strip("[]")
        with SocksServer(routes={(host, address[1]): echo_server}) as server:
            with dial(address, proxy=server.url_as("http")) as sock:
                assert_echoes(sock)
            [seen] = server.requests
        message = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{AGENT}\r\n"
        assert seen.received == message.encode()
        assert [who for who, _ in seen.transcript] == ["client", "server"]
        assert (seen.protocol, seen.command) == ("HTTP", Command.CONNECT)
        assert (seen.username, seen.password) == (None, None)
        assert (seen.destination, seen.reply) == ((host, address[1]), 200)

    @pytest.mark.parametrize(
        ("username", "password", "credentials"),
        [
            ALADDIN,
            POUNDS,
            ("user", "", "dXNlcjo="),
            ("", "pass", "OnBhc3M="),
            ("", "", "Og=="),
            ("us@er/", "p:a:ss", "dXNAZXIvOnA6YTpzcw=="),
            ("€" * 100, "ü" * 300, None),
            ("user", "p" * 20_000, None),
        ],
        ids=lambda value: value[:9] if isinstance(value, str) else "",
    )
    def test_http_request_octets_with_credentials(
        self,
        dial: Dial,
        echo_server: Address,
        username: str,
        password: str,
        credentials: str | None,
    ) -> None:
        if credentials is None:
            credentials = base64.b64encode(f"{username}:{password}".encode()).decode()
        with SocksServer(accounts={username: password}, routes={NAME: echo_server}) as server:
            proxy = Proxy(*server.address, scheme="http", username=username, password=password)
            assert proxy == Proxy.from_url(server.url_as("http"))
            with dial(NAME, proxy=proxy) as sock:
                assert_echoes(sock)
            [seen] = server.requests
        assert seen.received.decode() == (
            "CONNECT origin.test:443 HTTP/1.1\r\n"
            "Host: origin.test:443\r\n"
            f"Proxy-Authorization: Basic {credentials}\r\n{AGENT}\r\n"
        )
        assert (seen.username, seen.password) == (username, password)

    def test_http_username_without_password(self, dial: Dial, echo_server: Address) -> None:
        with SocksServer() as server:
            host, port = server.address
            dial(echo_server, proxy=f"http://user@{host}:{port}").close()
            assert server.requests[0].received.endswith(f"Basic dXNlcjo=\r\n{AGENT}\r\n".encode())


ASKED: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...]]] = {
    "BIND": (
        lambda *address, proxy: socksclient.bind(address, 5, proxy=proxy),
        socksclient.anyio.bind,
        ("0.0.0.0", 0),
    ),
    "UDP ASSOCIATE": (
        partial(socksclient.udp_associate, 5, local_address=("127.0.0.1", 0)),
        socksclient.anyio.udp_associate,
        (),
    ),
    "RESOLVE": (socksclient.resolve, socksclient.anyio.resolve, ("origin.test",)),
    "RESOLVE_PTR": (socksclient.resolve_ptr, socksclient.anyio.resolve_ptr, ("192.0.2.1",)),
}


class TestInvalidArguments:
    @pytest.mark.parametrize("command", ASKED)
    def test_http_refuses_other_commands(self, command: str) -> None:
        blocking, awaited, arguments = ASKED[command]
        words = f"an HTTP proxy does not support {command}"
        with SocksServer() as server:
            proxy = server.url_as("http")
            with nothing_left_open():
                with pytest.raises(ValueError, match=words) as held:
                    blocking(*arguments, proxy=proxy)
                with pytest.raises(ValueError, match=words) as also_held:
                    anyio.run(partial(awaited, *arguments, proxy=proxy))
                assert held, also_held
            assert server.connections == []

    @pytest.mark.parametrize(
        ("host", "words"),
        [
            ("origin.test\r\nX-Evil: yes", "has '.r' in it"),
            ("origin.test\n", "has '.n' in it"),
            ("origin test", "has ' ' in it"),
            ("nul\0.example", "has '.x00' in it"),
            ("origin.test:80", "has ':' in it"),
            ("http://origin.test", "has ':' in it"),
            ("n" * 256, "host is 256 octets long"),
            ("fe80::1%eth0", "zone id"),
            ("", "host is empty"),
        ],
    )
    def test_http_refuses_invalid_destination(self, dial: Dial, host: str, words: str) -> None:
        with SocksServer() as server:
            with pytest.raises(ValueError, match=words):
                dial((host, 80), proxy=server.url_as("http"))
            assert server.connections == []

    @pytest.mark.parametrize(
        ("userinfo", "words"),
        [
            ("us%3Aer:pass", "proxy username has a colon in it, which HTTP cannot carry"),
            (
                "user:pa%0D%0AX-Evil: yes",
                "proxy URL has white space or a control character in its user",
            ),
            ("user:pa%0D%0AX-Evil:yes", "proxy credentials have a control character in them"),
            ("us%00er:pass", "proxy credentials have a control character in them"),
            ("us%7Fer:pass", "proxy credentials have a control character in them"),
        ],
    )
    def test_http_refuses_invalid_credentials(self, dial: Dial, userinfo: str, words: str) -> None:
        with SocksServer() as server:
            host, port = server.address
            with pytest.raises(ValueError, match=words):
                dial(NAME, proxy=f"http://{userinfo}@{host}:{port}")
            assert server.connections == []


SUCCESSES = {
    "the shortest": b"HTTP/1.1 200\n\n",
    "no reason": b"HTTP/1.1 200\r\n\r\n",
    "an empty reason": b"HTTP/1.1 200 \r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n",
    "201": b"HTTP/1.1 201 Created\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "299": b"HTTP/1.1 299 And so on\r\n\r\n",
    "a reason that is not ASCII": b"HTTP/1.1 200 \xc3\xbc\xff\r\nVia: \xff\r\n\r\n",
    "bare LFs": b"HTTP/1.1 200 OK\nVia: a\nX: b\n\n",
    "LF and CRLF": b"HTTP/1.1 200 OK\nVia: a\r\n\n",
    "CRLF and LF": b"HTTP/1.1 200 OK\r\nVia: a\n\r\n",
    "a fold": b"HTTP/1.1 200 OK\r\nVia: a\r\n\tb\r\n \r\n c\r\nX: y\r\n\r\n",
    "no value": b"HTTP/1.1 200 OK\r\nVia:\r\nX:  \r\n\r\n",
    "Content-Length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    "closing": b"HTTP/1.1 200 OK\r\nConnection: close\r\nUpgrade: x\r\n\r\n",
    "a 100": b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    "many 1xx": b"HTTP/1.1 100\n\nHTTP/1.1 102 Processing\r\nX: y\r\n\r\nHTTP/1.0 199\r\n\r\n" + OK,
    "64 KiB": b"HTTP/1.1 200 OK\r\nX: ".ljust(MAX_HEAD_SIZE - 4, b"x") + b"\r\n\r\n",
    "64 KiB with 1xx": b"HTTP/1.1 100\r\n\r\n" * 4094 + OK[:-4].ljust(28) + b"\r\n\r\n",
}
assert len(SUCCESSES["64 KiB"]) == len(SUCCESSES["64 KiB with 1xx"]) == MAX_HEAD_SIZE


class TestSuccess:
    """The destination speaks first, and no octet of its greeting is lost."""

    @pytest.mark.parametrize("name", SUCCESSES)
    def test_http_success_with_data_in_one_segment(
        self, dial: Dial, greeter: Address, name: str
    ) -> None:
        faults = Faults(answers={"request": SUCCESSES[name]}, reply_with_data=True)
        with SocksServer(faults=faults) as server:
            with dial(greeter, proxy=server.url_as("http")) as sock:
                assert receive_exactly(sock, len(GREETING)) == GREETING
                assert_echoes(sock)

    @pytest.mark.parametrize("name", [name for name in SUCCESSES if len(SUCCESSES[name]) < 1000])
    def test_http_success_split(self, dial: Dial, greeter: Address, name: str) -> None:
        faults = Faults(answers={"request": SUCCESSES[name]}, split=True, reply_with_data=True)
        with SocksServer(faults=faults) as server:
            with dial(greeter, proxy=server.url_as("http")) as sock:
                assert receive_exactly(sock, len(GREETING)) == GREETING
                assert_echoes(sock)

    @pytest.mark.parametrize(
        "greeting",
        [
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b"\n\n",
            b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
            b" X: y\r\n\r\n",
        ],
    )
    def test_http_success_with_data_like_a_head(self, dial: Dial, greeting: bytes) -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            await reader.read()

        with serving(greet) as destination:
            for answer in (OK, OK.replace(b"\r", b"")):
                faults = Faults(answers={"request": answer}, reply_with_data=True)
                with SocksServer(faults=faults) as server:
                    with dial(destination, proxy=server.url_as("http")) as sock:
                        assert receive_exactly(sock, len(greeting)) == greeting

    @pytest.mark.parametrize("fields", ODD_FIELDS)
    def test_http_success_ignores_odd_fields(
        self, dial: Dial, greeter: Address, fields: bytes
    ) -> None:
        """RFC 9110 §9.3.6 says that a client must ignore such fields of a success."""
        answer = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % fields
        faults = Faults(answers={"request": answer}, reply_with_data=True)
        with SocksServer(faults=faults) as server:
            with dial(greeter, proxy=server.url_as("http")) as sock:
                assert receive_exactly(sock, len(GREETING)) == GREETING
                assert_echoes(sock)

    @pytest.mark.parametrize("name", ["64 KiB", "64 KiB with 1xx"])
    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.anyio
    async def test_http_long_head_lets_other_tasks_run(
        self,
        echo_server: Address,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext],
        name: str,
        tls: bool,
    ) -> None:
        server_context, client_context = contexts
        turns = 0

        async def take_turns() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        faults = Faults(answers={"request": SUCCESSES[name]})
        with SocksServer(faults=faults, tls=server_context if tls else None) as server:
            proxy = Proxy(*server.address, scheme="http", tls=client_context if tls else None)
            async with anyio.create_task_group() as group:
                group.start_soon(take_turns)
                stream = await socksclient.anyio.connect_tcp(*echo_server, proxy=proxy)
                group.cancel_scope.cancel()
            await anyio.aclose_forcefully(stream)
        # A bare socket shows what has arrived, so that one head is taken in a few pieces. With TLS,
        # a head is taken octet by octet. Each of many heads takes at least one exchange.
        assert turns > (300 if tls or name != "64 KiB" else 0)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)
    # Octets are left that nobody has read, so that the system sends a reset.
    writer.transport.abort()


class TestHTTP:
    """The transports for httpx and httpx2 use a tunnel for http and for https."""

    @pytest.mark.parametrize("accounts", [None, ACCOUNTS], ids=["open", "with an account"])
    def test_http_client_sends_no_proxy_authorization_to_origin(
        self, driver: Driver, origin: Origin, accounts: dict[str, str] | None
    ) -> None:
        routes = routes_to(origin)
        with SocksServer(host=PROXY_HOST, routes=routes, accounts=accounts) as server:
            with driver.through(server.url_as("http")) as client:
                for url in (HTTP, HTTPS, "http://[2001:db8::1]/"):
                    seen = client.get(url).json()
                    assert seen["http_version"] == "1.1"
                    headers = {name for name, _ in seen["headers"]}
                    assert "proxy-authorization" not in headers
            assert [request.destination for request in server.requests] == [
                ("origin.test", 80),
                ("origin.test", 443),
                ("2001:db8::1", 80),
            ]

    def test_http_client_response_in_segment_of_reply(
        self, driver: Driver, server: SocksServer
    ) -> None:
        response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere"
        server.misbehave(Faults(answers={"request": OK + response}))
        with driver.through(server.url_as("http")) as client:
            assert client.get(HTTP).text == "there"

    @pytest.mark.parametrize(
        ("faults", "cause"),
        [
            (Faults(reply=403), ConnectionNotAllowed),
            (Faults(reply=407), AuthenticationError),
            (Faults(answers={"request": b"HTTP/1.1 OK\r\n\r\n"}), ProtocolError),
        ],
        ids=str,
    )
    def test_http_client_proxy_errors(
        self, driver: Driver, origin: Origin, faults: Faults, cause: type[SocksError]
    ) -> None:
        routes = routes_to(origin)
        with SocksServer(host=PROXY_HOST, routes=routes, faults=[faults]) as server:
            with driver.through(server.url_as("http"), limits=ONE_CONNECTION) as client:
                error = fail(client, HTTPS, "ProxyError")
                assert type(error.__cause__) is cause
                assert client.get(HTTPS).status_code == 200

    def test_http_client_server_that_is_no_proxy(self, driver: Driver) -> None:
        with answering(b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\n\r\n") as url:
            with driver.through(url.rstrip("/")) as client:
                with pytest.raises(driver.httpx.ProxyError, match="method not allowed"):
                    client.get(HTTP)


USERNAME, PASSWORD = "token-as-user-8c1f", "hunter2-p@ss"
BASIC = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()


def assert_no_secret_in(text: str) -> None:
    assert text
    # Three octets are four characters there, and what is a fourth of one may be cut off.
    pieces = [BASIC[start : start + 12] for start in range(0, len(BASIC) - 12, 4)]
    for secret in (USERNAME, PASSWORD, "hunter2", *pieces):
        assert secret not in text


def report_of(error: BaseException) -> str:
    """Return what an error reporter shows: the error, and the local variables of every frame."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join([str(error), repr(error), *report.format()])


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the proxy's context, and a client's context that trusts the proxy."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)
    return server, client


@contextmanager
def saying_nothing_by_tls(context: ssl.SSLContext) -> Iterator[Address]:
    """Run a server that does TLS with one client, and then neither reads nor writes."""
    ended = threading.Event()

    def serve() -> None:
        sock, _ = listener.accept()
        with sock, suppress(OSError), context.wrap_socket(sock, server_side=True):
            ended.wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            ended.set()
            thread.join()


class TestSecrets:
    @pytest.mark.parametrize(
        "backend",
        [
            "blocking",
            *BACKENDS,
        ],
    )
    @pytest.mark.parametrize("fate", [TimeoutError, ProxyClosed])
    def test_secrets_while_request_is_sent(self, backend: str, fate: type[OSError]) -> None:
        """The request is larger than the buffers of the system."""
        timeout = SHORT if fate is TimeoutError else LONG
        proxy_side = saying_nothing() if fate is TimeoutError else serving(reset)
        with proxy_side as (host, port):
            proxy = Proxy(
                host, port, scheme="http", username=USERNAME, password=PASSWORD * 1_000_000
            )

            async def connect() -> None:
                with anyio.fail_after(timeout):
                    await socksclient.anyio.connect_socket(*NAME, proxy=proxy)

            act: Callable[[], object]
            if backend == "blocking":
                act = partial(socksclient.create_connection, NAME, timeout, proxy=proxy)
            else:
                act = partial(anyio.run, connect, **BACKENDS[backend])
            with pytest.raises(fate) as caught:
                act()
            assert_no_secret_in(report_of(caught.value))

    @pytest.mark.parametrize("backend", ["blocking", *BACKENDS])
    def test_secrets_while_request_is_sent_by_tls(
        self, backend: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
    ) -> None:
        with saying_nothing_by_tls(contexts[0]) as (host, port):
            proxy = Proxy(
                host,
                port,
                scheme="https",
                tls=contexts[1],
                username=USERNAME,
                password=PASSWORD * 1_000_000,
            )

            async def connect() -> None:
                with anyio.fail_after(SHORT):
                    await socksclient.anyio.connect_tcp(*NAME, proxy=proxy)

            act: Callable[[], object]
            if backend == "blocking":
                act = partial(socksclient.create_connection, NAME, SHORT, proxy=proxy)
            else:
                act = partial(anyio.run, connect, **BACKENDS[backend])
            with pytest.raises(TimeoutError) as caught:
                act()
            assert_no_secret_in(report_of(caught.value))

    def test_secrets_echoed_by_server(self, dial: Dial) -> None:
        """An echo server is in the place of the proxy."""

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readuntil(b"\r\n\r\n"))

        with serving(echo) as (host, port):
            proxy = Proxy(host, port, scheme="http", username=USERNAME, password=PASSWORD)
            with pytest.raises(ProtocolError) as caught:
                dial(NAME, proxy=proxy)
        assert_no_secret_in(report_of(caught.value) + repr(caught.value.received))

    @pytest.mark.parametrize("status", ["403", "407", "502", "5x2"])
    def test_secrets_repeated_in_reply(self, dial: Dial, status: str) -> None:
        async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            line = f"HTTP/1.1 {status} {USERNAME} {PASSWORD} {BASIC}\r\n"
            challenge = f'Basic realm="{PASSWORD}", {BASIC}'
            writer.write(f"{line}Proxy-Authenticate: {challenge}\r\nX: {line}\r\n".encode())

        with serving(repeat) as (host, port):
            proxy = Proxy(host, port, scheme="http", username=USERNAME, password=PASSWORD)
            with pytest.raises(SocksError) as caught:
                dial(NAME, proxy=proxy)
        report = report_of(caught.value)
        assert "in handshake" in report
        assert_no_secret_in(report + repr(getattr(caught.value, "fields", "")))

    def test_secrets_in_httpx(
        self, driver: Driver, origin: Origin, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        faults = [Faults(reply=407)]
        with SocksServer(
            host=PROXY_HOST,
            routes=routes_to(origin),
            accounts={USERNAME: PASSWORD},
            faults=faults,
        ) as server:
            with driver.through(server.url_as("http")) as client:
                with pytest.raises(driver.httpx.ProxyError, match="HTTP 407") as caught:
                    client.get(HTTP)
                assert_no_secret_in(report_of(caught.value))
                assert client.get(HTTPS).status_code == 200
        assert_no_secret_in(caplog.text)
