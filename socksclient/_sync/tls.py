"""TLS on blocking sockets, within another TLS too."""

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


# The two functions below look at the methods of an object, and never at `ssl.SSLContext` and
# `ssl.SSLSocket`: a program may replace these classes by its own, before socksclient is imported or
# after (truststore.inject_into_ssl replaces the context).


def speaks_tls(sock: Channel) -> typing_extensions.TypeIs[TLSChannel]:
    """Return whether `sock` speaks TLS already, so that another TLS must go within that."""
    return hasattr(sock, "do_handshake")


def _wraps_plainly(context: ssl.SSLContext) -> bool:
    """Return whether `context` has the method `wrap_socket` of the standard library.

    Another `wrap_socket` (truststore's up to 0.10.4 on Windows and macOS) may verify the
    certificate at its end, and must have done the handshake by then.
    """
    return getattr(context.wrap_socket, "__module__", None) == ssl.__name__


def start_tls(sock: Channel, context: ssl.SSLContext, server_hostname: str | None) -> TLSChannel:
    """Start TLS on a connected socket, which may speak TLS already.

    This takes `sock` over, and closes it if that fails. The socket's timeout holds for all of the
    handshake.

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
        # With the plain method, the handshake is a step of its own: if it is interrupted, this
        # function must have the socket that has taken over the descriptor, and close it.
        plain = _wraps_plainly(context)
        # These fail after a reset, and for names with a label that is too long; when wrap_socket
        # finds that out by itself, before Python 3.13, it leaves a socket open.
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
    """A socket that speaks TLS with a proxy, and refuses to have TLS put around it once more.

    `SSLContext.wrap_socket` would send the handshake, and in it the name of the destination, in
    the clear, past the TLS that is there already.
    """

    def getsockopt(self, level: int, optname: int, *args: Any) -> Any:
        """As of a socket."""
        check_not_wrapped(level, optname)
        return super().getsockopt(level, optname, *args)


def check_not_wrapped(level: int, optname: int) -> None:
    """Raise a ValueError if `getsockopt` is asked for what `SSLContext.wrap_socket` asks first."""
    if (level, optname) == (socket.SOL_SOCKET, socket.SO_TYPE):
        raise ValueError(
            "this socket speaks TLS with the proxy; httpx and connect_tcp can do TLS within it"
        )


def guard(sock: ssl.SSLSocket) -> None:
    """Make `sock` a `ProxyTLSSocket`. Contexts make `SSLSocket`s, and belong to the user.

    A socket of any other class stays as it is, because the user's context has chosen that class.
    """
    # A program may have replaced `ssl.SSLSocket` since the import.
    if type(sock) is ProxyTLSSocket.__base__:
        sock.__class__ = ProxyTLSSocket


class TLSSocket:
    """TLS within TLS, blocking: an `ssl.SSLSocket` cannot be wrapped into another.

    It has those methods of a socket that are used here; each timeout holds for one of them.
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
            # The proxy has ended the connection without the closing handshake of TLS. An SSLSocket
            # takes that for the end, too.
            return b""

    def send(self, data: bytes | memoryview) -> int:
        return self._pump(lambda: self.ssl_object.write(data))

    def sendall(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[self.send(left) :]

    def _pump(self, operation: Callable[[], T]) -> T:
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
        """Whether there is something to read, or the end, of which the system knows no more."""
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
"""What a tunnel goes through: a socket, an `ssl.SSLSocket`, or TLS within TLS."""
