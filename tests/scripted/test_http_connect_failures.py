"""HTTP's CONNECT: refusals, answers that are not HTTP, and answers that never end."""

from __future__ import annotations

import asyncio
import errno
from http.client import responses
from typing import Any

import pytest

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
from socksclient.protocol.http import MAX_HEAD_SIZE
from socksclient.testing import Faults, SocksServer

from helpers.http_clients import (
    saying_nothing,
)
from helpers.schemes import ODD_FIELDS, SCHEMES, failures
from helpers.support import (
    SHORT,
    Address,
    Dial,
    nothing_left_open,
    serving,
)

NAME = ("origin.test", 443)
OK = b"HTTP/1.1 200 OK\r\n\r\n"
ACCOUNTS = {"user": "pass"}


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
    def test_http_error_keeps_status(
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
    def test_http_refusal_does_not_wait_for_content(
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
    def test_http_authentication_without_credentials(
        self, dial: Dial, echo_server: Address, status: int
    ) -> None:
        error = refuse(dial, echo_server, Faults(reply=status))
        assert type(error) is AuthenticationError
        words = "the proxy wants authentication, but no username is given"
        assert error.strerror == f"{words} (HTTP {status})"
        assert error.errno == errno.EACCES

    @pytest.mark.parametrize("fields", ODD_FIELDS)
    @pytest.mark.parametrize("status", [403, 407, 502])
    def test_http_refusal_with_odd_fields(
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
    def test_http_authentication_refused_credentials(
        self, dial: Dial, echo_server: Address, status: int
    ) -> None:
        error = refuse(dial, echo_server, Faults(reply=status), ACCOUNTS)
        assert type(error) is AuthenticationError
        assert error.strerror == f"the proxy refused the credentials (HTTP {status})"

    def test_http_authentication_unknown_account(self, dial: Dial, echo_server: Address) -> None:
        with SocksServer(accounts=ACCOUNTS) as server:
            for userinfo in ("", "@", "user@", "user:wrong@", ":pass@"):
                host, port = server.address
                with pytest.raises(AuthenticationError, match="HTTP 407"):
                    dial(echo_server, proxy=f"http://{userinfo}{host}:{port}")
            assert [seen.reply for seen in server.requests] == [407] * 5


class TestInvalidReply:
    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (
                b"HTTP 200 OK\r\n\r\n",
                "this is not an HTTP proxy: it answered with 48 54 instead of HTTP",
            ),
            (b"http/1.1 200 OK\r\n\r\n", "it answered with 68 74 instead of HTTP"),
            (b"\r\n" + OK, "it answered with 0d 0a instead of HTTP"),
        ],
        ids=lambda value: value[:4].hex() if isinstance(value, bytes) else "",
    )
    def test_http_reply_of_other_protocol(
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
    def test_http_invalid_status_line(
        self, dial: Dial, echo_server: Address, answer: bytes
    ) -> None:
        error = refuse(dial, echo_server, Faults(answers={"request": answer}))
        assert type(error) is ProtocolError
        assert str(error.strerror).startswith("the status line of the proxy's reply is not valid: ")
        assert error.received.startswith(b"HTTP/")
        assert error.received in answer

    def test_http_garbage_after_1xx(self, dial: Dial, echo_server: Address) -> None:
        answer = b"HTTP/1.1 100 Continue\r\n\r\n\x05\xff"
        error = refuse(dial, echo_server, Faults(answers={"request": answer}))
        assert "this is a SOCKS5 server" in str(error)

    @pytest.mark.parametrize("excess", [1, 100_000])
    def test_http_head_over_64_kib(self, dial: Dial, echo_server: Address, excess: int) -> None:
        head = b"HTTP/1.1 200 OK\r\nX: ".ljust(MAX_HEAD_SIZE - 4 + excess, b"x") + b"\r\n\r\n"
        error = refuse(dial, echo_server, Faults(answers={"request": head}))
        assert type(error) is ProtocolError
        assert error.strerror == "the head of the proxy's reply has more than 65536 octets"
        assert error.received == head[:256]

    @pytest.mark.parametrize(
        ("begin", "more"),
        [(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"HTTP/1.1 200 OK\r\n", b"X: yyyyyyyyyy\r\n")],
    )
    def test_http_head_without_end(self, dial: Dial, begin: bytes, more: bytes) -> None:
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
        hint = "; perhaps the proxy cannot connect to the destination, does not speak HTTP, or"
        hint += " speaks HTTP over TLS only"
        assert str(error.strerror).endswith(hint) == (count == 0)

    def test_http_proxy_closes_after_1xx(self, dial: Dial, echo_server: Address) -> None:
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

    def test_http_timeout_while_request_is_sent(self, dial: Dial) -> None:
        """The request is larger than the buffers of the system."""
        with saying_nothing() as (host, port), nothing_left_open():
            proxy = Proxy(host, port, scheme="http", username="user", password="p" * 16_000_000)
            with pytest.raises(TimeoutError) as held:
                dial(NAME, proxy=proxy, timeout=0.3)
            assert held
