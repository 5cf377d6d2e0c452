"""Blocking: TLS on a socket, and TLS within TLS.

An `ssl.SSLSocket` speaks TLS over a plain socket only. So where a second hop speaks TLS, or the
destination does behind a hop with TLS, `TLSSocket` takes its place.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from socksclient._net.sockets import PlainSocket
from socksclient._sync.timeouts import Deadline
from socksclient.protocol.lazy import typing_extensions

__all__ = [
    "Channel",
    "TLSSocket",
    "speaks_tls",
    "start_tls",
]

T = TypeVar("T")


# The two functions below look at the methods of an object, and never at the classes
# `ssl.SSLContext` and `ssl.SSLSocket`. A program may replace these classes by its own, before or
# after socksclient is imported (truststore.inject_into_ssl replaces `ssl.SSLContext`).


def speaks_tls(sock: Channel) -> typing_extensions.TypeIs[TLSChannel]:
    """Return whether `sock` speaks TLS already, so that another TLS must go within that."""
    return hasattr(sock, "do_handshake")


def _wraps_plainly(context: ssl.SSLContext) -> bool:
    """Return whether `context` has the method `wrap_socket` of the standard library.

    Another `wrap_socket` may verify the certificate just before it returns, and must do the
    handshake before that. That of truststore does so, up to truststore 0.10.4 on Windows and macOS.
    """
    return getattr(context.wrap_socket, "__module__", None) == ssl.__name__


def start_tls(sock: Channel, context: ssl.SSLContext, server_hostname: str | None) -> TLSChannel:
    """Start TLS on a connected socket, which may speak TLS already.

    The function takes `sock` over from the caller, and closes it after an error. The timeout of the
    socket, in seconds, holds for the whole handshake.

    Args:
        sock: The connection.
        context: The context for TLS.
        server_hostname: The name for SNI and for the check of the certificate (`server_name`); None
            if the context checks no name.

    Raises:
        TimeoutError: The timeout passed.
        OSError: TLS (`ssl.SSLError`) or the connection failed.
        ValueError: No certificate can have the name.
    """
    wrapped: TLSChannel | None = None
    try:
        if speaks_tls(sock):
            wrapped = TLSSocket(sock, context, server_hostname)
            wrapped.do_handshake()
            return wrapped
        # `wrap_socket` moves the descriptor to a new socket. An error during the handshake would
        # leave that socket open, and this function could not close it. So the handshake is a step
        # of its own, except where another `wrap_socket` must do it.
        plain = _wraps_plainly(context)
        # `getpeername` fails after a reset, and `encode` for a label that is too long. Before
        # Python 3.13, `wrap_socket` leaves a socket open if it finds out by itself.
        try:
            sock.getpeername()
        except OSError as error:
            raise ConnectionResetError(errno.ECONNRESET, "the connection has ended") from error
        (server_hostname or "").encode("idna")
        wrapped = context.wrap_socket(
            sock, server_hostname=server_hostname, do_handshake_on_connect=not plain
        )
        if plain:
            wrapped.do_handshake()
        return wrapped
    except BaseException:
        (wrapped or sock).close()
        raise


class ProxyTLSSocket(ssl.SSLSocket):
    """A socket that speaks TLS with a proxy, and refuses a second TLS around it.

    `SSLContext.wrap_socket` would write the second handshake to the descriptor, past the TLS with
    the proxy. So the name of the destination would go out in the clear (SNI).
    """

    def getsockopt(self, level: int, optname: int, *args: Any) -> Any:
        """Return the value of an option, except for `check_not_wrapped`."""
        check_not_wrapped(level, optname)
        return super().getsockopt(level, optname, *args)


def check_not_wrapped(level: int, optname: int) -> None:
    """Refuse the option that `SSLContext.wrap_socket` reads first, which is SO_TYPE.

    Raises:
        ValueError: The option is that one.
    """
    if (level, optname) == (socket.SOL_SOCKET, socket.SO_TYPE):
        raise ValueError(
            "this socket speaks TLS with the proxy; for TLS within that TLS, use httpx, requests or"
            " socksclient.anyio.connect_tcp"
        )


def guard(sock: ssl.SSLSocket) -> None:
    """Turn an `ssl.SSLSocket` into a `ProxyTLSSocket`, by its class.

    A context makes the sockets, and the user's context must not be changed: its `sslsocket_class`
    would hold for the user's other connections too. A socket of any other class stays as it is,
    because the user's context has chosen that class.
    """
    # A program may have replaced `ssl.SSLSocket` since the import.
    if type(sock) is ProxyTLSSocket.__base__:
        sock.__class__ = ProxyTLSSocket


class TLSSocket:
    """TLS within TLS, with the methods of a socket that this package uses.

    The timeout, in seconds, holds for one operation, as the timeout of a socket does.

    Args:
        sock: A socket that speaks TLS already.
        context: The context for the inner TLS.
        server_hostname: The name for SNI and for the check of the certificate, or None.
    """

    def __init__(
        self, sock: ssl.SSLSocket | TLSSocket, context: ssl.SSLContext, server_hostname: str | None
    ) -> None:
        self._sock = sock
        self._timeout = sock.gettimeout()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_hostname
        )

    def do_handshake(self) -> None:
        self._pump(self.ssl_object.do_handshake)

    def recv(self, size: int) -> bytes:
        try:
            return self._pump(lambda: self.ssl_object.read(size))
        except ssl.SSLEOFError:
            # The connection has ended without the closing handshake of TLS. An SSLSocket returns no
            # octets then.
            return b""

    def send(self, data: bytes | memoryview) -> int:
        return self._pump(lambda: self.ssl_object.write(data))

    def sendall(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[self.send(left) :]

    def _pump(self, operation: Callable[[], T]) -> T:
        """Do an operation of the SSL object, and carry its octets to and from the outer TLS."""
        deadline = Deadline(self._timeout)
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self._flush(deadline)
                self._sock.settimeout(deadline.left())
                octets = self._sock.recv(65536)
                self._incoming.write(octets)
                if not octets:
                    self._incoming.write_eof()
            else:
                self._flush(deadline)
                return result

    def _flush(self, deadline: Deadline) -> None:
        if self._outgoing.pending:
            self._sock.settimeout(deadline.left())
            self._sock.sendall(self._outgoing.read())

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        return self._timeout

    def has_read_ahead(self) -> bool:
        """Return whether `recv` would return at once, although the descriptor is not readable.

        The octets, or the end of the connection, have left the descriptor for a buffer already.
        """
        return bool(self._incoming.pending) or self._incoming.eof

    def fileno(self) -> int:
        return self._sock.fileno()

    def getsockopt(self, level: int, optname: int, *args: Any) -> Any:
        return self._sock.getsockopt(level, optname, *args)

    def setsockopt(self, *args: Any) -> None:
        self._sock.setsockopt(*args)

    @property
    def type(self) -> socket.SocketKind:
        return self._sock.type

    def getsockname(self) -> object:
        return self._sock.getsockname()

    def getpeername(self) -> object:
        return self._sock.getpeername()

    def close(self) -> None:
        self._sock.close()


TLSChannel: TypeAlias = ssl.SSLSocket | TLSSocket
Channel: TypeAlias = PlainSocket | TLSSocket
"""The connection of a tunnel: a socket, an `ssl.SSLSocket`, or TLS within TLS."""
