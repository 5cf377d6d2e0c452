"""`SocksSocket`, for code that makes its socket first and connects it itself."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from socksclient._net.sockets import PlainSocket, check_source, is_internet, refuse_tls
from socksclient._sync.driver import open_socket
from socksclient._sync.listener import Listener, listen
from socksclient._sync.timeouts import Deadline
from socksclient.protocol.address import HostPort, socket_address
from socksclient.protocol.proxy import ProxyLike, as_chain
from socksclient.protocol.route import Route

if TYPE_CHECKING:
    from socksclient._net.sockets import SocketOption

__all__ = ["SocksSocket"]

_LOCAL_FAMILIES = [
    getattr(socket, name) for name in ("AF_UNIX", "AF_NETLINK") if hasattr(socket, name)
]


class SocksSocket(PlainSocket):
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
    connected. `create_connection` is simpler where it can be used.

    A program can replace `socket.socket` by a subclass that knows its proxy, for code that makes
    its own sockets. The library's own sockets are of the class that was there when it was imported.
    A socket of AF_UNIX or AF_NETLINK is a plain one, as these never leave this machine. A socket
    made from a descriptor (`fileno`) is connected or listening if the descriptor is, and cannot
    connect. All other sockets could go past the proxy, and are refused.

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these, without TLS.
        family: `socket.AF_INET`, `socket.AF_INET6`, AF_UNIX or AF_NETLINK; -1 is AF_INET.
        type: `socket.SOCK_STREAM`, or -1, which is the same. For UDP, there is `udp_associate`.
        proto: The protocol's number, as `socket.socket` takes it; -1 is 0.
        fileno: The descriptor of a socket, which this object owns from then on. Family, type and
            protocol are those of the descriptor.

    Raises:
        ValueError: The proxy is not valid or has TLS, or the socket could go past the proxy: it is
            of another family, or of the internet and not SOCK_STREAM. A descriptor that is refused
            stays open.
        NotImplementedError: eventlet has put its own class in the place of `socket.socket`.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> SocksSocket:
        """Make the object, unless its base class is eventlet's."""
        # eventlet's GreenSocket gives its methods to each object, one by one. There they would
        # hide those of this class, and `bind` and `listen` would go past the proxy.
        if not hasattr(cls, "detach"):
            raise NotImplementedError(
                "a SocksSocket cannot be made from eventlet's sockets;"
                " socksclient.create_connection works with them"
            )
        return super().__new__(cls)

    def __init__(
        self,
        proxy: ProxyLike,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - named as in socket
        proto: int = 0,
        fileno: int | None = None,
    ) -> None:
        self._chain = as_chain(proxy)
        refuse_tls(self._chain, "a SocksSocket", "create_connection")
        self._made_of_descriptor = fileno is not None
        self._connected = False
        self._options: list[SocketOption] = []
        self._source_address: HostPort | None = None
        self._listener: Listener | None = None
        if fileno is not None:
            super().__init__(fileno=fileno)
            with suppress(OSError):
                self.getpeername()
                self._connected = True
        else:
            super().__init__(
                socket.AF_INET if family == -1 else family,
                socket.SOCK_STREAM if type == -1 else type,
                0 if proto == -1 else proto,
            )
        self._is_local = self.family in _LOCAL_FAMILIES
        if not self._is_local and (refusal := self._refusal()):
            # The descriptor remains the caller's.
            if self._made_of_descriptor:
                self.detach()
            self.close()
            raise ValueError(refusal)

    def _refusal(self) -> str | None:
        """Return why the socket is refused, or None if it cannot go past the proxy."""
        if not is_internet(self.family):
            return "family must be AF_INET, AF_INET6 or AF_UNIX, as others could go past the proxy"
        if self.type != socket.SOCK_STREAM:
            return (
                "type must be SOCK_STREAM, as other sockets would go past the proxy; for datagrams"
                " there is udp_associate"
            )
        return None

    def connect(self, address: Any, /) -> None:
        """Connect to `address`, a (host, port), through the proxy.

        Raises:
            OSError: EISCONN if the socket is connected or was made from a descriptor; otherwise
                the errors of `create_connection`, of which only ValueError is no OSError.
            ValueError: The destination is not valid, or the socket is non-blocking. Nothing has
                been sent.
        """
        if self._is_local:
            return super().connect(address)
        if self._made_of_descriptor:
            raise OSError(
                errno.EISCONN, "a SocksSocket that was made from a descriptor cannot connect"
            )
        timeout = self._timeout_to("connect", "connect_socket")
        if self._connected:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        if self._listener is not None or super().fileno() < 0:
            self._refuse(errno.EINVAL if self._listener else errno.EBADF)
        host, port, *rest = address
        if any(rest[1:]):
            raise ValueError(f"address {address!r} has a scope id, which means nothing to a proxy")
        route = Route.through(self._chain, host, port)
        sock, _ = open_socket(route, Deadline(timeout), self._source_address, self._options)
        family, kind, proto = sock.family, sock.type, sock.proto
        descriptor = sock.detach()
        try:
            # This object becomes the connected socket, in place of the one that it had. It has no
            # socket any more if another thread has closed it.
            socket.close(super().detach())
            super().__init__(family, kind, proto, fileno=descriptor)
        except BaseException:
            if super().fileno() != descriptor:
                socket.close(descriptor)
            raise
        self._connected = True
        self.settimeout(timeout)
        return None

    def connect_ex(self, address: Any, /) -> int:
        """Connect as `connect` does, but return an error number.

        EIO stands for an error that has none.
        """
        if self._is_local:
            return super().connect_ex(address)
        try:
            self.connect(address)
        except OSError as error:
            return error.errno if error.errno is not None and error.errno > 0 else errno.EIO
        return 0

    def bind(self, address: Any, /) -> None:
        """Set the (IP address, port) to connect to the proxy from. To listen, the port must be 0.

        Raises:
            ValueError: The host is no IP address.
        """
        if self._is_local:
            return super().bind(address)
        if self._made_of_descriptor:
            self._refuse(errno.EINVAL)
        host, port, *_ = address
        check_source(host)
        self._source_address = (host, port) if host or port else None
        return None

    def listen(self, *backlog: int) -> None:
        """Ask the proxy to listen for one connection from anyone; the backlog does not count.

        Raises:
            OSError: EOPNOTSUPP if the port bound to is not 0, because the proxy chooses the port;
                EINVAL if the socket is connected or was made from a descriptor; otherwise the
                errors of `socksclient.bind`.
            ValueError: The socket is non-blocking.
        """
        if self._is_local:
            return super().listen(*backlog)
        timeout = self._timeout_to("listen", "bind")
        if self._connected or self._made_of_descriptor or self._listener is not None:
            self._refuse(errno.EINVAL)
        if super().fileno() < 0:
            self._refuse(errno.EBADF)
        if self._source_address is not None and self._source_address[1] != 0:
            raise OSError(errno.EOPNOTSUPP, "the proxy chooses the port to listen at: bind to 0")
        anyone = ("::" if self.family == socket.AF_INET6 else "0.0.0.0", 0)
        self._listener = listen(self._chain, anyone, timeout, self._source_address, self._options)
        return None

    def accept(self) -> tuple[socket.socket, Any]:
        """Wait for the peer, which can come only once.

        Returns:
            A plain socket, and the peer's address in the form that a plain socket gives it.

        Raises:
            OSError: EINVAL if the proxy does not listen; otherwise the errors of `Listener.accept`.
            ValueError: The socket is non-blocking.
        """
        if self._is_local or self._made_of_descriptor:
            return super().accept()
        if self._listener is None:
            self._refuse(errno.EINVAL)
        sock, peer = self._listener.accept(self._timeout_to("accept", "bind"))
        return sock, socket_address(*peer)

    def getsockname(self) -> Any:
        """Return where the proxy listens, if it does; otherwise this socket's own address."""
        if self._listener is not None:
            return socket_address(*self._listener.address)
        return super().getsockname()

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when `accept` has a peer, or `recv` data."""
        return super().fileno() if self._listener is None else self._listener.fileno()

    def setsockopt(self, *args: Any) -> None:
        """Set an option; before the socket is connected, also on the connection to the proxy."""
        super().setsockopt(*args)
        if not (self._connected or self._is_local):
            self._options.append(args)

    def getsockopt(self, level: int, optname: int, *args: Any) -> Any:
        """Return the value of an option."""
        # SSLContext.wrap_socket asks for this first. The socket that it makes would connect
        # directly.
        asked = (level, optname) == (socket.SOL_SOCKET, socket.SO_TYPE)
        if asked and not (self._connected or self._is_local):
            raise ValueError("connect a SocksSocket before TLS is put around it")
        return super().getsockopt(level, optname, *args)

    def sendto(self, *args: Any) -> int:
        """Send to an address; only a local socket can, as others would go past the proxy."""
        if self._is_local:
            return super().sendto(*args)
        raise OSError(errno.EOPNOTSUPP, "sendto would go past the proxy; see udp_associate")

    def sendmsg(
        self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """Send buffers; an `address`, with which they would go past the proxy, is refused."""
        if self._is_local:
            return super().sendmsg(buffers, ancdata, flags, address)
        if address is not None:
            self._refuse(errno.EOPNOTSUPP)
        return super().sendmsg(buffers, ancdata, flags)

    def dup(self) -> socket.socket:  # type: ignore[override]
        """Return a plain socket with the same connection.

        Raises:
            OSError: ENOTCONN if this one is not connected: the copy would connect past the proxy.
        """
        if not (self._connected or self._is_local):
            self._refuse(errno.ENOTCONN)
        copy = PlainSocket(fileno=socket.dup(super().fileno()))
        copy.settimeout(self.gettimeout())
        return copy

    def close(self) -> None:
        """Close the socket, and the connection by which the proxy listens."""
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
