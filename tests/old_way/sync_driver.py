# mypy: ignore-errors
"""Blocking: the driver of the flows."""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, TypeVar, cast

from old_way.net_attempt import Attempt, is_deadline
from old_way.net_sockets import (
    PEEK_SIZE,
    Address,
    SocketOption,
    at_path,
    can_peek,
    carried_by,
    check_source,
    has_ended,
    interleave,
    literal,
    look_up,
    make_socket,
    race,
    writable,
)
from socksclient.protocol.exceptions import ProxyClosed, ResolveError, SocksError, host_port
from socksclient.protocol.flow import Exchange, Flow, handshake

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from socksclient._sync.timeouts import Deadline
    from socksclient._sync.tls import Channel

T = TypeVar("T")


def open_tunnel(
    attempt: Attempt,
    deadline: Deadline,
    source_address: tuple[str, int] | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> tuple[Channel, tuple[str, int]]:
    """The connection on which the last hop has granted `attempt`, and the bound address.

    Where a target is resolved here (``socks5``), each of its addresses is tried on a connection
    of its own.
    """
    nearest = attempt.chain[0]
    check_source(source_address and source_address[0], nearest.path)
    with attempt:
        for number, _ in enumerate(attempt.chain):
            attempt.hop = number
            attempt.targets[number] = targets(attempt, deadline)
        attempt.hop = 0
        if nearest.path is not None:
            servers = [at_path(nearest.path)]
        else:
            servers = interleave(_resolve(attempt, nearest.host, nearest.port, deadline))
    while True:
        try:
            with attempt:
                attempt.start()
                sock = _connect(servers, deadline, source_address, socket_options)
                return _through(attempt, sock, deadline)
        except SocksError as error:
            if not attempt.try_next_address(error):
                raise


def open_socket(
    attempt: Attempt,
    deadline: Deadline,
    source_address: tuple[str, int] | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> tuple[socket.socket, tuple[str, int]]:
    """`open_tunnel`, where a socket is to come of it.

    Raises:
        ValueError: It goes by TLS within TLS, which no `ssl.SSLSocket` can do.
    """
    layers = sum(hop.tls is not None for hop in attempt.chain)
    if layers > 1:
        raise ValueError("TLS with two hops does not fit into one socket; httpx and anyio do it")
    channel, bound_address = open_tunnel(attempt, deadline, source_address, socket_options)
    if layers:
        from socksclient._sync.tls import guard

        guard(cast("ssl.SSLSocket", channel))
    return cast("socket.socket", channel), bound_address


def targets(attempt: Attempt, deadline: Deadline) -> list[tuple[str, int]]:
    """What to ask the hop for that the attempt stands at, one after the other."""
    host, port = target = attempt.target
    if not attempt.resolves_here:
        return [target]
    try:
        addresses = _resolve(attempt, host, port, deadline)
    except OSError as error:
        if is_deadline(error):
            raise
        raise ResolveError.of(host, error) from error
    return [(address, port) for address in carried_by(attempt.proxy, host, addresses)]


def _through(
    attempt: Attempt, sock: socket.socket, deadline: Deadline
) -> tuple[Channel, tuple[str, int]]:
    """From one hop to the next, each on the connection through those before; closes it if not."""
    channel: Channel = sock
    bound_address = ("", 0)
    try:
        for number, hop in enumerate(attempt.chain):
            attempt.hop = number
            if hop.tls:
                channel = _start_tls(attempt, channel, deadline)
            flow = handshake(hop, *attempt.request_over(sock.family), attempt.enter)
            bound_address = run(flow, channel, deadline)
            attempt.log(f"granted, bound address {host_port(*bound_address)!r}")
    except BaseException:
        channel.close()
        raise
    return channel, bound_address


def _start_tls(attempt: Attempt, channel: Channel, deadline: Deadline) -> Channel:
    """Speaks TLS with the hop that the attempt stands at."""
    from socksclient._sync import tls  # and with it ssl, which few need here

    attempt.enter("tls")
    proxy = attempt.proxy
    try:
        deadline.limit(channel)
        return tls.start_tls(channel, tls.context_of(proxy), tls.server_name(proxy.host))
    except (OSError, ValueError) as error:
        if is_deadline(error):
            raise
        raise tls.tls_failure(error) from error


def run(flow: Flow[T], sock: Channel, deadline: Deadline) -> T:
    """Drives `flow` on `sock`, which stays open whatever happens."""
    with closing(flow):
        try:
            step = next(flow)
            while True:
                step = flow.send(exchange(step, sock, deadline))
        except StopIteration as stop:
            result: T = stop.value
            return result


def exchange(step: Exchange, sock: Channel, deadline: Deadline) -> bytes:
    """Do what one step of a flow asks for, and return the octets to send into the flow."""
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
    except ConnectionError as error:
        raise step.closed(octets) from error
    except OSError as error:
        if is_deadline(error):
            raise
        raise ProxyClosed.broken(error, octets) from error
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
    servers: list[Address],
    deadline: Deadline,
    source_address: tuple[str, int] | None,
    socket_options: Iterable[SocketOption],
) -> socket.socket:
    """A socket connected to the first of `servers` that answers."""
    if len(servers) > 1:
        return _race(servers, deadline, source_address, socket_options)
    [(family, sockaddr)] = servers
    sock = make_socket(family, source_address, socket_options)
    try:
        sock.settimeout(deadline.left())
        sock.connect(sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _race(
    servers: list[Address],
    deadline: Deadline,
    source_address: tuple[str, int] | None,
    socket_options: Iterable[SocketOption],
) -> socket.socket:
    with closing(race(servers, source_address, socket_options)) as steps:
        try:
            step = next(steps)
            while True:
                left = deadline.left()
                seconds = min((s for s in (step.seconds, left) if s is not None), default=None)
                step = steps.send(writable(step.sockets, seconds))
        except StopIteration as won:
            sock: socket.socket = won.value
            sock.setblocking(True)
            return sock


def _resolve(attempt: Attempt, host: str, port: int, deadline: Deadline) -> list[Address]:
    """Return the addresses of `host`, in the order to try them.

    getaddrinfo cannot be interrupted. If there is a deadline, it runs in a thread of its own, which
    is left to itself when the deadline passes. Where no thread can be started, it runs in the
    caller's thread, and may take longer than the deadline allows.
    """
    if address := literal(host, port):
        return [address]
    attempt.log(f"resolve {host}")
    left = deadline.left()
    if left is None:
        return look_up(host, port)
    answers: queue.SimpleQueue[list[Address] | BaseException] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(look_up(host, port))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller waits for it
            answers.put(error)

    try:
        threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    except RuntimeError:
        # A container may limit threads; CPython 3.12 starts none in an atexit handler, and an
        # isolated subinterpreter starts no daemon thread.
        return look_up(host, port)
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
