"""Blocking: a proxy that listens for one peer (BIND, RFC 1928 §4).

The proxy sends two replies. With the first one it says where it listens, and `bind` returns. With
the second one it says which peer has connected, and `Listener.accept` returns. From then on the
connection to the proxy carries what the peer sends.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress

from socksclient._net.bound_address import listening_at
from socksclient._net.log import log, placed
from socksclient._net.sockets import SocketOption, address_pair
from socksclient._sync.driver import open_socket
from socksclient._sync.exchange import exchange
from socksclient._sync.timeouts import DEFAULT_TIMEOUT, Deadline, checked_timeout, is_default
from socksclient.protocol.address import HostPort, host_port
from socksclient.protocol.codes import Command
from socksclient.protocol.exceptions import ProxyTimeout, SocksError
from socksclient.protocol.flow import ConnectionEnded
from socksclient.protocol.proxy import Chain, ProxyLike, as_chain
from socksclient.protocol.route import Route

__all__ = ["Listener", "bind", "listen"]


def bind(
    address: HostPort,
    timeout: float | None = DEFAULT_TIMEOUT,
    source_address: HostPort | None = None,
    *,
    proxy: ProxyLike,
) -> Listener:
    """Ask `proxy` to listen for one connection of a peer (BIND, RFC 1928 §4).

    RFC 1928 intends BIND for a protocol such as FTP in its active mode (`socksclient.ftp`), where
    the client has a connection to the server through the same proxy already. A proxy may insist on
    such a connection.

    Args:
        address: The (host, port) of the peer that the caller expects, with a port from 0 to 65535;
            mostly this is the destination of the other connection. Some proxies turn away every
            other host, and some accept any host. ("0.0.0.0", 0) stands for any peer.
        timeout: The seconds for the whole call, until the proxy listens, as in `create_connection`.
            `Listener.accept` takes the same seconds if it is called without a timeout.
        source_address: The (IP address, port) to connect to the nearest proxy from. The port 0 lets
            the system choose.
        proxy: The proxy's URL, or a `Proxy`; or a sequence of these, which is a chain, the
            nearest proxy first. The last proxy of the chain listens for the peer.

    Returns:
        A `Listener`. Its `address` is the (host, port) that the peer must connect to.

    Raises:
        ValueError: The address, the timeout, `source_address` or the proxy is not valid, a hop
            cannot carry its request, or more than one hop speaks TLS. Nothing has been sent.
        ReplyError: A proxy refused its request. Few proxies offer BIND; Dante does.
        ProtocolError: A proxy sent what its protocol does not allow; or no peer could connect to
            the address at which the proxy says that it listens, because the address is multicast
            or reserved, its port is 0, or it is the one at which the proxy serves SOCKS (3proxy
            0.9.6 to 1.0.0 replies so).
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
    """Do what `bind` does, with options for the socket to the nearest proxy."""
    # The address goes out as the caller wrote it. Dante understands 0.0.0.0 as any peer with IPv4,
    # and refuses :: (REP 03), so this function cannot choose the zeros for the caller.
    route = Route.through(chain, *address, Command.BIND)
    sock, grant = open_socket(route, Deadline(timeout), source_address, socket_options)
    try:
        with placed(route, "request"):
            return Listener(sock, listening_at(sock, grant), route, timeout)
    except BaseException:
        sock.close()
        raise


class Listener:
    """A proxy that listens for one peer, as `bind` returns it.

    A listener is a context manager, which closes the listener at its end. `close` may be called
    in another thread while `accept` waits, and wakes it.

    Attributes:
        address: The (host, port) that the peer must connect to.
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
        # The flow of the second reply. The listener keeps the flow and its step, so that octets
        # which came before a timeout are not lost for the next call.
        self._flow = route.last.proxy.kind.next_reply(Command.BIND)
        self._step = next(self._flow)

    def accept(self, timeout: float | None = DEFAULT_TIMEOUT) -> tuple[socket.socket, HostPort]:
        """Wait until the peer has connected to the proxy, and return the connection.

        The peer may have connected long before this call. A listener accepts one peer only, because
        a BIND request admits one connection.

        Args:
            timeout: The seconds to wait. None sets no limit. By default, the timeout of `bind`.

        Returns:
            A connected socket with `timeout` as its timeout, and the (host, port) that the proxy
            says the peer has. Nothing has been read from the socket that the peer sent.

        Raises:
            ProxyTimeout: The peer did not connect within the timeout. The caller can call this
                method again, and no octet is lost.
            ReplyError: The proxy turned a peer away (REP 02), or stopped waiting. The listener is
                closed.
            ProtocolError: The proxy sent what its protocol does not allow. The listener is closed.
            ProxyClosed: The proxy closed the connection, or reset it. The listener is closed.
            OSError: EINVAL if the peer has been accepted before; EBADF if the listener is closed;
                EBUSY if another thread waits in this method.
            ValueError: The timeout is not valid.
        """
        timeout = self._timeout if is_default(timeout) else checked_timeout(timeout)
        if not self._accepting.acquire(blocking=False):
            raise OSError(errno.EBUSY, "another thread already waits in accept")
        try:
            if self._accepted:
                raise OSError(errno.EINVAL, "this listener has accepted its one peer before")
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._sock.settimeout(timeout)
            with placed(self._route, "request"):
                peer = self._second_reply(Deadline(timeout))
            self._accepted = True
        except ProxyTimeout:
            raise
        except SocksError as error:
            # Another thread may have closed the listener, which ended the wait of this thread.
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from error
            self.close()
            raise
        finally:
            self._accepting.release()
        # The deadline has left a shorter timeout at the socket.
        self._sock.settimeout(timeout)
        return self._sock, peer

    def _second_reply(self, deadline: Deadline) -> HostPort:
        """Drive the flow of the second reply to its end, and return the address of the peer."""
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
        """Return the descriptor of the connection to the proxy; -1 if the listener is closed.

        The descriptor becomes readable when `accept` will find something.
        """
        return self._sock.fileno()

    def close(self) -> None:
        """Stop listening: close the connection to the proxy.

        A socket that `accept` has returned belongs to the caller, and stays open.
        """
        self._closed = True
        if not self._accepted:
            if self._accepting.locked():
                # Another thread waits in `accept`. Closing a socket does not wake a thread that
                # waits for the socket, but a shutdown does. The shutdown fails if the proxy has
                # ended the connection, and then the other thread wakes by itself.
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()
