"""A proxy answers and hangs up before it has read a whole message, so the write fails."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from socksclient import (
    NO_AUTHENTICATION,
    AuthenticationError,
    Exchange,
    Flow,
    Method,
    Proxy,
    ProxyClosed,
    Reply,
    ReplyError,
    Socks4Reply,
    SocksError,
)
from socksclient._anyio import driver as anyio_driver, exchange as anyio_exchange
from socksclient._anyio.streams import Stream
from socksclient._sync import driver
from socksclient._sync.timeouts import Deadline
from socksclient.flows import next_reply, reply, socks4_reply
from socksclient.protocol.codes import Command
from socksclient.protocol.flow import ConnectionEnded

from helpers.hops import Authority, Connect
from helpers.support import Address, nothing_left_open, receive_exactly

pytest_plugins = ["helpers.hop_fixtures"]

NAME = ("origin.test", 443)
LARGE = "p" * 12_000_000
"""More than the buffers of both sides hold, so that the proxy hangs up before the write ends."""


@contextmanager
def hanging_up(
    *turns: tuple[int, bytes], context: ssl.SSLContext | None = None, reset: bool = True
) -> Iterator[Address]:
    """Run a server that reads and answers in each turn, and closes the connection at the end.

    Args:
        *turns: How many octets the server reads, and what it then answers.
        context: The server's context; None for a server without TLS.
        reset: Whether the server closes with RST.
    """

    def serve() -> None:
        sock, _ = listener.accept()
        sock.settimeout(60)
        # Nagle's algorithm would hold the answer back, and the reset would then discard it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True)
            for count, answer in turns:
                receive_exactly(sock, count)
                sock.sendall(answer)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join()


def negotiate_token(proxy: Proxy) -> Flow[None]:
    """Negotiate a private method with a token that is larger than any buffer."""
    if (yield Exchange(LARGE.encode(), 3)) != b"yes":
        raise AuthenticationError("the proxy refused the token")


def fail(connect: Connect, address: Address, **options: Any) -> SocksError:
    with nothing_left_open(), pytest.raises(SocksError) as caught:
        connect(NAME, proxy=Proxy(*address, **options), timeout=60)
    return caught.value


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n", AuthenticationError),
        (b"HTTP/1.1 431 Too large\r\n\r\n", ReplyError),
        (b"HTTP/1.1 4", ProxyClosed),
        (b"", ProxyClosed),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
def test_early_answer_by_http(
    connect: Connect, authority: Authority, answer: bytes, kind: type[SocksError], tls: bool
) -> None:
    with hanging_up((100, answer), context=authority.server() if tls else None) as address:
        tls_context = authority.client() if tls else None
        error = fail(connect, address, scheme="http", username="u", password=LARGE, tls=tls_context)
    assert type(error) is kind
    if isinstance(error, ReplyError):
        assert (error.reply, error.reason) == (431, "Too large")
    if isinstance(error, ProxyClosed):
        assert error.received == answer


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("answer", [b"nay", b"na", b""])
def test_early_answer_by_custom_method(
    connect: Connect, authority: Authority, tls: bool, answer: bytes
) -> None:
    turns = (3, b"\x05\x80"), (100, answer)
    with hanging_up(*turns, context=authority.server() if tls else None) as address:
        tls_context = authority.client() if tls else None
        error = fail(connect, address, methods=(Method(0x80, negotiate_token),), tls=tls_context)
    assert type(error) is (AuthenticationError if answer == b"nay" else ProxyClosed)
    assert error.phase == "authentication"


@pytest.mark.parametrize(
    ("scheme", "turns", "kind"),
    [
        ("socks5h", [(1, b"\x05\xff")], AuthenticationError),
        ("socks5h", [(1, b"\x05\x00\x05\x05")], ReplyError),
        ("socks5h", [(3, b"\x05\x00\x05\x05\x00\x01\x7f\x00\x00\x01\x00\x00")], ReplyError),
        ("socks5h", [(4, b"\x05\x02\x01\x01")], AuthenticationError),
        ("socks5h", [(4, b"\x05\x02"), (2, b"\x01\x01")], AuthenticationError),
        ("socks4a", [(1, b"\x00\x5b")], ReplyError),
        ("socks4a", [(1, b"\x00\x5b\x00\x00\x00\x00\x00\x00")], ReplyError),
    ],
)
@pytest.mark.parametrize("reset", [False, True])
def test_early_answer_to_small_message(
    connect: Connect,
    scheme: str,
    turns: list[tuple[int, bytes]],
    kind: type[SocksError],
    reset: bool,
) -> None:
    """The write may fail or succeed, depending on microseconds. The error must be the same."""
    with hanging_up(*turns, reset=reset) as address:
        has_password = scheme == "socks5h" and turns[0][1][1] != 0
        credentials = {"username": "u", "password": "p"} if has_password else {}
        error = fail(connect, address, scheme=scheme, **credentials)
    assert isinstance(error, kind), (error, error.__cause__)


@contextmanager
def hung_up(said: bytes) -> Iterator[socket.socket]:
    """Make a socket whose other side has sent `said` and then closed."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(said)
        theirs.close()
        yield ours


