"""Blocking: connections, listeners and associations in the manner of `socket`."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType

from socksclient._net.bound_address import listening_at
from socksclient._net.log import log, placed
from socksclient._net.sockets import SocketOption, address_pair
from socksclient._sync.driver import exchange, open_socket, open_tunnel
from socksclient._sync.timeouts import DEFAULT_TIMEOUT, Deadline, checked_timeout, is_default
from socksclient.protocol.address import HostPort, host_port
from socksclient.protocol.codes import Command
from socksclient.protocol.exceptions import ProxyTimeout, SocksError
from socksclient.protocol.flow import ConnectionEnded
from socksclient.protocol.proxy import Chain, ProxyLike, as_chain
from socksclient.protocol.route import Route

__all__ = [
    "Listener",
    "bind",
    "create_connection",
    "listen",
    "resolve",
    "resolve_ptr",
]


def create_connection(
    address: HostPort,
    timeout: float | None = DEFAULT_TIMEOUT,
    source_address: HostPort | None = None,
    *,
    proxy: ProxyLike,
) -> socket.socket:
    """Connects to `address` through `proxy`, in the manner of `socket.create_connection`.

    Args:
        address: The (host, port) of the destination. With ``socks5h``, ``socks4a`` and ``http`` a
            host name goes to the proxy as it is and is never resolved here; with ``socks5`` and
            ``socks4`` it is resolved here, and after a refusal (except REP 07) its next address is
            tried.
        timeout: Seconds for all of it together: resolving, connecting, every message of the
            handshake, every address. None waits without end. Without it, the default of
            `socket.setdefaulttimeout` holds.
        source_address: The (IP address, port) to bind to before connecting to the proxy.
        proxy: The proxy's URL, or a `Proxy`; or a sequence of these, which is a chain, the
            nearest hop first.

    Returns:
        A plain connected socket, with `timeout` set, of which nothing has been read that the
        destination sent. Where one hop speaks TLS it is an `ssl.SSLSocket`: it cannot be wrapped
        for TLS with the destination as well, which httpx and `socksclient.anyio.connect_tcp` do.

    Raises:
        ValueError: The destination, the timeout or the proxy cannot be, or a hop cannot carry
            what it would be asked for; nothing has been sent.
        ProxyConnectError: The proxy cannot be reached, or its TLS fails.
        ProxyTimeout: The `timeout` passed.
        ResolveError: The destination's name has no address (``socks5`` and ``socks4`` only).
        ProtocolError: The peer does not speak as it should; `ProxyClosed` if it hung up.
        AuthenticationError: The proxy accepts no method offered, or not the credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
    """
    route = Route.through(as_chain(proxy), *address_pair(address))
    timeout = checked_timeout(timeout)
    sock, _ = open_socket(route, Deadline(timeout), source_address)
    sock.settimeout(timeout)
    return sock


def bind(
    address: HostPort,
    timeout: float | None = DEFAULT_TIMEOUT,
    source_address: HostPort | None = None,
    *,
    proxy: ProxyLike,
) -> Listener:
    """Has `proxy` listen for one connection of a peer (BIND, RFC 1928 §4).

    RFC 1928 has it used beside a connection through the same proxy, as by FTP in its active mode
    (`socksclient.ftp`), and a proxy may insist on it.

    Args:
        address: The (host, port) of the peer that is expected, mostly the one connected to; the
            proxy turns others away, by their address or not at all. ("0.0.0.0", 0) is anyone.
        timeout: Seconds for all of it until the proxy listens, as of `create_connection`, and for
            `Listener.accept` where that is given none.
        source_address: The (IP address, port) to bind to before connecting to the proxy.
        proxy: The proxy's URL, or a `Proxy`, or a chain of these, of which the last is to listen.

    Returns:
        A `Listener`; its `address` is where the peer is to connect to.

    Raises:
        ValueError: The address, the timeout or the proxy is not valid, or a hop cannot carry the
            request. Nothing has been sent.
        ReplyError: The proxy refused; few offer BIND, Dante does.
        ProtocolError: No peer could connect to the address at which the proxy says that it listens:
            the address is multicast or reserved, its port is 0, or it is the one at which the proxy
            serves SOCKS (3proxy 0.9.6 to 1.0.0 replies so).
        SocksError: The other errors of `create_connection`.
    """
    return listen(as_chain(proxy), address_pair(address), checked_timeout(timeout), source_address)


def listen(
    chain: Chain,
    address: HostPort,
    timeout: float | None,
    source_address: HostPort | None,
    socket_options: Iterable[SocketOption] = (),
) -> Listener:
    """`bind`, with options for the connection to the proxy."""
    # Dante takes 0.0.0.0 for any peer of IPv4 only, and refuses :: (REP 03).
    route = Route.through(chain, *address, Command.BIND)
    sock, grant = open_socket(route, Deadline(timeout), source_address, socket_options)
    try:
        with placed(route, "request"):
            return Listener(sock, listening_at(sock, grant), route, timeout)
    except BaseException:
        sock.close()
        raise


def resolve(name: str, timeout: float | None = DEFAULT_TIMEOUT, *, proxy: ProxyLike) -> str:
    """Has Tor resolve `name` (RESOLVE, one of its extensions of SOCKS).

    Args:
        name: It is never resolved here, whatever the scheme.
        timeout: Seconds for all of it, as of `create_connection`.
        proxy: Tor's URL, or a `Proxy`, or a chain with Tor at its end.

    Returns:
        An IP address, as text.

    Raises:
        ValueError: As of `create_connection`, and so the others.
        ReplyError: There is no such name (REP 04), or the proxy is not Tor.
    """
    return _ask(Route.through(as_chain(proxy), name, 0, Command.RESOLVE), timeout)


def resolve_ptr(address: str, timeout: float | None = DEFAULT_TIMEOUT, *, proxy: ProxyLike) -> str:
    """Has Tor find the name of an IP address (RESOLVE_PTR, one of its extensions of SOCKS).

    Args:
        address: An IP address, as text.
        timeout: Seconds for all of it, as of `create_connection`.
        proxy: As of `resolve`; not with SOCKS4, which cannot carry a name back.

    Raises:
        ValueError: As of `create_connection`, and so the others.
        ReplyError: It has no name (REP 04), or the proxy is not Tor.
    """
    return _ask(Route.through(as_chain(proxy), address, 0, Command.RESOLVE_PTR), timeout)


def _ask(route: Route, timeout: float | None) -> str:
    channel, grant = open_tunnel(route, Deadline(checked_timeout(timeout)))
    channel.close()
    return grant.bound_address[0]


class Listener:
    """A proxy that listens for one peer; `bind` makes it. A context manager that closes itself.

    Attributes:
        address: The (host, port) at the proxy to tell the peer.
    """

    def __init__(
        self, sock: socket.socket, address: HostPort, route: Route, timeout: float | None
    ) -> None:
        self.address = address
        self._sock = sock
        self._route = route
        self._timeout = timeout
        self._accepted = False
        self._closed = False
        self._accepting = threading.Lock()
        # The second reply. Its flow is kept, so that what has come of it outlives a timeout.
        self._flow = route.last.proxy.kind.next_reply(Command.BIND)
        self._step = next(self._flow)

    def accept(self, timeout: float | None = DEFAULT_TIMEOUT) -> tuple[socket.socket, HostPort]:
        """Waits for the peer, which may have come long ago. It comes once.

        Args:
            timeout: Seconds; by default those of `bind`.

        Returns:
            A plain connected socket, with `timeout` set, of which nothing has been read that the
            peer sent; and the peer's (host, port), as the proxy says.

        Raises:
            ProxyTimeout: None came in time. It can be called again, and nothing is lost.
            ReplyError: The proxy turned a peer away (REP 02), or gave up. It listens no more.
            ProtocolError: The proxy does not speak SOCKS5 as it should; `ProxyClosed` if it hung
                up. It listens no more.
            OSError: EINVAL if the peer has been accepted before, EBADF if the listener is closed,
                EBUSY if another thread waits for the peer.
        """
        timeout = self._timeout if is_default(timeout) else checked_timeout(timeout)
        if not self._accepting.acquire(blocking=False):
            raise OSError(errno.EBUSY, "another thread waits for the peer")
        try:
            if self._accepted:
                raise OSError(errno.EINVAL, "the one peer has been accepted before")
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._sock.settimeout(timeout)
            with placed(self._route, "request"):
                peer = self._second_reply(Deadline(timeout))
            self._accepted = True
        except ProxyTimeout:
            raise
        except SocksError as error:
            if self._closed:  # in another thread
                raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from error
            self.close()
            raise
        finally:
            self._accepting.release()
        self._sock.settimeout(timeout)  # it may be shorter by now
        return self._sock, peer

    def _second_reply(self, deadline: Deadline) -> HostPort:
        try:
            while True:
                try:
                    octets = exchange(self._step, self._sock, deadline)
                except ConnectionEnded as ended:
                    self._step = self._flow.throw(ended)
                else:
                    self._step = self._flow.send(octets)
        except StopIteration as stop:
            peer: HostPort = stop.value
            log(self._route, -1, f"accepted {host_port(*peer)!r}")
            return peer

    def fileno(self) -> int:
        """A descriptor that has something to read when `accept` has; -1 when closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Has the proxy listen no more. A socket that `accept` returned stays open."""
        self._closed = True
        if not self._accepted:
            if self._accepting.locked():  # by another thread, in accept: this wakes it
                with suppress(OSError):  # the proxy may have ended it
                    self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()
