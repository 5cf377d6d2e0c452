"""HTTP's CONNECT: what is sent, what comes of every answer, and what cannot be."""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import responses
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
    ProxyTimeout,
    ReplyError,
    SocksError,
)
from socksclient.exceptions import ConnectionNotAllowed, HTTPReply
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
from helpers.schemes import SCHEMES, failures
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
    def test_its_octets(
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
    def test_its_octets_with_credentials(
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

    def test_a_user_name_alone_has_an_empty_password(
        self, dial: Dial, echo_server: Address
    ) -> None:
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


class TestWhatItCannotCarry:
    @pytest.mark.parametrize("command", ASKED)
    def test_all_but_connections(self, command: str) -> None:
        blocking, awaited, arguments = ASKED[command]
        words = f"an HTTP proxy cannot do {command}"
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
    def test_destinations(self, dial: Dial, host: str, words: str) -> None:
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
    def test_credentials(self, dial: Dial, userinfo: str, words: str) -> None:
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


ODD_FIELDS = [
    b"Content-Length: some",
    b"Content-Length: 1\r\nContent-Length: 2",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Proxy Agent: x",
    b"Proxy-Agent : x",
    b": x",
    b"no colon",
    b"X: \0\xff",
    b" folded",
]


class TestSuccess:
    """And the destination speaks first; not an octet of it is lost."""

    @pytest.mark.parametrize("name", SUCCESSES)
    def test_in_one_segment_with_what_the_destination_says(
        self, dial: Dial, greeter: Address, name: str
    ) -> None:
        faults = Faults(answers={"request": SUCCESSES[name]}, reply_with_data=True)
        with SocksServer(faults=faults) as server:
            with dial(greeter, proxy=server.url_as("http")) as sock:
                assert receive_exactly(sock, len(GREETING)) == GREETING
                assert_echoes(sock)

    @pytest.mark.parametrize("name", [name for name in SUCCESSES if len(SUCCESSES[name]) < 1000])
    def test_octet_by_octet(self, dial: Dial, greeter: Address, name: str) -> None:
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
    def test_and_what_comes_then_may_look_like_more_of_it(
        self, dial: Dial, greeting: bytes
    ) -> None:
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
    def test_odd_fields_are_ignored(self, dial: Dial, greeter: Address, fields: bytes) -> None:
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
    async def test_other_tasks_have_their_turns_meanwhile(
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


def refuse(
    dial: Dial, echo_server: Address, faults: Faults, accounts: dict[str, str] | None = None
) -> SocksError:
    """Return the error of a connection with this fault, after the checks of `failures`."""
    [error] = failures(dial, SCHEMES["http"], [faults], echo_server, accounts)
    assert error.phase == "request"
    return error


class TestRefusal:
    @pytest.mark.parametrize(
        ("status", "meaning"),
        [
            (400, "bad request"),
            (403, "forbidden"),
            (404, "not found"),
            (405, "method not allowed"),
            (408, "request timeout"),
            (429, "too many requests"),
            (500, "internal server error"),
            (501, "not implemented"),
            (502, "bad gateway"),
            (503, "service unavailable"),
            (504, "gateway timeout"),
            (300, "unassigned 300"),
            (101, "unassigned 101"),
            (302, "unassigned 302"),
            (418, "unassigned 418"),
            (600, "unassigned 600"),
            (999, "unassigned 999"),
        ],
    )
    def test_it_keeps_its_number(
        self, dial: Dial, echo_server: Address, status: int, meaning: str
    ) -> None:
        error = refuse(dial, echo_server, Faults(reply=status))
        assert type(error) is (ConnectionNotAllowed if status == 403 else ReplyError)
        assert isinstance(error, PermissionError) == (status == 403)
        assert isinstance(error.reply, HTTPReply)
        assert error.reply == status
        assert error.errno == (errno.EACCES if status == 403 else None)
        words = f"the proxy refused the request: {meaning} (HTTP {status})"
        assert error.reason == responses.get(status, "")
        if error.reason.lower() not in ("", meaning):
            words += f", and says: {error.reason}"
        assert error.strerror == words

    @pytest.mark.parametrize("then", ["stall_after", "close_after"])
    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 502\n\n",
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 1000000\r\n\r\n",
            b"HTTP/1.0 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 502 Bad Gateway\r\n\r\n",
        ],
    )
    def test_its_content_is_not_waited_for(
        self, dial: Dial, echo_server: Address, head: bytes, then: str
    ) -> None:
        answer = head + b"<html>"
        end: Any = {then: len(answer)}
        faults = Faults(answers={"request": answer}, **end)
        error = refuse(dial, echo_server, faults)
        assert isinstance(error, ReplyError)
        assert error.reply is HTTPReply.BAD_GATEWAY

    # tinyproxy answers wrong credentials with 401.
    @pytest.mark.parametrize("status", [401, 407])
    def test_without_credentials(self, dial: Dial, echo_server: Address, status: int) -> None:
        error = refuse(dial, echo_server, Faults(reply=status))
        assert type(error) is AuthenticationError
        words = "the proxy wants authentication, and there is no username"
        assert error.strerror == f"{words} (HTTP {status})"
        assert error.errno == errno.EACCES

    @pytest.mark.parametrize("fields", ODD_FIELDS)
    @pytest.mark.parametrize("status", [403, 407, 502])
    def test_an_odd_field_does_not_hide_it(
        self, dial: Dial, echo_server: Address, status: int, fields: bytes
    ) -> None:
        answer = b"HTTP/1.1 %d No\r\n%b\r\nX-Error: why\r\n\r\n" % (status, fields)
        error = refuse(dial, echo_server, Faults(answers={"request": answer}))
        kinds = {403: ConnectionNotAllowed, 407: AuthenticationError, 502: ReplyError}
        assert type(error) is kinds[status]
        if isinstance(error, ReplyError):
            assert error.reply == status
            assert error.reason == "No"
            assert error.fields[-1] == ("x-error", "why")

    @pytest.mark.parametrize("status", [401, 407])
    def test_with_credentials_that_it_does_not_take(
        self, dial: Dial, echo_server: Address, status: int
    ) -> None:
        error = refuse(dial, echo_server, Faults(reply=status), ACCOUNTS)
        assert type(error) is AuthenticationError
        assert error.strerror == f"the proxy refused the credentials (HTTP {status})"

    def test_of_an_account_that_there_is_not(self, dial: Dial, echo_server: Address) -> None:
        with SocksServer(accounts=ACCOUNTS) as server:
            for userinfo in ("", "@", "user@", "user:wrong@", ":pass@"):
                host, port = server.address
                with pytest.raises(AuthenticationError, match="HTTP 407"):
                    dial(echo_server, proxy=f"http://{userinfo}{host}:{port}")
            assert [seen.reply for seen in server.requests] == [407] * 5


class TestWhatIsNoAnswer:
    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (
                b"HTTP 200 OK\r\n\r\n",
                "this is not an HTTP proxy: it answered with 48 54, HTTP is wanted",
            ),
            (b"http/1.1 200 OK\r\n\r\n", "it answered with 68 74, HTTP is wanted"),
            (b"\r\n" + OK, "it answered with 0d 0a, HTTP is wanted"),
        ],
        ids=lambda value: value[:4].hex() if isinstance(value, bytes) else "",
    )
    def test_what_speaks_in_place_of_a_proxy_is_named(
        self, dial: Dial, echo_server: Address, answer: bytes, words: str
    ) -> None:
        error = refuse(dial, echo_server, Faults(answers={"request": answer}))
        assert type(error) is ProtocolError
        assert words in str(error)
        assert error.received == answer[:14]

    @pytest.mark.parametrize(
        "answer",
        [
            b"HTTP/2 200 OK\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 2x0 OK\r\n\r\n",
            b"HTTP/1.1 000 OK\r\n\r\n",
            b"HTTP/1.1 200 \0\r\n\r\n",
            b"HTTP/1.1 200\0OK\r\n\r\n",
            # To match white space in more than one way would take hours here.
            b"HTTP/1.1 200".ljust(60_000) + b"\0\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 OK\r\n\r\n",
            b"HTTP/\n\nHTTP/\n\n1234",
        ],
        ids=lambda value: repr(value[:40]),
    )
    def test_it_is_a_protocol_error(self, dial: Dial, echo_server: Address, answer: bytes) -> None:
        error = refuse(dial, echo_server, Faults(answers={"request": answer}))
        assert type(error) is ProtocolError
        assert str(error.strerror).startswith("the proxy does not speak HTTP as it should: ")
        assert error.received.startswith(b"HTTP/")
        assert error.received in answer

    def test_another_answer_in_place_of_the_one_after_a_1xx(
        self, dial: Dial, echo_server: Address
    ) -> None:
        answer = b"HTTP/1.1 100 Continue\r\n\r\n\x05\xff"
        error = refuse(dial, echo_server, Faults(answers={"request": answer}))
        assert "this is a SOCKS5 server" in str(error)

    @pytest.mark.parametrize("excess", [1, 100_000])
    def test_a_head_of_more_than_64_kib(
        self, dial: Dial, echo_server: Address, excess: int
    ) -> None:
        head = b"HTTP/1.1 200 OK\r\nX: ".ljust(MAX_HEAD_SIZE - 4 + excess, b"x") + b"\r\n\r\n"
        error = refuse(dial, echo_server, Faults(answers={"request": head}))
        assert type(error) is ProtocolError
        assert error.strerror == "the head of the proxy's reply has more than 65536 octets"
        assert error.received == head[:256]

    @pytest.mark.parametrize(
        ("begin", "more"),
        [(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"HTTP/1.1 200 OK\r\n", b"X: yyyyyyyyyy\r\n")],
    )
    def test_one_that_never_ends(self, dial: Dial, begin: bytes, more: bytes) -> None:
        async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(begin)
            while True:
                writer.write(more * 100)
                await writer.drain()

        with serving(flood) as (host, port), nothing_left_open():
            with pytest.raises(ProtocolError, match="more than 65536 octets") as held:
                dial(NAME, proxy=f"http://{host}:{port}")
            assert held


