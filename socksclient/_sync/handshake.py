"""`handshake`, for a program that has a connection to the proxy already."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol, cast

from socksclient._net.log import placed, report_to
from socksclient._net.sockets import PlainSocket, the_one_proxy
from socksclient._sync.driver import Driver
from socksclient._sync.timeouts import Deadline, checked_timeout
from socksclient.protocol import tunnel
from socksclient.protocol.address import HostPort
from socksclient.protocol.proxy import Proxy
from socksclient.protocol.route import Route

__all__ = ["Connection", "handshake"]


class Connection(Protocol):
    """A connection that `handshake` can use: a socket, a channel of paramiko, and others."""

    def sendall(self, data: bytes, /) -> Any:
        """Send all octets."""

    def recv(self, size: int, /) -> bytes:
        """Receive at most `size` octets; none means that the connection has ended."""


def handshake(
    sock: Connection, host: str, port: int, *, proxy: str | Proxy, timeout: float | None = None
) -> HostPort:
    """Ask a proxy for a connection to (host, port), on a connection to the proxy that is open.

    The function neither opens nor closes anything. When it has returned, `sock` leads to the
    destination, and every octet that the destination sent is still unread. After an error, the
    connection is of no more use, and the caller closes it.

    With ``socks5`` and ``socks4`` this process resolves the host, and the proxy is asked for the
    first address only, because another address needs another connection.

    Args:
        sock: The connection to the proxy: a socket, or any object with `sendall` and `recv`, such
            as a channel of paramiko.
        host: The destination: a name or an IP address.
        port: The port of the destination, from 1 to 65535.
        proxy: The proxy's URL, or a `Proxy`, for its protocol and the credentials. Its host and
            port count for the texts of errors only. If the proxy speaks TLS, `sock` does so
            already, and the URL says nothing about TLS.
        timeout: The seconds for the whole call. With None, the timeout of `sock` itself applies to
            each send and receive.

    Returns:
        The bound address (BND.ADDR and BND.PORT), as (host, port). HTTP names none: it is
        ("0.0.0.0", 0).

    Raises:
        ValueError: The destination, the proxy or the timeout is not valid, the proxy's protocol
            cannot carry the request, the URL asks for TLS, or `sock` is non-blocking. Nothing has
            been sent.
        TypeError: `sock` has no `sendall` or no `recv`, or `timeout` is given and `sock` has no
            `settimeout`. Nothing has been sent.
        ProxyTimeout: The timeout has passed.
        ResolveError: The destination's name has no address (``socks5`` and ``socks4`` only).
        ProtocolError: The proxy sent what its protocol does not allow.
        ProxyClosed: The proxy closed the connection, or reset it, before the end of its reply.
        AuthenticationError: The proxy accepts no method that was offered, or it refused the
            credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
    """
    route = Route.on_connection(the_one_proxy(proxy), host, port)
    own_timeout = _check(sock, timeout)
    channel = sock if isinstance(sock, PlainSocket) else _Foreign(sock)
    driver = Driver(Deadline(timeout), cast("PlainSocket", channel))
    try:
        with placed(route, "request"):
            return driver.run(tunnel.handshake(route, report_to(route, None)))
    finally:
        if timeout is not None:
            with suppress(OSError):
                cast("PlainSocket", sock).settimeout(own_timeout)


def _check(sock: object, timeout: float | None) -> float | None:
    """Check that a handshake can be done on `sock`, and return the timeout that `sock` has."""
    kind = type(sock).__name__
    for name in ("sendall", "recv"):
        if not callable(getattr(sock, name, None)):
            raise TypeError(f"sock must have the method {name}, and {kind} has none")
    checked_timeout(timeout)
    if timeout is not None and not callable(getattr(sock, "settimeout", None)):
        raise TypeError(f"timeout must be None, because {kind} has no method settimeout")
    own_timeout: float | None = sock.gettimeout() if hasattr(sock, "gettimeout") else None
    if timeout is None and own_timeout == 0:
        raise ValueError(
            "the socket is non-blocking; give a timeout, or see socksclient.anyio.handshake"
        )
    return own_timeout


class _Foreign:
    """The connection of another library. It may take bytes only, and knows no flags of `recv`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        if hasattr(connection, "settimeout"):
            self.settimeout = connection.settimeout

    def sendall(self, data: memoryview) -> None:
        self._connection.sendall(bytes(data))

    def recv(self, size: int) -> bytes:
        octets: bytes = self._connection.recv(size)
        return octets
