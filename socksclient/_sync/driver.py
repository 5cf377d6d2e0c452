"""Blocking: open the way through a chain, by the steps of `socksclient.protocol.tunnel`.

The generator decides what comes next, and this driver does that: resolve a name, connect, exchange
octets with a hop, start TLS. An error goes back into the generator, which decides whether another
address is worth a try.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar, cast

from socksclient._net.log import Observer, placed, report_to
from socksclient._net.sockets import (
    SocketOption,
    check_source,
    make_socket,
    race,
    refuse_tls,
)
from socksclient._sync.exchange import exchange
from socksclient._sync.resolver import addresses_of
from socksclient._sync.timeouts import Deadline
from socksclient.protocol.address import Host, HostPort
from socksclient.protocol.place import is_deadline
from socksclient.protocol.steps import Connect, Grant, Resolve, ServerAddress, StartTLS, Step, Steps
from socksclient.protocol.tunnel import resolve_target, tunnel

if TYPE_CHECKING:
    import ssl

    from socksclient._sync.tls import Channel
    from socksclient.protocol.proxy import Proxy
    from socksclient.protocol.route import Route

T = TypeVar("T")


def open_tunnel(
    route: Route,
    deadline: Deadline,
    source_address: HostPort | None = None,
    socket_options: Iterable[SocketOption] = (),
    observer: Observer | None = None,
) -> tuple[Channel, Grant]:
    """Return the connection through all hops of a route, and what the last hop has granted.

    Args:
        route: The requests to the hops.
        deadline: The instant by which the way is open.
        source_address: The (IP address, port) to connect to the nearest hop from.
        socket_options: The options for the socket to the nearest hop.
        observer: A function that gets each event on the way, and the time of the event.

    Raises:
        ValueError: The source is not an IP address, or the nearest hop is a unix socket, to which
            no IP address leads.
        SocksError: A hop is out of reach, refuses its request, or breaks its protocol
            (`socksclient.protocol.tunnel.tunnel` names all cases).
    """
    check_source(source_address and source_address[0], route.requests[0].proxy.path)
    driver = Driver(deadline, None, source_address, socket_options)
    try:
        with placed(route, "request"):
            grant = driver.run(tunnel(route, report_to(route, observer)))
    except BaseException:
        if driver.channel is not None:
            driver.channel.close()
        raise
    return driver.connected, grant


def open_socket(
    route: Route,
    deadline: Deadline,
    source_address: HostPort | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> tuple[socket.socket, Grant]:
    """Return what `open_tunnel` returns, with a socket as the connection.

    With TLS at one hop, the socket is an `ssl.SSLSocket` that refuses TLS within that TLS.

    Raises:
        ValueError: More than one hop speaks TLS, because an `ssl.SSLSocket` cannot speak TLS within
            TLS; or `open_tunnel` raises it.
        SocksError: A hop is out of reach, refuses its request, or breaks its protocol
            (`socksclient.protocol.tunnel.tunnel` names all cases).
    """
    chain = [request.proxy for request in route.requests]
    refuse_tls(chain, "a socket", "socksclient.anyio, httpx or requests", allowed=1)
    channel, grant = open_tunnel(route, deadline, source_address, socket_options)
    if any(proxy.tls for proxy in chain):
        # A second TLS around this socket would send the destination's name in the clear, past the
        # proxy's TLS. `guard` prevents that.
        from socksclient._sync.tls import guard

        guard(cast("ssl.SSLSocket", channel))
    return cast("socket.socket", channel), grant


def find_target(route: Route, deadline: Deadline) -> tuple[Host, int]:
    """Return the host and the port to ask the last hop for, and resolve the name if need be.

    Raises:
        ResolveError: The name has no address.
        ProxyTimeout: The deadline has passed.
    """
    with placed(route, "resolve"):
        return Driver(deadline).run(resolve_target(route.last))


class Driver:
    """A driver, which carries out steps on one connection.

    Args:
        deadline: The instant by which the last step is done.
        channel: The connection that is there already, if there is one.
        source_address: The (IP address, port) to connect to the nearest hop from.
        socket_options: The options for the socket to the nearest hop.

    Attributes:
        channel: The connection, if there is one. The driver closes it only to make another one.
    """

    def __init__(
        self,
        deadline: Deadline,
        channel: Channel | None = None,
        source_address: HostPort | None = None,
        socket_options: Iterable[SocketOption] = (),
    ) -> None:
        self.channel = channel
        self._deadline = deadline
        self._source_address = source_address
        self._socket_options = socket_options

    @property
    def connected(self) -> Channel:
        """The connection. A tunnel yields `Connect` before every step that needs a connection."""
        return cast("Channel", self.channel)

    def run(self, steps: Steps[T]) -> T:
        """Carry out all steps, close the generator, and return its result.

        An OSError of a step goes back into the generator, which may go on.
        """
        with closing(steps):
            try:
                step = next(steps)
                while True:
                    try:
                        answer = [self._carry_out(step)]
                    except OSError as error:
                        step = steps.throw(error)
                        if is_deadline(error):
                            # A method of the user's own has caught that error, and may always do.
                            raise TimeoutError from error
                    except StopIteration as error:
                        # The connection of a caller has raised it, such as a mock without further
                        # answers. It is not the end of the generator.
                        raise RuntimeError("the connection raised StopIteration") from error
                    else:
                        # The answer leaves the list, because the proxy may have repeated the
                        # credentials in it, and a traceback can show variables.
                        step = steps.send(answer.pop())
            except StopIteration as stop:
                result: T = stop.value
                return result

    def _carry_out(self, step: Step) -> object:
        if isinstance(step, Resolve):
            return addresses_of(step, self._deadline)
        if isinstance(step, Connect):
            return self._connect(step.addresses)
        if isinstance(step, StartTLS):
            self.channel = _start_tls(step.proxy, self.connected, self._deadline)
            return None
        # The exchange is the last case, so that no resolver gets what a method yields by mistake.
        return exchange(step, self.connected, self._deadline)

    def _connect(self, addresses: Iterable[ServerAddress]) -> ServerAddress:
        # A tunnel asks for another connection when the hops have refused one address of a target.
        if self.channel is not None:
            self.channel.close()
        self.channel, address = _connect(
            [*addresses], self._deadline, self._source_address, self._socket_options
        )
        return address


def _start_tls(proxy: Proxy, channel: Channel, deadline: Deadline) -> Channel:
    # Few programs need ssl, and it takes long to import.
    from socksclient._net.tls import context_of, server_name, tls_failure
    from socksclient._sync.tls import start_tls

    try:
        deadline.limit(channel)
        return start_tls(channel, context_of(proxy), server_name(proxy.host))
    except (OSError, ValueError) as error:
        if is_deadline(error):
            raise
        raise tls_failure(error) from error


def _connect(
    addresses: list[ServerAddress],
    deadline: Deadline,
    source_address: HostPort | None,
    socket_options: Iterable[SocketOption],
) -> tuple[socket.socket, ServerAddress]:
    """Return a socket that is connected to the first address that answers, and that address."""
    if len(addresses) > 1:
        return _race(addresses, deadline, source_address, socket_options)
    # A race with one address costs a selector and three more system calls.
    [address] = addresses
    sock = make_socket(address, source_address, socket_options)
    try:
        sock.settimeout(deadline.left())
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock, address


def _race(
    addresses: list[ServerAddress],
    deadline: Deadline,
    source_address: HostPort | None,
    socket_options: Iterable[SocketOption],
) -> tuple[socket.socket, ServerAddress]:
    with closing(race(addresses, source_address, socket_options)) as steps:
        try:
            step = next(steps)
            while True:
                left = deadline.left()
                seconds = min((s for s in (step.seconds, left) if s is not None), default=None)
                step = steps.send(_writable(step.sockets, seconds))
        except StopIteration as won:
            sock, address = won.value
            # The race needs non-blocking sockets, and the exchanges need a blocking one.
            sock.setblocking(True)
            return sock, address


def _writable(sockets: Iterable[socket.socket], seconds: float | None) -> list[socket.socket]:
    """Wait until any of the sockets is writable, for at most `seconds`; return those that are."""
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            selector.register(sock, selectors.EVENT_WRITE, sock)
        return [key.data for key, _ in selector.select(seconds)]
