"""`SocksSocket`, for code that makes its socket first and connects it itself."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Any, NoReturn

from socksclient.attempt import Attempt
from socksclient.deadline import Deadline
from socksclient.driver import open_socket
from socksclient.proxy import ProxyLike, as_chain
from socksclient.sockets import check_source
from socksclient.sync import Listener, listen

if TYPE_CHECKING:
    from socksclient.sockets import SocketOption

__all__ = ["SocksSocket"]


class SocksSocket(socket.socket):
    """A `socket.socket` that connects through a proxy.

    `connect` and `connect_ex` go through it; a host name goes to it as it is, or is resolved here,
    as the proxy's scheme says. The socket's timeout is one deadline, in seconds, for all of that.
    `bind`, `listen` and `accept` are BIND (RFC 1928 §4): the proxy listens, for one peer, at a port
    of its choice, which `getsockname` tells. All else is a plain socket's: options set before are
    those of the connection to the proxy, and so is the address bound to. When it connects, its
    descriptor is replaced: register it with selectors afterwards. `family` becomes that of the
    connection to the proxy, and `getpeername` tells the proxy's address.

    It cannot connect without blocking: `socksclient.anyio.connect_socket` does, also for asyncio,
    whose `sock_connect` would resolve the name first. Nor can TLS be put around it before it has
    connected. `create_connection` is simpler where it can be used. Give it to a program as its
    `socket` (``functools.partial(SocksSocket, proxy)``), but never assign it to `socket.socket`:
    the library makes its own by that.

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these, without TLS.
        family: `socket.AF_INET` or `socket.AF_INET6`.
        type: `socket.SOCK_STREAM`. For UDP, there is `udp_associate`.
        proto: As of a socket.

    Raises:
        ValueError: The proxy or the type cannot be.
    """

    def __init__(
        self,
        proxy: ProxyLike,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - as it is called in the original
        proto: int = 0,
    ) -> None:
        self._chain = as_chain(proxy)
        if any(hop.tls for hop in self._chain):
            raise ValueError("TLS with a proxy makes another socket; create_connection returns it")
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError("family must be AF_INET or AF_INET6")
        self._connected = False
        self._options: list[SocketOption] = []
        self._source_address: tuple[str, int] | None = None
        self._listener: Listener | None = None
        super().__init__(family, type, proto)
        if self.type != socket.SOCK_STREAM:
            self.close()
            raise ValueError("type must be SOCK_STREAM; for datagrams there is udp_associate")

    def connect(self, address: Any, /) -> None:
        """Connects to `address`, a (host, port), through the proxy.

        Raises:
            OSError: EISCONN if it is connected; else as of `create_connection`, all of whose
                errors but the following are of this kind.
            ValueError: The destination cannot be, or the socket is non-blocking; nothing has been
                sent.
        """
        timeout = self._timeout_to("connect", "connect_socket")
        if self._connected:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        if self._listener is not None or super().fileno() < 0:
            self._refuse(errno.EINVAL if self._listener else errno.EBADF)
        host, port, *rest = address
        if any(rest[1:]):
            raise ValueError(f"address {address!r} has a scope id, which means nothing to a proxy")
        attempt = Attempt(self._chain, host, port)
        sock, _ = open_socket(attempt, Deadline(timeout), self._source_address, self._options)
        # In place of the one that this object had: it becomes the connected one.
        socket.close(super().detach())
        family, kind, proto = sock.family, sock.type, sock.proto
        descriptor = sock.detach()
        try:
            super().__init__(family, kind, proto, fileno=descriptor)
        except BaseException:
            if super().fileno() < 0:  # interrupted before it was ours
                socket.close(descriptor)
            raise
        self._connected = True
        self.settimeout(timeout)

    def connect_ex(self, address: Any, /) -> int:
        """As `connect`, but returns an error number; EIO stands for an error that has none."""
        try:
            self.connect(address)
        except OSError as error:
            return error.errno if error.errno is not None and error.errno > 0 else errno.EIO
        return 0

    def bind(self, address: Any, /) -> None:
        """The (IP address, port) to connect to the proxy from; or port 0, to listen.

        Raises:
            ValueError: The host is no IP address.
        """
        host, port, *_ = address
        check_source(host)
        self._source_address = (host, port) if host or port else None

    def listen(self, _backlog: int = 1, /) -> None:
        """Has the proxy listen for one connection, of anyone, whatever the backlog is.

        Raises:
            OSError: EOPNOTSUPP if the port bound to is not 0, for the proxy chooses it; EINVAL if
                it is connected; else as of `socksclient.bind`.
            ValueError: The socket is non-blocking.
        """
        timeout = self._timeout_to("listen", "bind")
        if self._connected or self._listener is not None:
            self._refuse(errno.EINVAL)
        if super().fileno() < 0:
            self._refuse(errno.EBADF)
        if self._source_address is not None and self._source_address[1] != 0:
            raise OSError(errno.EOPNOTSUPP, "the proxy chooses the port to listen at: bind to 0")
        anyone = ("::" if self.family == socket.AF_INET6 else "0.0.0.0", 0)
        self._listener = listen(self._chain, anyone, timeout, self._source_address, self._options)

    def accept(self) -> tuple[socket.socket, Any]:
        """Waits for the peer; it comes once.

        Returns:
            A plain socket, and the peer's address, as of a plain socket.

        Raises:
            OSError: EINVAL if the proxy does not listen; else as of `Listener.accept`.
            ValueError: The socket is non-blocking.
        """
        if self._listener is None:
            self._refuse(errno.EINVAL)
        sock, peer = self._listener.accept(self._timeout_to("accept", "bind"))
        return sock, _as_sockaddr(peer)

    def getsockname(self) -> Any:
        """Where the proxy listens, if it does; else as of a plain socket."""
        if self._listener is not None:
            return _as_sockaddr(self._listener.address)
        return super().getsockname()

    def fileno(self) -> int:
        """A descriptor that has something to read when `accept` has a peer, or `recv` data."""
        return super().fileno() if self._listener is None else self._listener.fileno()

    def setsockopt(self, *args: Any) -> None:
        """As of a plain socket; before it is connected, for the connection to the proxy."""
        super().setsockopt(*args)
        if not self._connected:
            self._options.append(args)

    def getsockopt(self, level: int, optname: int, *args: Any) -> Any:
        """As of a plain socket."""
        # That is what SSLContext.wrap_socket asks first; what it makes would connect directly.
        if (level, optname) == (socket.SOL_SOCKET, socket.SO_TYPE) and not self._connected:
            raise ValueError("connect a SocksSocket before TLS is put around it")
        return super().getsockopt(level, optname, *args)

    def sendto(self, *_args: Any) -> int:
        """Refuses: it would go past the proxy."""
        raise OSError(errno.EOPNOTSUPP, "sendto would go past the proxy; see udp_associate")

    def sendmsg(
        self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """As of a plain socket, but for an `address`, with which it would go past the proxy."""
        if address is not None:
            self._refuse(errno.EOPNOTSUPP)
        return super().sendmsg(buffers, ancdata, flags)

    def dup(self) -> socket.socket:  # type: ignore[override]
        """A plain socket with the same connection.

        Raises:
            OSError: ENOTCONN: one that is not connected would connect past the proxy.
        """
        if not self._connected:
            self._refuse(errno.ENOTCONN)
        copy = socket.fromfd(super().fileno(), self.family, self.type, self.proto)
        copy.settimeout(self.gettimeout())
        return copy

    def close(self) -> None:
        """As of a plain socket; the proxy listens no more."""
        if self._listener is not None:
            self._listener.close()
        super().close()

    def _timeout_to(self, verb: str, instead: str) -> float | None:
        timeout = self.gettimeout()
        if timeout == 0:
            raise ValueError(
                f"a non-blocking SocksSocket cannot {verb}; socksclient.anyio.{instead} can"
            )
        return timeout

    @staticmethod
    def _refuse(number: int) -> NoReturn:
        raise OSError(number, os.strerror(number))


def _as_sockaddr(address: tuple[str, int]) -> tuple[str, int] | tuple[str, int, int, int]:
    """As `socket` has it: with flow info and scope id, if it is of IPv6."""
    return (*address, 0, 0) if ":" in address[0] else address
