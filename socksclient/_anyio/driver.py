"""The awaited driver, on asyncio (uvloop too) and trio: it carries out the steps of a tunnel.

The handshake runs on the bare non-blocking socket, and the driver wraps that last, if at all: this
costs less than a handshake over a stream, and any library that takes a socket can have it. Only if
a hop speaks TLS, the handshake goes on over a stream from there.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import SocketStream, UNIXSocketStream
from anyio.lowlevel import RunVar
from anyio.streams.tls import TLSAttribute, TLSStream

from socksclient._net.log import Observer, placed, report_to
from socksclient._net.resolver import addresses_found, look_up, name_to_ask, resolver_failures
from socksclient._net.sockets import (
    NO_DELAY,
    PEEK_SIZE,
    PlainSocket,
    SocketOption,
    Wait,
    check_source,
    is_internet,
    race,
)
from socksclient._net.tls import context_of, server_name, tls_failure
from socksclient.protocol.address import Host
from socksclient.protocol.exceptions import ProxyClosed
from socksclient.protocol.flow import ConnectionEnded, Exchange
from socksclient.protocol.tunnel import (
    Connect,
    Grant,
    Resolve,
    ServerAddress,
    SocketAddress,
    StartTLS,
    Step,
    Steps,
    resolve_target,
    tunnel,
)

if TYPE_CHECKING:
    import ssl

    from socksclient.protocol.proxy import Proxy
    from socksclient.protocol.route import Route

T = TypeVar("T")

Stream: TypeAlias = SocketStream | TLSStream
Channel: TypeAlias = PlainSocket | Stream
"""The connection of a tunnel: a non-blocking socket or, with TLS, a stream."""
AnyChannel = TypeVar("AnyChannel", bound=Channel)

_MAX_THREADS = 40
"""How many names one event loop resolves at once, which is anyio's default for all threads."""

_resolving: RunVar[anyio.CapacityLimiter] = RunVar("socksclient resolving")

_STEPS_PER_TURN = 12
"""More than a handshake with one proxy takes, so that it costs no turn of the event loop."""


async def open_tunnel(
    route: Route,
    local_host: str | None = None,
    socket_options: Iterable[SocketOption] = (),
    timeout: float | None = None,
    observer: Observer | None = None,
) -> tuple[Channel, Grant]:
    """Return the connection through all hops of a route, and what the last hop has granted.

    Args:
        route: The requests to the hops.
        local_host: The IP address to connect to the nearest hop from.
        socket_options: The options for the socket to the nearest hop.
        timeout: The seconds for all of it; None sets no deadline.
        observer: A function that gets each event on the way.

    Raises:
        ValueError: The local host is not an IP address, or the nearest hop is a unix socket, to
            which no IP address leads.
        SocksError: The way cannot be opened (`socksclient.protocol.tunnel.tunnel`).
    """
    return await _open(route, local_host, socket_options, timeout, observer, _as_it_is)


async def open_stream(
    route: Route,
    local_host: str | None = None,
    socket_options: Iterable[SocketOption] = (),
    timeout: float | None = None,
) -> tuple[Stream, Grant]:
    """Return what `open_tunnel` returns, with a stream as the connection."""
    return await _open(route, local_host, [NO_DELAY, *socket_options], timeout, None, as_stream)


async def _open(
    route: Route,
    local_host: str | None,
    socket_options: Iterable[SocketOption],
    timeout: float | None,
    observer: Observer | None,
    finish: Callable[[Route, Channel], Awaitable[AnyChannel]],
) -> tuple[AnyChannel, Grant]:
    check_source(local_host, route.requests[0].proxy.path)
    # A connect can fail without ever waiting. This checkpoint lets a caller's retry loop be
    # cancelled.
    await anyio.lowlevel.checkpoint()
    driver = Driver(None, local_host, socket_options)
    with closing(tunnel(route, report_to(route, observer))) as steps:
        try:
            with anyio.move_on_after(timeout):
                grant = await driver.run(steps)
                channel = await finish(route, driver.connected)
                return await handed_over(channel), grant
            # The deadline has passed, and the generator knows how far the way had come.
            with placed(route, "request"):
                steps.throw(TimeoutError())
                # A method of the user's own has caught that error.
                raise TimeoutError
        except BaseException:
            if driver.channel is not None:
                await close(driver.channel)
            raise


async def _as_it_is(_route: Route, channel: Channel) -> Channel:
    return channel


async def as_stream(route: Route, channel: Channel) -> Stream:
    """Return the connection of an open tunnel as a stream."""
    if not isinstance(channel, PlainSocket):
        return channel
    try:
        return await _wrap(channel)
    except ConnectionResetError as error:
        with placed(route, "relay"):
            raise ProxyClosed("the connection ended after the proxy's reply") from error


async def _wrap(sock: PlainSocket) -> SocketStream:
    """Return a socket as a stream.

    Raises:
        ConnectionResetError: The connection has ended.
    """
    try:
        if is_internet(sock.family):
            return await SocketStream.from_socket(sock)
        return await UNIXSocketStream.from_socket(sock)
    except ValueError as error:
        # anyio says so about a socket that is not connected any more.
        raise ConnectionResetError(errno.ECONNRESET, "the connection has ended") from error


