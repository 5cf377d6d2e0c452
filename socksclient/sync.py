"""Blocking: the driver of the flows, and `create_connection` in the manner of `socket`."""

from __future__ import annotations

import queue
import selectors
import socket
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from socksclient.attempt import Attempt, is_deadline, next_address_may_do
from socksclient.exceptions import ProxyClosed, ResolveError, SocksError, host_port
from socksclient.flows import Exchange, Flow, connect
from socksclient.proxy import ProxyLike, as_proxy
from socksclient.sockets import (
    Address,
    SocketOption,
    check_source,
    interleave,
    literal,
    open_socket,
    race,
    without_zone,
)
from socksclient.wire import is_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["create_connection"]

T = TypeVar("T")

_DEFAULT_TIMEOUT: Any = object()

# Milliseconds that do not fit into 31 bits are too many for the system calls: 24 days.
MAX_TIMEOUT = 0x7FFFFFFF // 1000


def create_connection(
    address: tuple[str, int],
    timeout: float | None = _DEFAULT_TIMEOUT,
    source_address: tuple[str, int] | None = None,
    *,
    proxy: ProxyLike,
) -> socket.socket:
    """Connects to `address` through `proxy`, in the manner of `socket.create_connection`.

    Args:
        address: The (host, port) of the destination. With ``socks5h`` a host name goes to the
            proxy as it is and is never resolved here; with ``socks5`` it is resolved here, and
            its addresses are tried in order.
        timeout: Seconds for all of it together: resolving, connecting, every message of the
            handshake, every address. None waits without end. Without it, the default of
            `socket.setdefaulttimeout` holds.
        source_address: The (IP address, port) to bind to before connecting to the proxy.
        proxy: The proxy's URL, or a `Proxy`.

    Returns:
        A plain connected socket, with `timeout` set, of which nothing has been read that the
        destination sent.

    Raises:
        ValueError: The destination, the timeout or the proxy cannot be; nothing has been sent.
        ProxyConnectError: The proxy cannot be reached.
        ProxyTimeout: The `timeout` passed.
        ResolveError: The destination's name has no address (``socks5`` only).
        ProtocolError: The peer does not speak SOCKS5 as it should; `ProxyClosed` if it hung up.
        AuthenticationError: The proxy accepts no method offered, or not the credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
    """
    if not isinstance(address, tuple | list) or len(address) != 2:
        raise TypeError(f"address must be a (host, port) pair, not {address!r}")
    attempt = Attempt(as_proxy(proxy), *address)
    if _is_default(timeout):
        timeout = socket.getdefaulttimeout()
    if timeout is not None and not 0 < timeout <= MAX_TIMEOUT:
        raise ValueError(
            f"timeout must be more than 0 and at most {MAX_TIMEOUT} seconds, or None: {timeout};"
            " for a non-blocking socket see socksclient.anyio.connect_socket"
        )
    sock = open_tunnel(attempt, Deadline(timeout), source_address)
    sock.settimeout(timeout)
    return sock


def _is_default(timeout: object) -> bool:
    """Ours, or the standard library's, which http.client hands on: either is a bare object."""
    return type(timeout) is object


class Deadline:
    """The instant by which all must be done."""

    def __init__(self, timeout: float | None) -> None:
        self._instant = None if timeout is None else time.monotonic() + min(timeout, MAX_TIMEOUT)

    def left(self) -> float | None:
        """The seconds left, more than 0; None without a deadline.

        Raises:
            TimeoutError: None are left.
        """
        if self._instant is None:
            return None
        left = self._instant - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def limit(self, sock: socket.socket) -> None:
        """Has the next operation of `sock` end by then; each time anew, for what is left shrinks.

        Without a deadline the socket stays as it is: setting a timeout is a system call.
        """
        if self._instant is not None:
            sock.settimeout(self.left())


def open_tunnel(
    attempt: Attempt,
    deadline: Deadline,
    source_address: tuple[str, int] | None = None,
    socket_options: Iterable[SocketOption] = (),
) -> socket.socket:
    """A socket connected to the destination of `attempt`.

    With ``socks5``, each address of the destination is tried on a connection of its own.
    """
    check_source(source_address and source_address[0])
    with attempt:
        targets = _targets(attempt, deadline)
        proxy = attempt.proxy
        servers = interleave(_resolve(attempt, proxy.host, proxy.port, deadline))
    while True:
        target = targets.pop(0)
        try:
            with attempt:
                attempt.enter("connect")
                sock = _connect(servers, deadline, source_address, socket_options)
                _handshake(attempt, target, sock, deadline)
                return sock
        except SocksError as error:
            if not targets or not next_address_may_do(error):
                raise
            attempt.earlier.append(f"before that, {target[0]}: {error.strerror}")


def _targets(attempt: Attempt, deadline: Deadline) -> list[tuple[str, int]]:
    """What to ask the proxy for, one after the other."""
    host, port = attempt.target
    if attempt.proxy.remote_dns or is_address(host):
        return [attempt.target]
    try:
        addresses = _resolve(attempt, host, port, deadline)
    except socket.gaierror as error:
        raise ResolveError.of(host, error) from error
    return [(address, port) for address in without_zone(host, addresses)]


def _handshake(
    attempt: Attempt, target: tuple[str, int], sock: socket.socket, deadline: Deadline
) -> None:
    try:
        bound_address = run(connect(attempt.proxy, *target, attempt.enter), sock, deadline)
    except BaseException:
        sock.close()
        raise
    attempt.log(f"connected, bound address {host_port(*bound_address)!r}")


def run(flow: Flow[T], sock: socket.socket, deadline: Deadline) -> T:
    """Drives `flow` on `sock`, which stays open whatever happens."""
    with closing(flow):
        try:
            step = next(flow)
            while True:
                step = flow.send(_exchange(step, sock, deadline))
        except StopIteration as stop:
            result: T = stop.value
            return result


def _exchange(step: Exchange, sock: socket.socket, deadline: Deadline) -> bytes:
    octets = b""
    try:
        if step.send:
            deadline.limit(sock)
            sock.sendall(step.send)
        while len(octets) < (step.enough or step.read):
            deadline.limit(sock)
            received = sock.recv(step.read - len(octets))
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
    sock = open_socket(family, source_address, socket_options)
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
                step = steps.send(_writable(step.sockets, seconds))
        except StopIteration as won:
            sock: socket.socket = won.value
            sock.setblocking(True)
            return sock


def _writable(sockets: Sequence[socket.socket], seconds: float | None) -> list[socket.socket]:
    with selectors.DefaultSelector() as selector:
        for sock in sockets:
            selector.register(sock, selectors.EVENT_WRITE, sock)
        return [key.data for key, _ in selector.select(seconds)]


def _resolve(attempt: Attempt, host: str, port: int, deadline: Deadline) -> list[Address]:
    """The addresses of `host`, in the order to try them.

    getaddrinfo cannot be interrupted. With a deadline to keep it runs in a thread beside the
    caller, which is left to itself when the deadline passes.
    """
    if address := literal(host, port):
        return [address]
    attempt.log(f"resolve {host}")
    left = deadline.left()
    if left is None:
        return _getaddrinfo(host, port)
    answers: queue.SimpleQueue[list[Address] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(_getaddrinfo(host, port))
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller waits for it
            answers.put(error)

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    try:
        answer = answers.get(timeout=left)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, list):
        return answer
    try:
        raise answer
    finally:
        del answer  # or it and this frame would hold each other


def _getaddrinfo(host: str, port: int) -> list[Address]:
    # As octets: a str would go through Python's IDNA 2003 codec, which refuses good names.
    found = socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]
