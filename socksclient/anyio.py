"""Awaited: the driver of the flows, and connections in the manner of `anyio`.

It runs on asyncio (uvloop too) and trio.

The handshake runs on the bare non-blocking socket, which is wrapped last, if at all: it costs
less than over a stream, and any library that takes a socket can have it.
"""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Literal, TypeVar, overload

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream
from anyio.streams.tls import TLSStream

from socksclient.attempt import Attempt, next_address_may_do
from socksclient.exceptions import ProxyClosed, ResolveError, SocksError, host_port
from socksclient.flows import Exchange, Flow, connect
from socksclient.proxy import ProxyLike, as_proxy
from socksclient.sockets import (
    Address,
    SocketOption,
    Wait,
    check_source,
    interleave,
    literal,
    race,
    without_zone,
)
from socksclient.wire import is_address

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

__all__ = ["connect_socket", "connect_tcp"]

T = TypeVar("T")


@overload
async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = ...,
    tls: Literal[False] = ...,
    ssl_context: None = ...,
    tls_hostname: None = ...,
    tls_standard_compatible: bool = ...,
) -> SocketStream: ...


@overload
async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = ...,
    tls: bool = ...,
    ssl_context: ssl.SSLContext,
    tls_hostname: str | None = ...,
    tls_standard_compatible: bool = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = ...,
    tls: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    tls_hostname: str,
    tls_standard_compatible: bool = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = ...,
    tls: Literal[True],
    ssl_context: ssl.SSLContext | None = ...,
    tls_hostname: str | None = ...,
    tls_standard_compatible: bool = ...,
) -> TLSStream: ...


async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = None,
    tls: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    tls_hostname: str | None = None,
    tls_standard_compatible: bool = True,
) -> SocketStream | TLSStream:
    """Connects through `proxy`, in the manner of `anyio.connect_tcp`.

    There is no timeout argument: use `anyio.fail_after`.

    Args:
        host: The destination. With ``socks5h`` a host name goes to the proxy as it is and is
            never resolved here; with ``socks5`` it is resolved here, and its addresses are tried
            in order.
        port: 1 to 65535.
        proxy: The proxy's URL, or a `Proxy`.
        local_host: The local IP address to connect to the proxy from.
        tls: Whether to speak TLS with the destination; so it is with one of the next two given.
        ssl_context: The context to use, in place of a default one.
        tls_hostname: The name to verify the destination's certificate against, in place of `host`.
        tls_standard_compatible: Whether TLS ends with its closing handshake; False for HTTP.

    Returns:
        A stream of which nothing has been read that the destination sent.

    Raises:
        ValueError: The destination or the proxy cannot be; nothing has been sent.
        ProxyConnectError: The proxy cannot be reached.
        ResolveError: The destination's name has no address (``socks5`` only).
        ProtocolError: The peer does not speak SOCKS5 as it should; `ProxyClosed` if it hung up.
        AuthenticationError: The proxy accepts no method offered, or not the credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
        ssl.SSLError: TLS with the destination failed.
        anyio.BrokenResourceError: The destination hung up in its TLS handshake.
    """
    attempt = Attempt(as_proxy(proxy), host, port)
    stream = await open_stream(attempt, local_host)
    if not (tls or ssl_context or tls_hostname):
        return stream
    try:
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=tls_hostname or attempt.target[0],
            ssl_context=ssl_context,
            standard_compatible=tls_standard_compatible,
        )
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


async def connect_socket(
    host: str, port: int, *, proxy: ProxyLike, local_host: str | None = None
) -> socket.socket:
    """Connects through `proxy`, for what takes a socket: ``asyncio.open_connection(sock=…)``.

    Args:
        host: As for `connect_tcp`.
        port: As for `connect_tcp`.
        proxy: As for `connect_tcp`.
        local_host: As for `connect_tcp`.

    Returns:
        A plain connected socket, non-blocking, of which nothing has been read that the
        destination sent.

    Raises:
        ValueError: As `connect_tcp` does, and so the others.
        ProxyConnectError: The proxy cannot be reached.
        ResolveError: The destination's name has no address (``socks5`` only).
        ProtocolError: The peer does not speak SOCKS5 as it should; `ProxyClosed` if it hung up.
        AuthenticationError: The proxy accepts no method offered, or not the credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
    """
    return await open_tunnel(Attempt(as_proxy(proxy), host, port), local_host)