async def handed_over(channel: AnyChannel) -> AnyChannel:
    """Return what has just been made, or close it if the task has been cancelled meanwhile.

    A task that is cancelled in the same turn of the event loop in which its wait ends goes on
    until it waits again. A caller that waits before it has put the channel where it will be closed
    would leave it open: httpcore's pool does so, and loses the place of the connection.
    """
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
    except BaseException:
        await close(channel)
        raise
    return channel


async def close(channel: Channel) -> None:
    """Close a connection at once."""
    if isinstance(channel, PlainSocket):
        channel.close()
    else:
        await anyio.aclose_forcefully(channel)


async def find_target(route: Route) -> tuple[Host, int]:
    """Return the host and the port to ask the last hop for, and resolve the name if need be.

    Raises:
        ResolveError: The name has no address.
    """
    with placed(route, "resolve"), closing(resolve_target(route.last)) as steps:
        return await Driver().run(steps)


class Driver:
    """Carries out steps on one connection.

    Args:
        channel: The connection that is there already, if there is one.
        local_host: The IP address to connect to the nearest hop from.
        socket_options: The options for the socket to the nearest hop.

    Attributes:
        channel: The connection, if there is one. The driver closes it only to make another one.
    """

    def __init__(
        self,
        channel: Channel | None = None,
        local_host: str | None = None,
        socket_options: Iterable[SocketOption] = (),
    ) -> None:
        self.channel = channel
        self._ssl_object = None if channel is None else _ssl_object_of(channel)
        self._source_address = None if local_host is None else (local_host, 0)
        self._socket_options = socket_options

    @property
    def connected(self) -> Channel:
        """The connection. A tunnel asks for one before it asks for anything else of it."""
        return cast("Channel", self.channel)

    async def run(self, steps: Steps[T]) -> T:
        """Carry out all steps, and return the result. The caller closes the generator."""
        try:
            step = next(steps)
            exchanges = 0
            while True:
                try:
                    answer = [await self._carry_out(step)]
                except OSError as error:
                    step = steps.throw(error)
                else:
                    # The answer leaves the list, because the proxy may have repeated the
                    # credentials in it, and a traceback can show variables.
                    step = steps.send(answer.pop())
                exchanges += 1
                # Where octets are available already, an exchange does not wait. A proxy that says
                # very much in small pieces must not keep the other tasks from their turns.
                if exchanges % _STEPS_PER_TURN == 0:
                    await anyio.lowlevel.checkpoint()
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _carry_out(self, step: Step) -> object:
        if isinstance(step, Exchange):
            return await exchange(step, self.connected, self._ssl_object)
        if isinstance(step, Connect):
            return await self._connect(step.addresses)
        if isinstance(step, StartTLS):
            await self._start_tls(step.proxy)
            return None
        return await _resolve(step)

    async def _connect(self, addresses: Iterable[ServerAddress]) -> ServerAddress:
        if self.channel is not None:
            await close(self.channel)
            self.channel = self._ssl_object = None
        with closing(race(addresses, self._source_address, self._socket_options)) as steps:
            try:
                step = next(steps)
                while True:
                    step = steps.send(await _writable(step))
            except StopIteration as won:
                address: ServerAddress
                self.channel, address = won.value
                return address

    async def _start_tls(self, proxy: Proxy) -> None:
        try:
            stream = self.connected
            if isinstance(stream, PlainSocket):
                self.channel = stream = await _wrap(stream)
            self.channel = stream = await TLSStream.wrap(
                stream,
                server_side=False,
                hostname=server_name(proxy.host),
                ssl_context=context_of(proxy),
                # Many servers end without the closing handshake of TLS, which an SSLSocket allows.
                standard_compatible=False,
            )
        except (OSError, ValueError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            raise tls_failure(error) from error
        self._ssl_object = _ssl_object_of(stream)


def _ssl_object_of(channel: Channel) -> ssl.SSLObject | None:
    """Return the SSL object of a stream with TLS.

    uvloop tells nothing of a connection that has failed. So the driver asks for it before.
    """
    if isinstance(channel, PlainSocket):
        return None
    return channel.extra(TLSAttribute.ssl_object, None)


async def exchange(
    step: Exchange, channel: Channel, ssl_object: ssl.SSLObject | None = None
) -> bytes:
    """Do what one step of a flow asks for, and return the octets that it is to be sent.

    Args:
        step: What to write and to read.
        channel: What to write to and to read from.
        ssl_object: That of `channel`, if there is anything to write and `channel` is a stream.

    Raises:
        ConnectionEnded: The connection has ended. The caller throws this into the flow.
    """
    octets = b""
    try:
        if step.send and isinstance(channel, PlainSocket):
            octets = await _say_to_socket(channel, step)
        elif step.send and not isinstance(channel, PlainSocket):
            octets = await _say_to_stream(channel, step)
        while len(octets) < (step.enough or step.read):
            received = await _receive(channel, step, octets, ssl_object)
            if not received:
                raise ConnectionResetError("it hung up")
            octets += received
    except (OSError, anyio.BrokenResourceError) as error:
        raise ConnectionEnded(octets) from error
    return octets


# A proxy may answer and close before it has read everything. Its answer has arrived then, and tells
# more than the failed write. So both of these functions may return octets of the answer already.
# They await outside of `except`: a cancellation is to have no other error as its context.


async def _say_to_socket(sock: PlainSocket, step: Exchange) -> bytes:
    failure = await _send_all(sock, step)
    try:
        if failure is None:
            return b""
        octets = b""
        with suppress(OSError):
            octets = await _receive(sock, step, b"")
        if not octets:
            raise failure
        return octets
    finally:
        # Or the error and this frame would hold each other.
        del failure


async def _send_all(sock: PlainSocket, step: Exchange) -> ConnectionError | None:
    """Send what a step says; return the error that says that the peer has hung up, if any does."""
    left = memoryview(step.send)
    while left:
        with suppress(BlockingIOError):
            try:
                left = left[sock.send(left) :]
            except ConnectionError as error:
                return error
            continue
        await anyio.wait_writable(sock)
    return None


async def _say_to_stream(stream: Stream, step: Exchange) -> bytes:
    # asyncio drops what has arrived when a write fails. So the stream receives meanwhile.
    octets = b""
    failures: list[Exception] = []

    async def send() -> None:
        try:
            # The repr of a memoryview shows no octets in any frame below.
            await stream.send(cast("bytes", memoryview(step.send)))
        except (OSError, anyio.BrokenResourceError) as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        try:
            octets = await _receive(stream, step, b"")
        except anyio.BusyResourceError:
            # The proxy asks for a message of TLS itself, such as a KeyUpdate (RFC 8446 §4.6.3),
            # which a TLSStream cannot write while another task writes.
            text = "with TLS, it asked for new keys while it was being written to"
            failures.append(OSError(errno.EPROTO, text))
            group.cancel_scope.cancel()
        except (OSError, anyio.BrokenResourceError) as error:
            failures.append(error)
    try:
        if failures and not octets:
            raise failures[0]
        return octets
    finally:
        # Or the errors and this frame would hold each other.
        failures.clear()


async def _receive(
    channel: Channel, step: Exchange, octets: bytes, ssl_object: ssl.SSLObject | None = None
) -> bytes:
    """Receive more of what the step asks for, after `octets`."""
    size = step.read - len(octets)
    if not isinstance(channel, PlainSocket):
        try:
            return await channel.receive(size)
        except anyio.EndOfStream:
            return b""
        except anyio.BrokenResourceError:
            # After a failed write, a TLSStream lets nobody receive. What it has decrypted is there.
            with suppress(OSError):
                if ssl_object is not None:
                    return ssl_object.read(size)
            raise
    while True:
        with suppress(BlockingIOError):
            if step.belonging is not None:
                arrived = channel.recv(PEEK_SIZE, socket.MSG_PEEK)
                size = max(size, step.belonging(octets + arrived) - len(octets))
            return channel.recv(size)
        await anyio.wait_readable(channel)


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

    async def wait_for(sock: PlainSocket) -> None:
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


async def _resolve(step: Resolve) -> list[SocketAddress]:
    """Return the addresses of a name.

    The resolver runs in a thread, which is left to itself when the caller is cancelled. Where no
    thread can be started, it runs in that of the event loop, and holds up all other tasks.
    """
    if getaddrinfo := _resolver_of_the_event_loop():
        with resolver_failures():
            found = await getaddrinfo(name_to_ask(step.host), step.port, type=socket.SOCK_STREAM)
            return addresses_found(found)
    # Not by anyio.getaddrinfo: on asyncio and on trio that asks with octets.
    try:
        return await anyio.to_thread.run_sync(
            look_up, *step, abandon_on_cancel=True, limiter=_limiter()
        )
    except RuntimeError:
        # As in the blocking driver: no thread can be started.
        return look_up(*step)


def _resolver_of_the_event_loop() -> Callable[..., Awaitable[Iterable[tuple[Any, ...]]]] | None:
    """Return what the event loop has in place of `socket.getaddrinfo`, if it has anything."""
    # On asyncio, the token is the loop. uvloop has a resolver of its own, as others may have.
    getaddrinfo = getattr(anyio.lowlevel.current_token().native_token, "getaddrinfo", None)
    if getaddrinfo is not None:
        return None if getaddrinfo.__module__ == "asyncio.base_events" else getaddrinfo
    import trio

    # trio tells what has been set only to who sets it. No other task runs in between.
    resolver = trio.socket.set_custom_hostname_resolver(None)
    trio.socket.set_custom_hostname_resolver(resolver)
    return None if resolver is None else trio.socket.getaddrinfo


def _limiter() -> anyio.CapacityLimiter:
    """Return what limits how many names this event loop resolves at once.

    The default limiter will not do. It is that of the caller, all of whose threads may be waiting
    for what is to be connected here.
    """
    try:
        return _resolving.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_MAX_THREADS)
        _resolving.set(limiter)
        return limiter
