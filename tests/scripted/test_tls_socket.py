"""The sockets and listeners of connections that speak TLS with a proxy, also TLS within TLS."""

from __future__ import annotations

import asyncio
import copy
import errno
import pickle
import random
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import httpcore
import pytest
from anyio.from_thread import BlockingPortal
from anyio.streams.tls import TLSStream

import socksclient
import socksclient.anyio
from socksclient import (
    AuthenticationError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyTimeout,
)
from socksclient._httpx.backend import Stream
from socksclient._sync.tls import TLSSocket, guard, speaks_tls, start_tls
from socksclient.ftp import FTP_TLS
from socksclient.testing import Faults

from helpers.hops import NOBODY, Authority, Connect, MakeHops, connect_blocking
from helpers.http_clients import (
    PROXY_HOST,
    nothing_left_open,
)
from helpers.support import (
    GREETING,
    LONG,
    Address,
    in_thread,
    receive_exactly,
    serving,
)
from helpers.tls_servers import (
    speaking_tls,
)

pytest_plugins = ["helpers.hop_fixtures"]


class Inner:
    """The part of a server that speaks TLS within the TLS of `sock`."""

    def __init__(self, sock: ssl.SSLSocket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._pump(self._tls.do_handshake)

    def _pump(self, operation: Callable[[], Any]) -> Any:
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self.sock.sendall(self._outgoing.read())
                octets = self.sock.recv(65536)
                if not octets:
                    raise ConnectionAbortedError from None
                self._incoming.write(octets)
            else:
                self.sock.sendall(self._outgoing.read())
                return result

    def hear(self) -> bytes:
        octets: bytes = self._pump(lambda: self._tls.read(65536))
        return octets

    def record_of(self, data: bytes) -> bytes:
        """Return the record that carries `data`."""
        self._tls.write(data)
        return self._outgoing.read()

    def record_of_the_end(self) -> bytes:
        """Return the record that says the end of TLS."""
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        return self._outgoing.read()


class TestTLSSocket:
    @pytest.fixture
    def play(self, authority: Authority) -> Any:
        """Return a maker of a `TLSSocket` whose other side a function plays."""
        context, server_context = authority.client(), authority.server()

        @contextmanager
        def play(part: Callable[[Inner], object]) -> Iterator[TLSSocket]:
            def talk(sock: ssl.SSLSocket) -> None:
                inner = Inner(sock, server_context)
                part(inner)

            with speaking_tls(server_context, talk) as address, nothing_left_open():
                outer = start_tls(socket.create_connection(address, 10), context, PROXY_HOST)
                sock = start_tls(outer, context, PROXY_HOST)
                assert isinstance(sock, TLSSocket)
                try:
                    yield sock
                finally:
                    sock.close()

        return play

    def test_tls_socket_carries_data(self, play: Any) -> None:
        data = random.Random(0).randbytes(100_000)

        def echo(inner: Inner) -> None:
            while True:
                inner.sock.sendall(inner.record_of(inner.hear()))

        with play(echo) as sock:
            for size in (1, 100, 16384, 16385, 100_000):
                sock.sendall(data[:size])
                assert b"".join(exactly(sock, size, 4096)) == data[:size]

    def test_tls_socket_methods_of_socket(self, play: Any) -> None:
        with play(Inner.hear) as sock:
            assert sock.gettimeout() == 10
            sock.settimeout(None)
            assert sock.gettimeout() is None
            assert sock.getpeername()[0] == PROXY_HOST
            with socket.socket(fileno=socket.dup(sock.fileno())) as same:
                assert same.getsockname() == sock.getsockname()
            assert sock.ssl_object.version() == "TLSv1.3"

    @pytest.mark.parametrize(
        "end",
        [
            lambda inner: inner.sock.sendall(inner.record_of_the_end()),
            lambda inner: inner.sock.unwrap(),
            lambda inner: inner.sock.shutdown(socket.SHUT_RDWR),
        ],
        ids=["of the inner TLS", "of the outer TLS", "of the connection"],
    )
    def test_tls_socket_end(self, play: Any, end: Callable[[Inner], object]) -> None:
        def part(inner: Inner) -> None:
            inner.sock.sendall(inner.record_of(b"last words"))
            end(inner)

        with play(part) as sock:
            assert b"".join(exactly(sock, 10, 10)) == b"last words"
            assert sock.recv(1) == b""
            assert sock.recv(1) == b""

    def test_tls_socket_reset(self, play: Any) -> None:
        def part(inner: Inner) -> None:
            inner.hear()
            linger = struct.pack("ii", 1, 0)
            inner.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

        with play(part) as sock:
            sock.sendall(b"words")
            # ssl of Python 3.11 takes the reset for the end of the data.
            with suppress(ConnectionResetError):
                assert sock.recv(1) == b""
            with pytest.raises(OSError, match=r"\S"):
                sock.sendall(b"more")

    def test_tls_socket_garbage(self, play: Any) -> None:
        with play(lambda inner: inner.sock.sendall(b"\x17\x03\x03\x00\x05words")) as sock:
            with pytest.raises(ssl.SSLError):
                sock.recv(1)

    def test_tls_socket_recv_timeout_loses_nothing(self, play: Any) -> None:
        def drip(inner: Inner) -> None:
            for octet in inner.record_of(b"data"):
                inner.sock.sendall(bytes([octet]))
                threading.Event().wait(0.02)

        with play(drip) as sock:
            sock.settimeout(0.1)
            begin = time.monotonic()
            with pytest.raises(TimeoutError):
                sock.recv(4)
            assert 0.09 <= time.monotonic() - begin < LONG
            sock.settimeout(10)
            assert sock.recv(4) == b"data"

    def test_tls_socket_is_readable_at_end(self, play: Any) -> None:
        def part(inner: Inner) -> None:
            record = inner.record_of(b"data")
            inner.sock.sendall(record + inner.record_of_the_end())
            inner.sock.recv(1)

        with play(part) as sock:
            assert b"".join(exactly(sock, 4, 4)) == b"data"
            assert Stream(sock, httpcore).get_extra_info("is_readable")

    def test_tls_socket_sendall_timeout(self, play: Any) -> None:
        done = threading.Event()
        with play(lambda inner: done.wait()) as sock:
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                sock.sendall(bytes(10_000_000))
            done.set()

    def test_tls_socket_within_two_others(
        self, authority: Authority, hops: MakeHops, greeter: Address
    ) -> None:
        with hops("socks5h+tls", "https", "socks4a+tls") as chain:
            with connect_blocking(greeter, proxy=chain.proxies) as tunnel:
                tunnel.assert_greets_and_echoes()
                assert isinstance(tunnel.channel, TLSSocket)

    @pytest.mark.parametrize("within", [False, True])
    def test_start_tls_interrupted(self, authority: Authority, within: bool) -> None:
        """A signal interrupts the TLS handshake while it waits for the proxy."""
        heard, interrupted = threading.Event(), threading.Event()

        async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(1)
            heard.set()
            await reader.read()

        def hear_within(sock: ssl.SSLSocket) -> None:
            sock.recv(1)
            heard.set()
            while sock.recv(65536):
                pass

        def interrupt(*_args: object) -> None:
            if not interrupted.is_set():
                interrupted.set()
                raise KeyboardInterrupt

        def kill(thread: int) -> None:
            assert heard.wait(LONG)
            # A signal just before the system call does not interrupt that, so there are several.
            while not interrupted.wait(0.01):
                signal.pthread_kill(thread, signal.SIGUSR1)

        context = authority.client()
        with ExitStack() as stack:
            address = stack.enter_context(
                speaking_tls(authority.server(), hear_within)
                if within
                else serving(hear, PROXY_HOST)
            )
            before = signal.signal(signal.SIGUSR1, interrupt)
            stack.callback(signal.signal, signal.SIGUSR1, before)
            killer = threading.Thread(target=kill, args=(threading.get_ident(),))
            killer.start()
            stack.callback(killer.join)
            with nothing_left_open():
                sock: Any = socket.create_connection(address)
                if within:
                    sock = start_tls(sock, context, PROXY_HOST)
                with pytest.raises(KeyboardInterrupt) as held:
                    start_tls(sock, context, PROXY_HOST)
                assert sock.fileno() == -1, held


def exactly(sock: TLSSocket, count: int, most: int) -> Iterator[bytes]:
    while count:
        octets = sock.recv(min(count, most))
        assert 0 < len(octets) <= most
        count -= len(octets)
        yield octets


class TestSocketWithTLS:
    def test_wrap_socket_refuses_socket_with_tls(
        self, authority: Authority, hops: MakeHops, greeter: Address
    ) -> None:
        """TLS around this socket would go to the proxy in the clear."""
        with hops("socks5h+tls") as chain:
            with socksclient.create_connection(greeter, 10, proxy=chain.proxies) as sock:
                assert isinstance(sock, ssl.SSLSocket)
                with pytest.raises(ValueError, match="this socket speaks TLS with the proxy"):
                    authority.client().wrap_socket(sock, server_hostname="greeter.test")
                assert receive_exactly(sock, len(GREETING)) == GREETING
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    def test_wrap_socket_refuses_if_sslsocket_is_replaced(
        self, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = authority.client()
        with speaking_tls(authority.server()) as address:
            connection = socket.create_connection(address, 10)
            assert not speaks_tls(connection)
            sock = start_tls(connection, context, PROXY_HOST)
            assert isinstance(sock, ssl.SSLSocket)
            monkeypatch.setattr(ssl, "SSLSocket", type("SSLSocket", (), {}))
            assert speaks_tls(sock)
            guard(sock)
            with sock, pytest.raises(ValueError, match="this socket speaks TLS with the proxy"):
                context.wrap_socket(sock, server_hostname="destination.test")

    def test_create_connection_sslsocket_class(
        self, authority: Authority, hops: MakeHops, greeter: Address
    ) -> None:
        class Special(ssl.SSLSocket):
            pass

        context = authority.client()
        context.sslsocket_class = Special
        with hops("socks5h+tls") as chain:
            proxy = replace(chain.proxies[0], tls=context)
            with socksclient.create_connection(greeter, 10, proxy=proxy) as sock:
                assert type(sock) is Special

    def test_ftp_tls_refuses_chain_with_tls(self, hops: MakeHops) -> None:
        said: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 ready\r\n")
            while line := await reader.readline():
                said.append(line)
                writer.write(b"230 fine\r\n")

        def log_in(proxy: list[Proxy], address: Address) -> None:
            with FTP_TLS(timeout=10, proxy=proxy) as ftp:
                ftp.connect(*address)
                ftp.login("user", "secret")

        with serving(serve) as address, hops("http", "socks5h+tls") as chain:
            with nothing_left_open(), pytest.raises(ValueError, match="TLS"):
                log_in(chain.proxies, address)
        assert not [line for line in said if line.startswith((b"USER", b"PASS"))]

    def test_tls_carries_large_data_both_ways(
        self, connect: Connect, hops: MakeHops, echo_server: Address
    ) -> None:
        data = random.Random(0).randbytes(300_000)
        with hops("socks5h+tls", "socks4a+tls") as chain:
            with connect(echo_server, proxy=chain.proxies) as tunnel:
                for start in range(0, len(data), 50_000):
                    piece = data[start : start + 50_000]
                    tunnel.send(piece)
                    assert tunnel.receive(len(piece)) == piece

    def test_tls_end_without_close_notify(self, connect: Connect, authority: Authority) -> None:
        def talk(sock: ssl.SSLSocket) -> None:
            receive_exactly(sock, 3)
            sock.sendall(b"\x05\x00")
            receive_exactly(sock, 10)
            sock.sendall(bytes.fromhex("05 00 00 01 7f 00 00 01 00 50") + GREETING)
            sock.shutdown(socket.SHUT_RDWR)

        with speaking_tls(authority.server(), talk) as address:
            proxy = Proxy(*address, tls=authority.client())
            with connect(NOBODY, proxy=proxy) as tunnel:
                assert tunnel.receive(len(GREETING) + 1) == GREETING

    @pytest.mark.parametrize("faults", [Faults(close_after=n) for n in range(12)], ids=str)
    def test_tls_proxy_closes_after_each_prefix(
        self, connect: Connect, hops: MakeHops, listening: Address, faults: Faults
    ) -> None:
        with hops("socks5h+tls", faults={0: faults}) as chain, nothing_left_open():
            with pytest.raises(ProxyClosed, match=r"got \d of") as caught:
                connect(listening, proxy=chain.proxies)
        assert caught.value.errno == errno.ECONNRESET

    def test_tls_credentials_refused(self, connect: Connect, hops: MakeHops) -> None:
        with hops("https", accounts={0: {"user": "pass"}}) as chain:
            proxy = replace(chain.proxies[0], password="wrong")
            with nothing_left_open(), pytest.raises(AuthenticationError) as caught:
                connect(NOBODY, proxy=proxy)
            assert chain.servers[0].connections[0].password == "wrong"
        assert caught.value.phase == "request"


def test_pickle_of_proxy_with_tls() -> None:
    proxy = Proxy("h", tls=True)
    error = ProxyConnectError("no")
    error.proxy = proxy
    assert pickle.loads(pickle.dumps(proxy)) == proxy == copy.deepcopy(proxy)
    assert pickle.loads(pickle.dumps(error)).proxy == proxy
    with pytest.raises(TypeError, match="SSLContext"):
        pickle.dumps(replace(proxy, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))


class TestBindWithTLS:
    @pytest.mark.parametrize("kind", ["socks5h+tls", "socks4a+tls"])
    def test_bind_with_tls_accept_timeout_loses_nothing(self, hops: MakeHops, kind: str) -> None:
        with hops(kind, faults={0: Faults(split=True)}) as chain, nothing_left_open():
            with socksclient.bind(("127.0.0.1", 0), 10, proxy=chain.proxies) as listener:
                with pytest.raises(ProxyTimeout) as caught:
                    listener.accept(0.02)
                assert caught.value.proxy == chain.proxies[0]
                with socket.create_connection(listener.address, 10) as peer:
                    sock, address = listener.accept()
                    with sock:
                        assert address == peer.getsockname()
                        assert isinstance(sock, ssl.SSLSocket)
                        peer.sendall(GREETING)
                        assert receive_exactly(sock, len(GREETING)) == GREETING

    def test_bind_with_tls_close_wakes_accept(self, hops: MakeHops) -> None:
        with hops("socks5h+tls") as chain, nothing_left_open():
            for timeout in (10, None):
                listener = socksclient.bind(("127.0.0.1", 0), timeout, proxy=chain.proxies)
                waiting = in_thread(listener.accept)
                listener.close()
                with pytest.raises(OSError, match="Bad file descriptor") as caught:
                    waiting.result(LONG)
                assert caught.value.errno == errno.EBADF

    @pytest.mark.parametrize("kinds", [("https", "socks5h+tls"), ("socks4a+tls",)], ids=", ".join)
    def test_bind_with_tls_awaited(
        self, portal: BlockingPortal, hops: MakeHops, kinds: tuple[str, ...]
    ) -> None:
        async def accept(listener: socksclient.anyio.Listener) -> Any:
            with anyio.move_on_after(0.02):
                await listener.accept()
            with socket.create_connection(listener.address, 10) as peer:
                peer.sendall(GREETING)
                async with await listener.accept() as stream:
                    assert isinstance(stream, TLSStream)
                    assert listener.peer_address == peer.getsockname()
                    received = await stream.receive()
                    await stream.send(received)
                    return await anyio.to_thread.run_sync(peer.recv, 100)

        with hops(*kinds) as chain, nothing_left_open():
            bind = partial(socksclient.anyio.bind, "127.0.0.1", 0, proxy=chain.proxies)
            assert portal.call(accept, portal.call(bind)) == GREETING
            listener = portal.call(bind)
            waiting = portal.start_task_soon(listener.accept)
            portal.call(anyio.wait_all_tasks_blocked)
            portal.call(listener.aclose)
            with pytest.raises(anyio.ClosedResourceError):
                waiting.result(LONG)