class TestEnd:
    @pytest.mark.parametrize("count", [0, 1])
    def test_http_hint_if_proxy_closes_at_once(
        self, dial: Dial, echo_server: Address, count: int
    ) -> None:
        error = refuse(dial, echo_server, Faults(close_after=count))
        hint = ", as HTTP proxies do that cannot connect to the destination, and as servers do that"
        hint += " do not speak HTTP, or only over TLS"
        assert str(error.strerror).endswith(hint) == (count == 0)

    def test_after_a_1xx(self, dial: Dial, echo_server: Address) -> None:
        answer = b"HTTP/1.1 100 Continue\r\n\r\n"
        faults = Faults(answers={"request": answer + OK}, close_after=len(answer) + 3)
        error = refuse(dial, echo_server, faults)
        assert type(error) is ProxyClosed
        assert "got 3 of 14 octets" in str(error)


class TestDeadline:
    def test_http_timeout_after_1xx(self, dial: Dial, echo_server: Address) -> None:
        answer = b"HTTP/1.1 100 Continue\r\n\r\n"
        faults = Faults(answers={"request": answer}, stall_after=len(answer))
        with SocksServer(faults=faults) as server:
            with nothing_left_open(), pytest.raises(TimeoutError) as held:
                dial(echo_server, proxy=server.url_as("http"), timeout=SHORT)
        # The awaited functions take no timeout: anyio raises the TimeoutError.
        if isinstance(held.value, ProxyTimeout):
            assert held.value.phase == "request"
            assert held.value.errno == errno.ETIMEDOUT

    def test_a_proxy_that_does_not_take_the_request(self, dial: Dial) -> None:
        """It is longer than what fits into the buffers of the system."""
        with saying_nothing() as (host, port), nothing_left_open():
            proxy = Proxy(host, port, scheme="http", username="user", password="p" * 16_000_000)
            with pytest.raises(TimeoutError) as held:
                dial(NAME, proxy=proxy, timeout=0.3)
            assert held


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)
    # Octets are left that nobody has read, so that the system sends a reset.
    writer.transport.abort()


