"""Blocking: connect through a proxy, in the manner of `socket.create_connection`."""

from __future__ import annotations

import socket

from socksclient._net.sockets import address_pair
from socksclient._sync.driver import open_socket
from socksclient._sync.timeouts import DEFAULT_TIMEOUT, Deadline, checked_timeout
from socksclient.protocol.address import HostPort
from socksclient.protocol.proxy import ProxyLike, as_chain
from socksclient.protocol.route import Route

__all__ = ["create_connection"]


def create_connection(
    address: HostPort,
    timeout: float | None = DEFAULT_TIMEOUT,
    source_address: HostPort | None = None,
    *,
    proxy: ProxyLike,
) -> socket.socket:
    """Connect to `address` through `proxy`, in the manner of `socket.create_connection`.

    Where the proxy's own name has several addresses, this function races them (RFC 8305). It
    repeats no request that a proxy has answered, except for the next address of a name that it
    resolves itself, and it never connects to the destination directly.

    Args:
        address: The (host, port) of the destination, with a port from 1 to 65535. With ``socks5h``,
            ``socks4a`` and ``http`` the proxy gets a host name as it is, and this process never
            resolves the name. With ``socks5`` and ``socks4`` this process resolves the name, and
            asks the proxy for the first address. If the proxy refuses that address or hangs up,
            this process asks for the next address, on a new connection. REP 07 (RFC 1928 §6) ends
            this, because with REP 07 the proxy would refuse every address.
        timeout: The seconds for the whole call: to resolve, to connect, and for every message to
            and from every proxy. None sets no limit. By default, `socket.getdefaulttimeout` tells
            the seconds.
        source_address: The (IP address, port) to connect to the nearest proxy from. The port 0 lets
            the system choose.
        proxy: The proxy's URL, or a `Proxy`; or a sequence of these, which is a chain, the
            nearest proxy first.

    Returns:
        A connected socket with `timeout` as its timeout. Nothing has been read from the socket that
        the destination sent. The socket is a plain one, or an `ssl.SSLSocket` if a hop speaks TLS.
        An `ssl.SSLSocket` refuses TLS with the destination within that TLS;
        `socksclient.anyio.connect_tcp`, httpx and requests support it.

    Raises:
        ValueError: The destination, the timeout, `source_address` or the proxy is not valid, a hop
            cannot carry its request, or more than one hop speaks TLS. Nothing has been sent.
        TypeError: An argument has a wrong type, such as a host that is not a str. Nothing has been
            sent.
        ProxyConnectError: The name of the nearest proxy does not resolve, the nearest proxy cannot
            be reached (from `source_address`), or TLS with a proxy failed.
        ProxyTimeout: The `timeout` passed.
        ResolveError: The destination's name has no address that the proxy can be asked for
            (``socks5`` and ``socks4`` only).
        ProtocolError: A proxy sent what its protocol does not allow.
        ProxyClosed: A proxy closed the connection, or reset it, before the end of its reply. This
            is a `ProtocolError`.
        AuthenticationError: A proxy accepted none of the methods offered, or refused the
            credentials.
        ReplyError: A proxy refused its request. `reply` is the code of the reply.
        Exception: A `Method` of the caller's own raised this exception.
    """
    route = Route.through(as_chain(proxy), *address_pair(address))
    timeout = checked_timeout(timeout)
    sock, _ = open_socket(route, Deadline(timeout), source_address)
    # The deadline has left a shorter timeout at the socket. `socket.create_connection` leaves the
    # timeout that the caller gave.
    sock.settimeout(timeout)
    return sock
