"""Awaited: open the way through a chain, by the steps of `socksclient.protocol.tunnel`.

The generator decides what comes next, and this driver does that: resolve a name, connect, exchange
octets with a hop, start TLS. An error goes back into the generator, which decides whether another
address is worth a try. The driver runs on asyncio (uvloop too) and on trio.

The handshakes run on the bare non-blocking socket, and the driver makes a stream of the socket last
of all, if the caller wants a stream. A handshake over a socket takes less time than one over a
stream, and any library that takes a socket can have the socket. Only behind a hop that speaks TLS,
the handshakes run over a stream.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from typing import TypeVar, cast

import anyio
import anyio.lowlevel

from socksclient._anyio.exchange import exchange
from socksclient._anyio.resolver import addresses_of
from socksclient._anyio.streams import (
    AnyChannel,
    Channel,
    Stream,
    as_stream,
    close,
    handed_over,
    ssl_object_of,
    start_tls,
)
from socksclient._net.log import Observer, placed, report_to
from socksclient._net.sockets import NO_DELAY, SocketOption, check_source, race
from socksclient._net.tls import tls_failure
from socksclient.protocol.address import Host
from socksclient.protocol.exceptions import ProxyClosed
from socksclient.protocol.proxy import Proxy
from socksclient.protocol.route import Route
from socksclient.protocol.steps import Connect, Grant, Resolve, ServerAddress, StartTLS, Step, Steps
from socksclient.protocol.tunnel import resolve_target, tunnel

T = TypeVar("T")

_STEPS_PER_TURN = 12
"""More steps than a handshake with one proxy has, so that such a handshake costs no extra turn."""


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
        timeout: The seconds for the whole call; None sets no deadline.
        observer: A function that gets each event on the way, and the time of the event.

    Raises:
        ValueError: The local host is not an IP address, or the nearest hop is a unix socket, to
            which no IP address leads.
        SocksError: A hop is out of reach, refuses its request, or breaks its protocol
            (`socksclient.protocol.tunnel.tunnel` names all cases).
    """
    return await _open(route, local_host, socket_options, timeout, observer, _as_it_is)


async def open_stream(
    route: Route,
    local_host: str | None = None,
    socket_options: Iterable[SocketOption] = (),
    timeout: float | None = None,
) -> tuple[Stream, Grant]:
    """Return what `open_tunnel` returns, with a stream as the connection.

    Raises:
        ValueError: `open_tunnel` raises it.
        SocksError: `open_tunnel` raises it, or the proxy ended the connection right after its
            reply.
    """
    return await _open(route, local_host, [NO_DELAY, *socket_options], timeout, None, _as_stream)


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
            # The deadline has passed. The generator knows how far the way had come, and raises a
            # ProxyTimeout that says so. If a method of the user's own catches the first
            # TimeoutError, the generator goes on to another step, and the second one is raised.
            with placed(route, "request"):
                steps.throw(TimeoutError())
                raise TimeoutError
        except BaseException:
            if driver.channel is not None:
                await close(driver.channel)
            raise


async def _as_it_is(_route: Route, channel: Channel) -> Channel:
    return channel


async def _as_stream(route: Route, channel: Channel) -> Stream:
    try:
        return await as_stream(channel)
    except ConnectionResetError as error:
        with placed(route, "relay"):
            raise ProxyClosed("the connection ended after the proxy's reply") from error


async def find_target(route: Route) -> tuple[Host, int]:
    """Return the host and the port to ask the last hop for, and resolve the name if need be.

    Raises:
        ResolveError: The name has no address.
    """
    with placed(route, "resolve"), closing(resolve_target(route.last)) as steps:
        return await Driver().run(steps)


class Driver:
    """A driver, which carries out steps on one connection.

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
        self._ssl_object = None if channel is None else ssl_object_of(channel)
        self._source_address = None if local_host is None else (local_host, 0)
        self._socket_options = socket_options

    @property
    def connected(self) -> Channel:
        """The connection. A tunnel yields `Connect` before every step that needs a connection."""
        return cast("Channel", self.channel)

    async def run(self, steps: Steps[T]) -> T:
        """Carry out all steps, and return the result of the generator.

        An OSError of a step goes back into the generator, which may go on. The caller closes the
        generator, because the caller asks it for the place of a deadline.
        """
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
                # An exchange does not wait if its octets are there already. A proxy that sends very
                # much in small pieces must not keep the other tasks from their turns.
                if exchanges % _STEPS_PER_TURN == 0:
                    await anyio.lowlevel.checkpoint()
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _carry_out(self, step: Step) -> object:
        if isinstance(step, Resolve):
            return await addresses_of(step)
        if isinstance(step, Connect):
            return await self._connect(step.addresses)
        if isinstance(step, StartTLS):
            await self._start_tls(step.proxy)
            return None
        # The exchange is the last case, so that no resolver gets what a method yields by mistake.
        return await exchange(step, self.connected, self._ssl_object)

    async def _connect(self, addresses: Iterable[ServerAddress]) -> ServerAddress:
        # A tunnel asks for another connection when the hops have refused one address of a target.
        if self.channel is not None:
            await close(self.channel)
            self.channel = self._ssl_object = None
        with closing(race(addresses, self._source_address, self._socket_options)) as steps:
            try:
                step = next(steps)
                while True:
                    step = steps.send(await _writable(step.sockets, step.seconds))
            except StopIteration as won:
                address: ServerAddress
                self.channel, address = won.value
                return address

    async def _start_tls(self, proxy: Proxy) -> None:
        try:
            stream = await as_stream(self.connected)
        except OSError as error:
            raise tls_failure(error) from error
        # If TLS fails, whoever made this driver closes the stream.
        self.channel = stream
        self.channel = stream = await start_tls(stream, proxy)
        self._ssl_object = ssl_object_of(stream)


async def _writable(
    sockets: Sequence[socket.socket], seconds: float | None
) -> Sequence[socket.socket]:
    """Wait until any of the sockets is writable, for at most `seconds`; return those that are."""
    # Most proxies have one address. Then no task group is needed, which would cost a task.
    if len(sockets) == 1 and seconds is None:
        await anyio.wait_writable(sockets[0])
        return sockets
    return await first_ready(anyio.wait_writable, sockets, seconds)


async def first_ready(
    wait: Callable[[socket.socket], Awaitable[None]],
    sockets: Iterable[socket.socket],
    seconds: float | None,
) -> list[socket.socket]:
    """Wait until any of the sockets is ready, for at most `seconds`; return those that are.

    Args:
        wait: The function that waits for one socket, such as `anyio.wait_readable`.
        sockets: The sockets.
        seconds: The seconds to wait; None sets no limit.

    Raises:
        Exception: `wait` raised this error for a socket. It comes in no exception group.
    """
    ready: list[socket.socket] = []
    failures: list[Exception] = []

    async def wait_for(sock: socket.socket) -> None:
        try:
            await wait(sock)
            ready.append(sock)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)
        group.cancel_scope.cancel()

    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            for sock in sockets:
                group.start_soon(wait_for, sock)
    if failures:
        raise failures.pop()
    return ready
