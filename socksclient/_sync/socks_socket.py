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

    `create_connection` is simpler where a program can use it. This class is for code that makes a
    socket first, and connects the socket itself:

    - `connect` and `connect_ex` connect through the proxy. The proxy gets a host name as it is, or
      this process resolves the name, as the scheme of the proxy says (`create_connection`). The
      timeout of the socket, in seconds, holds for the whole call.
    - `bind`, `listen` and `accept` ask the proxy to listen for one peer (BIND, RFC 1928 §4). The
      proxy chooses the port, and `getsockname` returns it.
    - Every other method does what it does with a plain socket. Options that are set before
      `connect` hold for the connection to the proxy, and so does the address of `bind`. `connect`
      replaces the descriptor, so a selector must register the socket afterwards. After `connect`,
      `family` is that of the connection to the proxy, and `getpeername` returns the address of the
      proxy.

    A non-blocking `SocksSocket` cannot connect; `socksclient.anyio.connect_socket` can, also for
    asyncio, whose `sock_connect` would resolve the name in this process. TLS can be put around a
    `SocksSocket` only after `connect`.

    A program can replace `socket.socket` by a subclass of this class that knows its proxy, for code
    that makes sockets of its own. socksclient itself uses the class that `socket.socket` was when
    socksclient was imported. A socket of AF_UNIX or AF_NETLINK is a plain socket, because it never
    leaves this machine. A socket that is made from a descriptor (`fileno`) is connected or
    listening if the descriptor is, and cannot connect. This class refuses all other sockets,
    because they could go past the proxy.

    Args:
        proxy: The proxy's URL, or a `Proxy`; or a sequence of these, which is a chain, the
            nearest proxy first. No hop may speak TLS.
        family: `socket.AF_INET`, `socket.AF_INET6`, AF_UNIX or AF_NETLINK; -1 is AF_INET.
        type: `socket.SOCK_STREAM`, or -1, which is the same. For UDP, use `udp_associate`.
        proto: The protocol's number, as `socket.socket` takes it; -1 is 0.
        fileno: The descriptor of a socket, which this object owns from then on. Then family, type
            and protocol are those of the descriptor.

    Raises:
        ValueError: The proxy is not valid, a hop speaks TLS, or the socket could go past the proxy,
            because it has another family, or a family of the internet and another type than
            SOCK_STREAM. A descriptor that is refused stays open, and stays the caller's.
        TypeError: The proxy has a wrong type.
        OSError: The system cannot make the socket.
        NotImplementedError: eventlet has replaced `socket.socket` by its own class.
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
            # The descriptor stays the caller's.
            if self._made_of_descriptor:
                self.detach()
            self.close()
            raise ValueError(refusal)

    def _refusal(self) -> str | None:
        """Return why the socket is refused, or None if it cannot go past the proxy."""
        if not is_internet(self.family):
            return "family must be AF_INET, AF_INET6 or AF_UNIX; others could go past the proxy"
        if self.type != socket.SOCK_STREAM:
            return (
                "type must be SOCK_STREAM, because other sockets would go past the proxy; for"
                " datagrams, use udp_associate"
            )
        return None

    def connect(self, address: Any, /) -> None:
        """Connect to `address`, a (host, port), through the proxy.

        Args:
            address: The (host, port) of the destination, as in `create_connection`. The four values
                of an IPv6 address are allowed too, with a scope id of 0.

        Raises:
            OSError: EISCONN if the socket is connected or was made from a descriptor; EINVAL if the
                proxy listens for this socket; EBADF if the socket is closed.
            ValueError: The destination is not valid, a hop cannot carry its request, or the socket
                is non-blocking. Nothing has been sent.
            SocksError: The other errors of `create_connection`.
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
            # This object takes the descriptor of the connection, in place of its own. `detach`
            # returns -1 if another thread has closed this object, and then `close` fails.
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
        """Connect as `connect` does, but return the error number of an OSError.

        Args:
            address: The (host, port) of the destination.

        Returns:
            0 if the socket is connected; otherwise the `errno` of the error, or EIO if it has none.

        Raises:
            ValueError: `connect` raises it.
        """
        if self._is_local:
            return super().connect_ex(address)
        try:
            self.connect(address)
        except OSError as error:
            return error.errno if error.errno is not None and error.errno > 0 else errno.EIO
        return 0

    def bind(self, address: Any, /) -> None:
        """Set the (IP address, port) to connect to the proxy from.

        Args:
            address: The local (IP address, port). The port must be 0 before `listen`, because the
                proxy chooses the port to listen at.

        Raises:
            OSError: EINVAL if the socket was made from a descriptor.
            ValueError: The host is not an IP address.
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
        """Ask the proxy to listen for one connection of any peer.

        Args:
            *backlog: This has no effect, because a BIND request admits one connection.

        Raises:
            OSError: EOPNOTSUPP if the port of `bind` is not 0, because the proxy chooses the port;
                EINVAL if the socket is connected, listens already or was made from a descriptor;
                EBADF if the socket is closed.
            ValueError: The socket is non-blocking.
            SocksError: The other errors of `socksclient.bind`.
        """
        if self._is_local:
            return super().listen(*backlog)
        timeout = self._timeout_to("listen", "bind")
        if self._connected or self._made_of_descriptor or self._listener is not None:
            self._refuse(errno.EINVAL)
        if super().fileno() < 0:
            self._refuse(errno.EBADF)
        if self._source_address is not None and self._source_address[1] != 0:
            raise OSError(
                errno.EOPNOTSUPP, "the proxy chooses the port to listen at; bind to port 0"
            )
        anyone = ("::" if self.family == socket.AF_INET6 else "0.0.0.0", 0)
        self._listener = listen(self._chain, anyone, timeout, self._source_address, self._options)
        return None

    def accept(self) -> tuple[socket.socket, Any]:
        """Wait until the peer has connected to the proxy, and return the connection.

        Returns:
            A plain socket, and the address of the peer as sockets have it: (host, port), or four
            values for an IPv6 address.

        Raises:
            OSError: EINVAL if the proxy does not listen for this socket; or the OSErrors of
                `Listener.accept`.
            ValueError: The socket is non-blocking.
            SocksError: The other errors of `Listener.accept`.
        """
        if self._is_local or self._made_of_descriptor:
            return super().accept()
        if self._listener is None:
            self._refuse(errno.EINVAL)
        sock, peer = self._listener.accept(self._timeout_to("accept", "bind"))
        return sock, socket_address(*peer)

    def getsockname(self) -> Any:
        """Return where the proxy listens for this socket, or else the socket's own address."""
        if self._listener is not None:
            return socket_address(*self._listener.address)
        return super().getsockname()

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when `accept` or `recv` has something."""
        return super().fileno() if self._listener is None else self._listener.fileno()

    def setsockopt(self, *args: Any) -> None:
        """Set an option. `connect` sets it on the connection to the proxy too."""
        super().setsockopt(*args)
        if not (self._connected or self._is_local):
            self._options.append(args)

    def getsockopt(self, level: int, optname: int, *args: Any) -> Any:
        """Return the value of an option.

        Raises:
            ValueError: The option is SO_TYPE, and the socket is not connected.
        """
        # `SSLContext.wrap_socket` reads SO_TYPE first. The socket that it makes of this one would
        # connect to the destination directly.
        asked = (level, optname) == (socket.SOL_SOCKET, socket.SO_TYPE)
        if asked and not (self._connected or self._is_local):
            raise ValueError("connect a SocksSocket before you put TLS around it")
        return super().getsockopt(level, optname, *args)

    def sendto(self, *args: Any) -> int:
        """Send to an address, with a socket that needs no proxy, such as a unix socket.

        Raises:
            OSError: EOPNOTSUPP for every other socket, because the octets would go past the proxy.
        """
        if self._is_local:
            return super().sendto(*args)
        raise OSError(errno.EOPNOTSUPP, "sendto would go past the proxy; use udp_associate")

    def sendmsg(
        self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """Send buffers on the connection.

        Raises:
            OSError: EOPNOTSUPP if there is an `address`, because the buffers would go past the
                proxy.
        """
        if self._is_local:
            return super().sendmsg(buffers, ancdata, flags, address)
        if address is not None:
            self._refuse(errno.EOPNOTSUPP)
        return super().sendmsg(buffers, ancdata, flags)

    def dup(self) -> socket.socket:  # type: ignore[override]
        """Return a plain socket with the same connection.

        Raises:
            OSError: ENOTCONN if this socket is not connected, because the plain socket would
                connect to the destination directly.
        """
        if not (self._connected or self._is_local):
            self._refuse(errno.ENOTCONN)
        copy = PlainSocket(fileno=socket.dup(super().fileno()))
        copy.settimeout(self.gettimeout())
        return copy

    def close(self) -> None:
        """Close the socket, and the connection through which the proxy listens."""
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