class TestHTTP:
    """By httpx and httpx2: a tunnel for all, be it http or https."""

    @pytest.mark.parametrize("accounts", [None, ACCOUNTS], ids=["open", "with an account"])
    def test_requests(
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

    def test_a_response_in_one_segment_with_the_answer(
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
    def test_failures_are_proxy_errors(
        self, driver: Driver, origin: Origin, faults: Faults, cause: type[SocksError]
    ) -> None:
        routes = routes_to(origin)
        with SocksServer(host=PROXY_HOST, routes=routes, faults=[faults]) as server:
            with driver.through(server.url_as("http"), limits=ONE_CONNECTION) as client:
                error = fail(client, HTTPS, "ProxyError")
                assert type(error.__cause__) is cause
                assert client.get(HTTPS).status_code == 200

    def test_an_http_server_that_is_no_proxy(self, driver: Driver) -> None:
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
    """As error reporters have it: with the local variables of every frame."""
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
    """Where TLS is spoken with one client, and then nothing is said or heard."""
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
    def test_while_the_request_is_sent(self, backend: str, fate: type[OSError]) -> None:
        """It is longer than what fits into the buffers of the system."""
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
    def test_while_the_request_is_sent_by_tls(
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

    def test_what_echoes_them_shows_none(self, dial: Dial) -> None:
        """In place of a proxy."""

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readuntil(b"\r\n\r\n"))

        with serving(echo) as (host, port):
            proxy = Proxy(host, port, scheme="http", username=USERNAME, password=PASSWORD)
            with pytest.raises(ProtocolError) as caught:
                dial(NAME, proxy=proxy)
        assert_no_secret_in(report_of(caught.value) + repr(caught.value.received))

    @pytest.mark.parametrize("status", ["403", "407", "502", "5x2"])
    def test_what_repeats_them_in_its_answer_shows_none(self, dial: Dial, status: str) -> None:
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

    def test_in_httpx(
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
