"""The blocking driver: it carries out the steps of a tunnel, and the exchanges of a flow."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterable
from contextlib import closing, suppress
from typing import TYPE_CHECKING, TypeVar, cast

from socksclient._net.log import Observer, placed, report_to
from socksclient._net.resolver import look_up
from socksclient._net.sockets import (
    PEEK_SIZE,
    SocketOption,
    can_peek,
    check_source,
    has_ended,
    make_socket,
    race,
    refuse_tls,
    writable,
)
from socksclient.protocol.address import Host, HostPort
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
    is_deadline,
    resolve_target,
    tunnel,
)

if TYPE_CHECKING:
    import ssl

    from socksclient._sync.timeouts import Deadline
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
        deadline: The instant by which all must be done.
        source_address: The (IP address, port) to connect to the nearest hop from.
        socket_options: The options for the socket to the nearest hop.
        observer: A function that gets each event on the way.

    Raises:
        ValueError: The source is not an IP address, or the nearest hop is a unix socket, to which
            no IP address leads.
        SocksError: The way cannot be opened (`socksclient.protocol.tunnel.tunnel`).
    """
    check_source(source_address and source_address[0], route.requests[0].proxy.path)
    driver = Driver(deadline, None, source_address, socket_options)
    try:
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

    Raises:
        ValueError: More than one hop speaks TLS, and no `ssl.SSLSocket` speaks TLS within TLS.
    """
    chain = [request.proxy for request in route.requests]
    refuse_tls(chain, "a socket", "socksclient.anyio, httpx or requests", allowed=1)
    channel, grant = open_tunnel(route, deadline, source_address, socket_options)
    if any(proxy.tls for proxy in chain):
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
    """Carries out steps on one connection.

    Args:
        deadline: The instant by which all must be done.
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
        """The connection. A tunnel asks for one before it asks for anything else of it."""
        return cast("Channel", self.channel)

    def run(self, steps: Steps[T]) -> T:
        """Carry out all steps, and return the result."""
        with closing(steps):
            try:
                step = next(steps)
                while True:
                    try:
                        answer = [self._carry_out(step)]
                    except OSError as error:
                        step = steps.throw(error)
                    else:
                        # The answer leaves the list, because the proxy may have repeated the
                        # credentials in it, and a traceback can show variables.
                        step = steps.send(answer.pop())
            except StopIteration as stop:
                result: T = stop.value
                return result

    def _carry_out(self, step: Step) -> object:
        if isinstance(step, Exchange):
            return exchange(step, self.connected, self._deadline)
        if isinstance(step, Connect):
            return self._connect(step.addresses)
        if isinstance(step, StartTLS):
            self.channel = _start_tls(step.proxy, self.connected, self._deadline)
            return None
        return _resolve(step, self._deadline)

    def _connect(self, addresses: Iterable[ServerAddress]) -> ServerAddress:
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


def exchange(step: Exchange, sock: Channel, deadline: Deadline) -> bytes:
    """Do what one step of a flow asks for, and return the octets to send into the flow.

    Raises:
        ConnectionEnded: The connection has ended. The caller throws this into the flow.
        TimeoutError: The deadline has passed.
    """
    octets = b""
    try:
        if step.send:
            deadline.limit(sock)
            try:
                # The repr of a memoryview hides the octets where a traceback shows variables.
                sock.sendall(memoryview(step.send))
            except OSError as error:
                if not has_ended(error):
                    raise
                octets = _arrived(step, sock, deadline)
                if not octets:
                    raise
        while len(octets) < (step.enough or step.read):
            received = _receive(step, octets, sock, deadline)
            if not received:
                raise ConnectionResetError("it hung up")
            octets += received
    except OSError as error:
        if is_deadline(error):
            raise
        raise ConnectionEnded(octets) from error
    return octets


def _arrived(step: Exchange, sock: Channel, deadline: Deadline) -> bytes:
    """Return what the proxy sent before it closed the connection and a write failed.

    A proxy may answer and close the connection before it has read everything. Its answer has
    arrived then, and tells more than the error of the write.
    """
    with suppress(OSError):
        return _receive(step, b"", sock, deadline)
    return b""


def _receive(step: Exchange, octets: bytes, sock: Channel, deadline: Deadline) -> bytes:
    """Receive more of what the step asks for, of which `octets` have been received."""
    count = step.read - len(octets)
    if step.belonging is not None and can_peek(sock):
        deadline.limit(sock)
        arrived = sock.recv(PEEK_SIZE, socket.MSG_PEEK)
        count = max(count, step.belonging(octets + arrived) - len(octets))
    deadline.limit(sock)
    return sock.recv(count)


def _connect(
    addresses: list[ServerAddress],
    deadline: Deadline,
    source_address: HostPort | None,
    socket_options: Iterable[SocketOption],
) -> tuple[socket.socket, ServerAddress]:
    """Return a socket connected to the first address that answers, and that address."""
    if len(addresses) > 1:
        return _race(addresses, deadline, source_address, socket_options)
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
                step = steps.send(writable(step.sockets, seconds))
        except StopIteration as won:
            sock, address = won.value
            sock.setblocking(True)
            return sock, address


def _resolve(step: Resolve, deadline: Deadline) -> list[SocketAddress]:
    """Return the addresses of a name.

    getaddrinfo cannot be interrupted. If there is a deadline, it runs in a thread of its own, which
    is left to itself when the deadline passes. Where no thread can be started, it runs in the
    caller's thread, and may take longer than the deadline allows.
    """
    left = deadline.left()
    if left is None:
        return look_up(*step)
    answers: queue.SimpleQueue[list[SocketAddress] | BaseException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(look_up(*step))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller waits for it
            answers.put(error)

    try:
        threading.Thread(target=ask, name=f"resolve {step.host}", daemon=True).start()
    except RuntimeError:
        # A container may limit threads; CPython 3.12 starts none in an atexit handler, and an
        # isolated subinterpreter starts no daemon thread.
        return look_up(*step)
    try:
        answer = answers.get(timeout=left)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, list):
        return answer
    try:
        raise answer
    finally:
        # Otherwise the error and this frame would keep each other alive.
        del answer
