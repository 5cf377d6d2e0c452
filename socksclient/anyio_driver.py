"""Awaited: the driver of the flows, on asyncio (uvloop too) and trio.

The handshake runs on the bare non-blocking socket, which is wrapped last, if at all: it costs
less than over a stream, and any library that takes a socket can have it.
"""

from __future__ import annotations

import socket
from contextlib import closing, suppress
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream

from socksclient.attempt import Attempt, next_address_may_do
from socksclient.exceptions import ProxyClosed, ResolveError, SocksError, host_port
from socksclient.flows import Exchange, Flow, handshake
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
    from collections.abc import Awaitable, Callable, Iterable

T = TypeVar("T")


NO_DELAY: SocketOption = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"""As the streams of `anyio.connect_tcp` have it."""


async def open_stream(
    attempt: Attempt,
    local_host: str | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> SocketStream:
    """`open_tunnel`, with the socket wrapped."""
    sock, _ = await open_tunnel(attempt, local_host, [NO_DELAY, *socket_options])
    return await wrap(attempt, sock)


async def wrap(attempt: Attempt, sock: socket.socket) -> SocketStream:
    """The socket as a stream; closes it if that cannot be."""
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
) -> tuple[socket.socket, tuple[str, int]]:
    """The non-blocking connection on which the proxy has granted `attempt`; the bound address.

    With ``socks5``, each address of the destination is tried on a connection of its own.
    """
    check_source(local_host)
    source_address = None if local_host is None else (local_host, 0)
    # For a connection may fail at once, and who tries again without end is to be cancellable.
    await anyio.lowlevel.checkpoint()
    with attempt:
        ahead = await targets(attempt)
        proxy = attempt.proxy
        servers = interleave(await _resolve(attempt, proxy.host, proxy.port))
    while True:
        target = ahead.pop(0)
        try:
            with attempt:
                attempt.enter("connect")
                sock = await _connect(servers, source_address, socket_options)
                return sock, await _handshake(attempt, target, sock)
        except SocksError as error:
            if not ahead or not next_address_may_do(error):
                raise
            attempt.earlier.append(f"before that, {target[0]}: {error.strerror}")


async def targets(attempt: Attempt) -> list[tuple[str, int]]:
    """What to ask the proxy for, one after the other."""
    host, port = attempt.target
    if attempt.proxy.remote_dns or is_address(host):
        return [attempt.target]
    try:
        addresses = await _resolve(attempt, host, port)
    except socket.gaierror as error:
        raise ResolveError.of(host, error) from error
    return [(address, port) for address in without_zone(host, addresses)]


async def _handshake(
    attempt: Attempt, target: tuple[str, int], sock: socket.socket
) -> tuple[str, int]:
    host, port = attempt.ask_over(sock.family, target)
    flow = handshake(attempt.proxy, attempt.command, host, port, attempt.enter)
    try:
        bound_address = await run(flow, sock)
    except BaseException:
        sock.close()
        raise
    attempt.log(f"granted, bound address {host_port(*bound_address)!r}")
    return bound_address


async def run(flow: Flow[T], sock: socket.socket) -> T:
    """Drives `flow` on the non-blocking `sock`, which stays open whatever happens."""
    with closing(flow):
        try:
            step = next(flow)
            while True:
                step = flow.send(await exchange(step, sock))
        except StopIteration as stop:
            result: T = stop.value
            return result


async def exchange(step: Exchange, sock: socket.socket) -> bytes:
    """Does what one step of a flow asks for; returns the octets that it is to be sent."""
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
    return await first_ready(anyio.wait_writable, step.sockets, step.seconds)


async def first_ready(
    wait: Callable[[socket.socket], Awaitable[None]],
    sockets: Iterable[socket.socket],
    seconds: float | None,
) -> list[socket.socket]:
    """Has `wait` wait for each of `sockets` until one is ready; returns those that are."""
    ready: list[socket.socket] = []
    failures: list[Exception] = []

    async def wait_for(sock: socket.socket) -> None:
        try:
            await wait(sock)
            ready.append(sock)
        except Exception as error:  # noqa: BLE001 - it leaves the group without an exception group
            failures.append(error)
        group.cancel_scope.cancel()

    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            for sock in sockets:
                group.start_soon(wait_for, sock)
    if failures:
        raise failures.pop()
    return ready


async def _resolve(attempt: Attempt, host: str, port: int) -> list[Address]:
    """The addresses of `host`, in the order to try them."""
    if address := literal(host, port):
        return [address]
    attempt.log(f"resolve {host}")
    # As octets: they go to the resolver as they are.
    found = await anyio.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]