async def open_stream(
    attempt: Attempt,
    local_host: str | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> SocketStream:
    """`open_tunnel`, with the socket wrapped."""
    # As the streams of `anyio.connect_tcp` have it.
    no_delay = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock = await open_tunnel(attempt, local_host, [no_delay, *socket_options])
    try:
        return await SocketStream.from_socket(sock)
    except BaseException as error:
        sock.close()
        if isinstance(error, ValueError):  # says anyio of a socket that is not connected any more
            attempt.phase = "relay"
            with attempt:
                raise ProxyClosed("the connection ended after the proxy's reply") from error
        raise


async def open_tunnel(
    attempt: Attempt,
    local_host: str | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> socket.socket:
    """A non-blocking socket connected to the destination of `attempt`.

    With ``socks5``, each address of the destination is tried on a connection of its own.
    """
    check_source(local_host)
    source_address = None if local_host is None else (local_host, 0)
    # For a connection may fail at once, and who tries again without end is to be cancellable.
    await anyio.lowlevel.checkpoint()
    with attempt:
        targets = await _targets(attempt)
        proxy = attempt.proxy
        servers = interleave(await _resolve(attempt, proxy.host, proxy.port))
    while True:
        target = targets.pop(0)
        try:
            with attempt:
                attempt.enter("connect")
                sock = await _connect(servers, source_address, socket_options)
                await _handshake(attempt, target, sock)
                return sock
        except SocksError as error:
            if not targets or not next_address_may_do(error):
                raise
            attempt.earlier.append(f"before that, {target[0]}: {error.strerror}")


async def _targets(attempt: Attempt) -> list[tuple[str, int]]:
    """What to ask the proxy for, one after the other."""
    host, port = attempt.target
    if attempt.proxy.remote_dns or is_address(host):
        return [attempt.target]
    try:
        addresses = await _resolve(attempt, host, port)
    except socket.gaierror as error:
        raise ResolveError.of(host, error) from error
    return [(address, port) for address in without_zone(host, addresses)]


async def _handshake(attempt: Attempt, target: tuple[str, int], sock: socket.socket) -> None:
    try:
        bound_address = await run(connect(attempt.proxy, *target, attempt.enter), sock)
    except BaseException:
        sock.close()
        raise
    attempt.log(f"connected, bound address {host_port(*bound_address)!r}")


async def run(flow: Flow[T], sock: socket.socket) -> T:
    """Drives `flow` on the non-blocking `sock`, which stays open whatever happens."""
    with closing(flow):
        try:
            step = next(flow)
            while True:
                step = flow.send(await _exchange(step, sock))
        except StopIteration as stop:
            result: T = stop.value
            return result


async def _exchange(step: Exchange, sock: socket.socket) -> bytes:
    octets = b""
    try:
        await _send(step, sock)
        while len(octets) < (step.enough or step.read):
            received = await _receive(sock, step.read - len(octets))
            if not received:
                raise ConnectionResetError("it hung up")
            octets += received
    except ConnectionError as error:
        raise step.closed(octets) from error
    except OSError as error:
        raise ProxyClosed.broken(error, octets) from error
    return octets


# Both await outside of `except`: a cancellation is to have no BlockingIOError as its context.


async def _send(step: Exchange, sock: socket.socket) -> None:
    sent = 0
    while sent < len(step.send):
        with suppress(BlockingIOError):
            sent += sock.send(step.send[sent:])
            continue
        await anyio.wait_writable(sock)


async def _receive(sock: socket.socket, count: int) -> bytes:
    while True:
        with suppress(BlockingIOError):
            return sock.recv(count)
        await anyio.wait_readable(sock)


async def _connect(
    servers: list[Address],
    source_address: tuple[str, int] | None,
    socket_options: Iterable[SocketOption],
) -> socket.socket:
    """A socket connected to the first of `servers` that answers."""
    with closing(race(servers, source_address, socket_options)) as steps:
        try:
            step = next(steps)
            while True:
                step = steps.send(await _writable(step))
        except StopIteration as won:
            sock: socket.socket = won.value
            return sock


async def _writable(step: Wait) -> list[socket.socket]:
    if len(step.sockets) == 1 and step.seconds is None:
        await anyio.wait_writable(step.sockets[0])
        return [step.sockets[0]]
    writable: list[socket.socket] = []
    failures: list[OSError] = []

    async def wait(sock: socket.socket) -> None:
        try:
            await anyio.wait_writable(sock)
            writable.append(sock)
        except OSError as error:  # so that it leaves the group without an exception group
            failures.append(error)
        group.cancel_scope.cancel()

    with anyio.move_on_after(step.seconds):
        async with anyio.create_task_group() as group:
            for sock in step.sockets:
                group.start_soon(wait, sock)
    if failures:
        raise failures.pop()
    return writable


async def _resolve(attempt: Attempt, host: str, port: int) -> list[Address]:
    """The addresses of `host`, in the order to try them."""
    if address := literal(host, port):
        return [address]
    attempt.log(f"resolve {host}")
    # As octets: they go to the resolver as they are.
    found = await anyio.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]