def run(flow: Flow[object], sock: socket.socket, backend: str) -> None:
    if backend == "blocking":
        driver.Driver(Deadline(10), sock).run(flow)
    else:
        sock.setblocking(False)
        anyio.run(anyio_driver.Driver(sock).run, flow, backend=backend)


@pytest.mark.parametrize("backend", ["blocking", "asyncio", "trio"])
class TestOneExchange:
    """The write always fails here: a unix socket knows at once that the other side has closed."""

    @pytest.mark.parametrize(
        ("flow", "said", "code"),
        [
            (lambda: reply(Command.CONNECT, b"x"), b"\x05\x04", Reply.HOST_UNREACHABLE),
            (
                lambda: socks4_reply(b"x"),
                b"\x00\x5b",
                Socks4Reply.REJECTED_OR_FAILED,
            ),
        ],
    )
    def test_exchange_uses_answer_despite_failed_write(
        self, backend: str, flow: object, said: bytes, code: object
    ) -> None:
        assert callable(flow)
        with hung_up(said) as sock, pytest.raises(ReplyError) as caught:
            run(flow(), sock, backend)
        assert caught.value.reply is code

    @pytest.mark.parametrize("said", [b"", b"\x05"])
    def test_exchange_with_short_answer(self, backend: str, said: bytes) -> None:
        with hung_up(said) as sock, pytest.raises(ProxyClosed) as caught:
            run(reply(Command.CONNECT, b"x"), sock, backend)
        assert caught.value.received == said
        if not said:
            assert isinstance(caught.value.__cause__, BrokenPipeError)

    def test_exchange_after_reset(self, backend: str) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            # Octets that the other side has not read turn its close into a reset.
            ours.sendall(b"unread")
            theirs.close()
            with pytest.raises(ProxyClosed) as caught:
                run(reply(Command.CONNECT, b"x"), ours, backend)
        assert caught.value.received == b""
        assert isinstance(caught.value.__cause__, BrokenPipeError)

    def test_exchange_write_without_read_raises(self, backend: str) -> None:
        def say() -> Flow[None]:
            yield Exchange(b"x", 0)

        # This flow does not catch the error, which `handshake` does for every method's flow.
        with hung_up(b"something") as sock, pytest.raises(ConnectionEnded):
            run(say(), sock, backend)

    def test_exchange_without_write(self, backend: str) -> None:
        proxy = Proxy("proxy.test", methods=(NO_AUTHENTICATION,))
        with hung_up(b"\x05\x02") as sock, pytest.raises(ReplyError):
            run(next_reply(proxy, Command.BIND), sock, backend)


class AsksForKeys:
    """A `TLSStream` whose peer asks for new keys, and does not read what is being written."""

    async def send(self, _item: bytes) -> None:
        await anyio.sleep_forever()

    async def receive(self, _max_bytes: int) -> bytes:
        await anyio.lowlevel.checkpoint()
        # To answer, it would have to write too.
        raise anyio.BusyResourceError("writing to")


@pytest.mark.anyio
async def test_exchange_tls_key_update_during_write() -> None:
    stream = cast("Stream", AsksForKeys())
    with pytest.raises(ConnectionEnded) as caught:
        await anyio_exchange.exchange(Exchange(b"x", 1), stream, cast("ssl.SSLObject", object()))
    closed = ProxyClosed.within(caught.value, 1)
    assert "with TLS, it asked for new keys" in str(closed)
    assert closed.errno == errno.EPROTO
