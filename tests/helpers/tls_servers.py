"""Servers that speak TLS in ways of their own, for the tests of TLS with a proxy."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from socksclient import (
    ProxyConnectError,
)
from socksclient.testing.conversation import reset

from helpers.http_clients import (
    PROXY_HOST,
)
from helpers.support import (
    Address,
    serving,
)

KINDS = ("socks5h+tls", "socks4a+tls", "https")


both_versions = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)


def certificate_error(error: BaseException) -> ssl.SSLCertVerificationError:
    """Return the cause of the error that ended the TLS handshake with a proxy."""
    assert isinstance(error, ProxyConnectError)
    assert error.phase == "tls"
    assert error.errno is None
    assert str(error).startswith("TLS with the proxy failed: ")
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    return error.__cause__


def watched(context: ssl.SSLContext) -> tuple[ssl.SSLContext, list[tuple[Any, str | None]]]:
    """Return the context, and a list that gets each client of the server with its SNI."""
    seen: list[tuple[Any, str | None]] = []
    context.sni_callback = lambda client, name, _context: seen.append((client, name))
    return context, seen


@contextmanager
def speaking_tls(
    context: ssl.SSLContext, talk: Callable[[ssl.SSLSocket], object] = lambda sock: sock.recv(1)
) -> Iterator[Address]:
    """Run a server that does TLS with one client after the other, and then calls `talk`.

    Unlike the servers of asyncio, this server sends an alert when TLS fails.
    """
    stopped = threading.Event()

    def serve() -> None:
        while True:
            sock, _ = listener.accept()
            with sock, suppress(OSError):
                if stopped.is_set():
                    return
                with context.wrap_socket(sock, server_side=True) as peer:
                    talk(peer)

    with socket.create_server((PROXY_HOST, 0)) as listener:
        address: Address = listener.getsockname()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield address
        finally:
            stopped.set()
            socket.create_connection(address).close()
            thread.join()


def has_connection_to(address: Address) -> bool:
    """Return whether this machine has an established connection to an IPv4 address and port.

    A connection that has been reset is in no table of the kernel any more.
    """
    host, port = address
    remote = f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    established = "01"
    return any(line.split()[2:4] == [remote, established] for line in lines)


@contextmanager
def resetting() -> Iterator[Address]:
    """Run a server that resets each connection when it has heard something on it."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        reset(writer)

    with serving(handle, PROXY_HOST) as address:
        yield address


@contextmanager
def dripping(destination: Address, seconds: float) -> Iterator[Address]:
    """Run a forwarder that passes on what the destination says octet by octet."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(*destination)

        async def forward() -> None:
            while octets := await reader.read(65536):
                here.write(octets)
            here.close()

        forwarding = asyncio.ensure_future(forward())
        try:
            while octet := await there.read(1):
                await asyncio.sleep(seconds)
                writer.write(octet)
                await writer.drain()
        finally:
            here.close()
            forwarding.cancel()

    with serving(handle, PROXY_HOST) as address:
        yield address
