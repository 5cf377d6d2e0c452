"""Listeners at a proxy (BIND) of every driver, with the same methods."""

from __future__ import annotations

import errno
import re
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from anyio.abc import SocketStream
from anyio.streams.tls import TLSStream

import socksclient
import socksclient.anyio
from socksclient import (
    Proxy,
    ProxyLike,
    SocksError,
)
from socksclient.protocol.codes import Phase

from helpers import real_servers
from helpers.support import (
    LONG,
    Address,
    needs,
    receive_exactly,
)

needs_servers = needs(real_servers.missing())
SERVERS: dict[str, Callable[[Path], AbstractContextManager[str]]] = {
    "dante": real_servers.dante,
    "dante on ::1": lambda path: real_servers.dante(path, host="::1"),
    "microsocks": real_servers.microsocks,
    "ssh -D": real_servers.openssh,
}

ACCOUNTS = {"user": "pass"}


ANYONE = ("0.0.0.0", 0)


NOBODY = ("192.0.2.1", 80)


SOON = 0.02
"""Seconds of a timeout that must pass."""


DATA = b"data of the peer"


class Connection(NamedTuple):
    """The connection that `accept` returned, with the same methods for every driver."""

    peer: Address | None
    send: Callable[[bytes], object]
    receive: Callable[[], bytes]
    close: Callable[[], object]


class Bound:
    """A listener of the blocking driver."""

    def __init__(self, listener: socksclient.Listener) -> None:
        self.listener = listener
        self.address = listener.address

    def accept(self, timeout: float = LONG) -> Connection:
        """Return the connection of the peer. Every driver raises TimeoutError at the timeout."""
        sock, peer = self.listener.accept(timeout)
        assert type(sock) is socket.socket
        assert sock.gettimeout() == timeout
        return Connection(peer, sock.sendall, partial(sock.recv, 65536), sock.close)

    def assert_accepts_no_more(self, number: int) -> None:
        with pytest.raises(OSError, match=re.escape(f"[Errno {number}]")) as caught:
            self.listener.accept()
        assert not isinstance(caught.value, SocksError)

    def close(self) -> None:
        self.listener.close()


class AwaitedBound(Bound):
    """A listener of the awaited driver, in the event loop of a portal."""

    def __init__(
        self, portal: anyio.from_thread.BlockingPortal, listener: socksclient.anyio.Listener
    ) -> None:
        assert listener.peer_address is None
        self.portal = portal
        self.awaited = listener
        self.address = listener.address

    def accept(self, timeout: float = LONG) -> Connection:
        async def accept() -> SocketStream | TLSStream:
            with anyio.fail_after(timeout):
                return await self.awaited.accept()

        stream = self.portal.call(accept)
        assert isinstance(stream, SocketStream)

        async def receive() -> bytes:
            try:
                return await stream.receive()
            except anyio.EndOfStream:
                return b""

        call = self.portal.call
        send, close = partial(call, stream.send), partial(call, stream.aclose)
        return Connection(self.awaited.peer_address, send, partial(call, receive), close)

    def assert_accepts_no_more(self, number: int) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            self.portal.call(self.awaited.accept)

    def close(self) -> None:
        self.portal.call(self.awaited.aclose)


class Bind(Protocol):
    """Binds by one of the drivers. Every driver raises TimeoutError when `timeout` passes."""

    def __call__(
        self, address: Address, *, proxy: ProxyLike, timeout: float = LONG, source: str = ""
    ) -> Bound: ...


def bind_blocking(
    address: Address, *, proxy: ProxyLike, timeout: float = LONG, source: str = ""
) -> Bound:
    source_address = (source, 0) if source else None
    return Bound(socksclient.bind(address, timeout, source_address, proxy=proxy))


def receive(connection: Connection, count: int) -> bytes:
    octets = b""
    while len(octets) < count:
        received = connection.receive()
        assert received, f"got {len(octets)} of {count} octets"
        octets += received
    return octets


def assert_carries(connection: Connection, peer: socket.socket, before: bytes = b"") -> None:
    """Check that the connection leads to the peer, and that only `before` came earlier."""
    peer.sendall(b"there")
    assert receive(connection, len(before) + 5) == before + b"there"
    connection.send(b"and back")
    assert receive_exactly(peer, 8) == b"and back"
    peer.shutdown(socket.SHUT_WR)
    assert connection.receive() == b""
    connection.close()
    assert peer.recv(1) == b""


def ended(sock: socket.socket) -> bool:
    """Return whether the other side has ended the connection, by a FIN or by a reset."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def refuses(address: Address) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as sock:
        sock.settimeout(10)
        return sock.connect_ex(address) == errno.ECONNREFUSED


def local(url: str) -> str:
    """Return the URL with the scheme under which this process resolves names."""
    return url.replace("socks5h://", "socks5://")


class ScriptedProxy:
    """A proxy that grants BIND on its one connection, and then sends what the test says.

    Args:
        scheme: "socks5h" or "socks4". With SOCKS4 the client expects `NOBODY` as its peer.
    """

    SECOND_REPLY = bytes.fromhex("05 00 00 01 c0 00 02 01 00 50")

    def __init__(self, scheme: str = "socks5h") -> None:
        self._scheme = scheme

    def __enter__(self) -> ScriptedProxy:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"{self._scheme}://127.0.0.1:{self.server.getsockname()[1]}"
        self.thread = threading.Thread(target=self.grant)
        self.thread.start()
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.thread.join()
        self.sock.close()
        self.server.close()

    def grant(self) -> None:
        self.sock, _ = self.server.accept()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._scheme == "socks4":
            assert receive_exactly(self.sock, 9) == bytes.fromhex("0402 0050 c0000201 00")
            self.sock.sendall(bytes.fromhex("005a 1000 c0000209"))
            return
        receive_exactly(self.sock, 3)
        self.sock.sendall(b"\x05\x00")
        receive_exactly(self.sock, 10)
        self.sock.sendall(bytes.fromhex("05 00 00 01 c0 00 02 09 10 00"))

    def say(self, octets: bytes) -> None:
        self.thread.join()
        self.sock.sendall(octets)


def assert_place(
    error: SocksError, url: str, destination: Address, phase: Phase = "request"
) -> None:
    assert error.phase == phase
    assert error.proxy == Proxy.from_url(url)
    assert error.destination == destination
    assert f"destination: {destination[0]}:{destination[1]}" in str(error)
