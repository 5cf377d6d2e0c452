"""`UDPAssociation`: UDP through a proxy in blocking code, in the manner of `socket.socket`."""

from __future__ import annotations

import errno
import operator
import os
import socket
import time
from collections.abc import Sequence
from typing import TypeAlias, overload

from socksclient._net.association import Association, Granted, Received
from socksclient._net.datagrams import Target
from socksclient._net.relay import associate, bind_udp, close_all, routes_of
from socksclient._net.sockets import address_pair, check_source, family_of
from socksclient._sync.driver import find_target, open_socket
from socksclient._sync.timeouts import DEFAULT_TIMEOUT, MAX_TIMEOUT, Deadline, checked_timeout
from socksclient.protocol.address import HostPort, SocketAddress, host_port, socket_address
from socksclient.protocol.proxy import ProxyLike, as_chain
from socksclient.protocol.route import NOT_KNOWN, Route

Data: TypeAlias = bytes | bytearray | memoryview

__all__ = ["UDPAssociation", "udp_associate"]

_SLICE = 0.5
"""The most seconds of one wait, since epoll does not notice that another thread closes."""

# Systems other than Linux have only some of these flags. With a plain int, `&` takes a tenth of the
# time that it takes with the enum.
_MSG_DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0))
_TO_SEND = ("MSG_CONFIRM", "MSG_DONTWAIT", "MSG_NOSIGNAL")
_TO_RECEIVE = ("MSG_DONTWAIT",)


class UDPAssociation:
    """UDP through a proxy (RFC 1928 §7), in the manner of a `socket.socket`.

    `socksclient.udp_associate` makes it. An association sends to and receives from any number of
    destinations: IPv4 addresses, IPv6 addresses and names. With ``socks5h`` the proxy resolves a
    name; with ``socks5`` this process resolves the name when the name is first used.

    UDP promises no more through a proxy than without one: datagrams can be lost, doubled or
    reordered.

    The association lasts as long as its control connection, a TCP connection to the proxy. When the
    proxy ends that connection, a waiting receive raises `AssociationClosed`, and so does every
    later send and receive. A program that waits for `fileno` with a selector learns of the end only
    by its next call.

    Several threads may use one association at once. When one thread closes the association, the
    waiting threads wake within a second. Green threads of gevent and eventlet may use it too, but
    with eventlet only one of them may receive at a time, as with eventlet's sockets.

    The association is a context manager that closes itself. It has those methods of a socket that
    mean something for an association. Of the flags it takes MSG_DONTWAIT, with which a call does
    not wait, and for sending also MSG_CONFIRM and MSG_NOSIGNAL.

    Attributes:
        relay_address: The (host, port) at the proxy to which all datagrams go.
        type: `socket.SOCK_DGRAM`.
    """

    type = socket.SOCK_DGRAM

    def __init__(
        self,
        association: Association,
        timeout: float | None,
    ) -> None:
        self.relay_address = association.relay_address
        self._association = association
        self._connected_header = b""
        self.settimeout(timeout)

    @property
    def dropped(self) -> int:
        """How many datagrams have come from the relay and were not delivered.

        An association drops a datagram that is shorter than its header, that is a fragment, whose
        header has no form of RFC 1928, or whose source is not the destination of `connect`.
        """
        return self._association.dropped

    @property
    def family(self) -> int:
        """The address family: AF_INET or AF_INET6.

        It is the family of the connected destination, if that is an IP address. Otherwise it is the
        family of the relay.
        """
        destination = self._association.destination
        if destination is None or destination[0].is_name:
            return self._association.udp.family
        return family_of(destination[0].text)

    @overload
    def sendto(self, data: Data, address: SocketAddress, /) -> int: ...

    @overload
    def sendto(self, data: Data, flags: int, address: SocketAddress, /) -> int: ...

    def sendto(
        self, data: Data, flags: int | SocketAddress, address: SocketAddress | None = None, /
    ) -> int:
        """Send one datagram: ``sendto(data, address)`` or ``sendto(data, flags, address)``.

        Args:
            data: The payload, which may be empty. With its header it has at most 65,507 octets. The
                header has 10 octets for an IPv4 address, 22 for an IPv6 address, and 7 more than
                the name for a name. A chain adds a header for each further hop.
            flags: Any of MSG_CONFIRM, MSG_DONTWAIT and MSG_NOSIGNAL, or 0, which is the default.
            address: The (host, port) of the destination. With ``socks5h`` a name goes to the proxy
                as it is; with ``socks5`` this process resolves a name when the name is first used.

        Returns:
            The number of octets of `data`, all of which are sent.

        Raises:
            ValueError: The host or the port is not valid, or the association cannot honour the
                flags. Nothing has been sent.
            TypeError: The address is not a (host, port) pair, or `data` is not bytes-like.
            AssociationClosed: The proxy has ended the association.
            ConnectionRefusedError: The association is connected, and nobody listens at the relay;
                or nobody listens at the destination, and the proxy says so, as Dante does.
            ResolveError: The name has no address (``socks5`` only).
            ProxyTimeout: This process has not resolved the name in time (``socks5`` only).
            TimeoutError: The system had no room for the datagram before the timeout passed.
            BlockingIOError: The system has no room now, and the call must not wait.
            OSError: The datagram is too long (EMSGSIZE), the association is closed (EBADF), or the
                system reports another error.
        """
        if address is None:
            # With two arguments, the second one is the address. `_target` refuses anything else.
            address, flags = flags, 0  # type: ignore[assignment]
        if flags != 0:
            _check_flags(flags, _TO_SEND)
        header = self._association.header_for(address)
        if header is None:
            target = self._target(address)  # type: ignore[arg-type]
            header = self._association.learn(address, target)
        return self._send(header, data, flags)  # type: ignore[arg-type]

    def send(self, data: Data, flags: int = 0) -> int:
        """Send one datagram to the connected destination, otherwise as `sendto` does.

        Args:
            data: The payload, which may be empty.
            flags: Any of MSG_CONFIRM, MSG_DONTWAIT and MSG_NOSIGNAL, or 0.

        Returns:
            The number of octets of `data`, all of which are sent.

        Raises:
            ValueError: The association cannot honour the flags.
            TypeError: `data` is not bytes-like.
            AssociationClosed: The proxy has ended the association.
            ConnectionRefusedError: Nobody listens at the relay; or nobody listens at the
                destination, and the proxy says so, as Dante does.
            TimeoutError: The system had no room for the datagram before the timeout passed.
            BlockingIOError: The system has no room now, and the call must not wait.
            OSError: The association is not connected (EDESTADDRREQ), the datagram is too long
                (EMSGSIZE), the association is closed (EBADF), or the system reports another error.
        """
        if flags != 0:
            _check_flags(flags, _TO_SEND)
        if not self._connected_header:
            self._association.check_open()
            raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
        return self._send(self._connected_header, data, flags)

    def recvfrom(self, bufsize: int = 0xFFFF, flags: int = 0) -> tuple[bytes, SocketAddress]:
        """Receive the next good datagram, and drop the bad ones before it.

        Args:
            bufsize: The most octets to return; the call cuts off a longer payload.
            flags: MSG_DONTWAIT, or 0.

        Returns:
            The payload and its source: (host, port), or (host, port, 0, 0) for an IPv6 address. The
            proxy says what the source is. If the caller has sent to a name, the proxy may give that
            name or its address.

        Raises:
            ValueError: `bufsize` is negative, or the association cannot honour the flags.
            TimeoutError: No datagram came before the timeout passed. If no datagram has ever come
                from the relay, and the relay has a private address that is not the proxy's own, the
                text says so.
            BlockingIOError: No datagram is there, and the call must not wait.
            AssociationClosed: The proxy has ended the association.
            ConnectionRefusedError: The association is connected, and nobody listens at the relay;
                or nobody listens at the destination, and the proxy says so, as Dante does.
            OSError: The association is closed (EBADF), or the system reports another error.
        """
        if flags != 0:
            _check_flags(flags, _TO_RECEIVE)
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        octets, header_size, source = self._receive(bufsize, flags)
        return octets[header_size : header_size + bufsize], socket_address(*source)

    def recv(self, bufsize: int = 0xFFFF, flags: int = 0) -> bytes:
        """Receive one datagram without its source, otherwise as `recvfrom` does.

        If `bufsize` is 0, the call receives nothing, as with sockets.

        Args:
            bufsize: The most octets to return; the call cuts off a longer payload.
            flags: MSG_DONTWAIT, or 0.

        Raises:
            ValueError: `bufsize` is negative, or the association cannot honour the flags.
            OSError: `recvfrom` raises it: a TimeoutError, a BlockingIOError, an `AssociationClosed`
                or another OSError.
        """
        if bufsize == 0:
            _check_flags(flags, _TO_RECEIVE)
            return b""
        return self.recvfrom(bufsize, flags)[0]

    def recvfrom_into(
        self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0
    ) -> tuple[int, SocketAddress]:
        """Receive one datagram into a buffer, otherwise as `recvfrom` does.

        Args:
            buffer: The writable buffer for the payload.
            nbytes: The most octets to write; 0 stands for the size of the buffer.
            flags: MSG_DONTWAIT, or 0.

        Returns:
            The number of octets written, and the source as `recvfrom` returns it.

        Raises:
            ValueError: `nbytes` is negative, the buffer has less room than `nbytes`, or the
                association cannot honour the flags.
            TypeError: The buffer is not writable, or its octets are not contiguous.
            OSError: `recvfrom` raises it: a TimeoutError, a BlockingIOError, an `AssociationClosed`
                or another OSError.
        """
        if flags != 0:
            _check_flags(flags, _TO_RECEIVE)
        with memoryview(buffer) as view:
            if view.readonly or not view.c_contiguous:
                raise TypeError("buffer must be writable and contiguous")
            if not 0 <= nbytes <= view.nbytes:
                raise ValueError("nbytes is negative or greater than the length of the buffer")
            size = nbytes or view.nbytes
            octets, header_size, source = self._receive(size, flags)
            payload = memoryview(octets)[header_size : header_size + size]
            if payload:
                view.cast("B")[: len(payload)] = payload
        return len(payload), socket_address(*source)

    def recv_into(self, buffer: bytearray | memoryview, nbytes: int = 0, flags: int = 0) -> int:
        """Receive one datagram into a buffer, without its source, as `recvfrom_into` does.

        If the buffer has no room, the call receives nothing, as with sockets.

        Args:
            buffer: The writable buffer for the payload.
            nbytes: The most octets to write; 0 stands for the size of the buffer.
            flags: MSG_DONTWAIT, or 0.

        Returns:
            The number of octets written.

        Raises:
            ValueError: `nbytes` is negative, the buffer has less room than `nbytes`, or the
                association cannot honour the flags.
            TypeError: The buffer is not writable, or its octets are not contiguous.
            OSError: `recvfrom` raises it: a TimeoutError, a BlockingIOError, an `AssociationClosed`
                or another OSError.
        """
        if len(buffer) == 0:
            _check_flags(flags, _TO_RECEIVE)
            return 0
        return self.recvfrom_into(buffer, nbytes, flags)[0]

    def connect(self, address: SocketAddress) -> None:
        """Make `address` the destination of `send`, and the only source to receive from.

        From now on, the association drops the datagrams of other sources. If the proxy resolves the
        name in `address`, this process does not know the address behind that name. It then compares
        the port only, and also the name if the proxy gives a name as the source.

        Args:
            address: The (host, port) of the destination.

        Raises:
            ValueError: The host or the port is not valid.
            TypeError: The address is not a (host, port) pair.
            ResolveError: The name has no address (``socks5`` only).
            ProxyTimeout: This process has not resolved the name in time (``socks5`` only).
            OSError: The association is closed (EBADF).
        """
        self._association.check_open()
        target = self._target(address)
        self._connected_header = self._association.learn(address, target)
        self._association.connect(target)

    def connect_ex(self, address: SocketAddress) -> int:
        """Connect as `connect` does, but return the number of an error, or 0 if there is none.

        EIO stands for an error that has no number of the system, such as that of a name without an
        address.

        Args:
            address: The (host, port) of the destination.

        Raises:
            ValueError: The host or the port is not valid.
            TypeError: The address is not a (host, port) pair.
        """
        try:
            self.connect(address)
        except OSError as error:
            return error.errno if error.errno is not None and error.errno > 0 else errno.EIO
        return 0

    def getpeername(self) -> SocketAddress:
        """Return the connected destination: (host, port), or four values for an IPv6 address.

        Raises:
            OSError: The association is not connected (ENOTCONN) or is closed (EBADF).
        """
        self._association.check_open()
        if self._association.destination is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        host, port = self._association.destination
        return socket_address(host.text, port)

    def getsockname(self) -> SocketAddress:
        """Return the local address from which the datagrams go to the relay.

        Raises:
            OSError: The association is closed (EBADF).
        """
        self._association.check_open()
        address: SocketAddress = self._association.udp.getsockname()
        return address

    def fileno(self) -> int:
        """Return the descriptor of the UDP socket, to wait for; -1 if the association is closed."""
        return -1 if self._association.closed else self._association.udp.fileno()

    def getsockopt(self, level: int, optname: int) -> int:
        """Return an option of the UDP socket, as `socket.socket.getsockopt` does.

        Raises:
            OSError: The association is closed (EBADF), or the socket has no such option.
        """
        self._association.check_open()
        return self._association.udp.getsockopt(level, optname)

    def setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        """Set an option of the UDP socket, such as the size of its buffers.

        Raises:
            OSError: The association is closed (EBADF), or the socket has no such option.
        """
        self._association.check_open()
        self._association.udp.setsockopt(level, optname, value)

    def gettimeout(self) -> float | None:
        """Return how many seconds a send or a receive may take.

        None means that the call may wait without end, and 0 that the call must not wait.
        """
        return self._timeout

    def settimeout(self, value: float | None) -> None:
        """Set what `gettimeout` returns.

        Args:
            value: The seconds, None or 0.

        Raises:
            ValueError: The value is negative, or it is NaN.
        """
        # The negation refuses NaN too.
        if value is not None and not value >= 0:
            raise ValueError("Timeout value out of range")
        self._timeout = None if value is None else min(float(value), MAX_TIMEOUT)

    def getblocking(self) -> bool:
        """Return whether calls may wait: whether the timeout is not 0."""
        return self._timeout != 0

    def setblocking(self, flag: bool) -> None:
        """Set no timeout if `flag` is true, and otherwise a timeout of 0."""
        self.settimeout(None if flag else 0.0)

    def close(self) -> None:
        """End the association: close the UDP socket and the control connections."""
        self._association.close()

    def __enter__(self) -> UDPAssociation:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        closed = "closed, " if self._association.closed else ""
        relay = host_port(*self.relay_address)
        return f"<UDPAssociation {closed}{self._association.chain[-1]}, relay {relay}>"

    def _target(self, address: SocketAddress) -> Target:
        """Return the host and the port to send to the proxy for an address.

        Raises:
            TypeError: The address is not a (host, port) pair.
            ValueError: The host or the port is not valid.
            ResolveError: The name has no address.
            ProxyTimeout: This process has not resolved the name in time.
        """
        if not isinstance(address, tuple) or len(address) not in (2, 4):
            raise TypeError(f"address must be a (host, port) pair, not {address!r}")
        host, port, *zone = address
        if any(zone[1:]):
            raise ValueError(f"address {address!r} has a scope id, which means nothing to a proxy")
        # A non-blocking socket waits without end while it resolves a name, so an association does.
        route = Route.of_datagram(self._association.chain, host, port)
        return find_target(route, Deadline(self._timeout or None))

    def _send(self, header: bytes, data: Data, flags: int) -> int:
        association, timeout = self._association, self._timeout
        try:
            return association.send(header, data, flags)
        except BlockingIOError:
            if timeout == 0 or flags & _MSG_DONTWAIT:
                raise
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            association.check_open()
            association.wait_for_room(_slice(_left(end)))
            try:
                return association.send(header, data, flags)
            except BlockingIOError:
                continue

    def _receive(self, size: int, flags: int) -> Received:
        association, timeout = self._association, self._timeout
        if timeout == 0 or flags & _MSG_DONTWAIT:
            return association.receive(size) or association.receive_behind(size)
        end = None if timeout is None else time.monotonic() + timeout
        # To ask epoll costs less than a receive that finds nothing. Any other way costs more.
        ask = association.pollable >= 0
        while True:
            if ask:
                association.wait(_slice(timeout))
            try:
                return association.receive(size) or association.receive_behind(size)
            except BlockingIOError:
                ask = True
            # Garbage does not extend the timeout.
            timeout = _left(end, association.advice)


def _check_flags(flags: object, known: Sequence[str]) -> None:
    """Check that `flags` has no flags other than the known ones.

    Raises:
        ValueError: `flags` has another flag.
        TypeError: `flags` is not an integer.
    """
    left = operator.index(flags)  # type: ignore[arg-type]
    for name in known:
        left &= ~int(getattr(socket, name, 0))
    if left:
        raise ValueError(
            f"a UDP association cannot honour the flags {left:#x}; it takes only {', '.join(known)}"
        )


def _slice(seconds: float | None) -> float:
    """Return how long to wait at once: `seconds`, but no longer than `_SLICE`."""
    return _SLICE if seconds is None else min(seconds, _SLICE)


def _left(end: float | None, advice: str = "") -> float | None:
    """Return the seconds until `end`; None if there is no end.

    Raises:
        TimeoutError: The end has passed. If there is advice, it stands in the text.
    """
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"timed out; {advice}" if advice else "timed out")
    return left


def udp_associate(
    timeout: float | None = DEFAULT_TIMEOUT,
    *,
    proxy: ProxyLike,
    local_address: HostPort | None = None,
    trust_relay_address: bool = True,
) -> UDPAssociation:
    """Ask a proxy to relay UDP datagrams (UDP ASSOCIATE, RFC 1928 §7).

    Args:
        timeout: The seconds for the whole call. None sets no limit. By default,
            `socket.getdefaulttimeout` tells the seconds. The association keeps this timeout for
            its sends and receives.
        proxy: The proxy's URL, or a `Proxy`; or a chain of SOCKS5 proxies, the nearest hop first,
            each of which relays for the next.
        local_address: The (IP address, port) to send from; port 0 lets the system choose. This
            process tells the proxy the address, and some proxies then relay the datagrams of no
            other address. By default this process tells the proxy that the address is not known,
            which is right behind a NAT.
        trust_relay_address: Whether to send to the address at which the proxy says that its relay
            is. If not, datagrams go to the proxy's own address, at the port of the relay. V2ray,
            for one, gives whatever address is in its configuration. When a relay has a private
            address that is not the proxy's own, errors and the log (DEBUG) say so.

    Returns:
        A `UDPAssociation`, which is used like a socket.

    Raises:
        ValueError: The timeout, the proxy or `local_address` is not valid, or a hop cannot relay
            UDP. Nothing has been sent.
        TypeError: `local_address` is not a (host, port) pair.
        ReplyError: A proxy refused the request. Many proxies do not offer UDP.
        ResolveError: A hop with the scheme ``socks5`` needs the address of the next hop, and this
            process has found none.
        ProxyConnectError: The proxy or its relay cannot be reached, this system cannot send from
            `local_address` (EADDRNOTAVAIL, EADDRINUSE, EACCES), or this system cannot make the UDP
            socket or its epoll (EAFNOSUPPORT without IPv6, EMFILE). `errno` says which.
        ProxyTimeout: The timeout has passed.
        ProtocolError: A proxy sent what SOCKS5 does not allow; or no relay can be at the bound
            address, because its port is 0, or its host is a name, or no host can have the address.
            Nothing has been sent to the relay.
        ProxyClosed: A proxy closed the connection, or reset it, before the end of its reply.
        AuthenticationError: A proxy accepts no method that was offered, or it refused the
            credentials.
    """
    chain = as_chain(proxy)
    timeout = checked_timeout(timeout)
    udp = None
    source = NOT_KNOWN
    if local_address is not None:
        check_source(address_pair(local_address)[0])
        udp = bind_udp(chain, local_address)
        source = udp.getsockname()[:2]
    granted: list[Granted] = []
    try:
        deadline = Deadline(timeout)
        for route in routes_of(chain, source):
            control, grant = open_socket(route, deadline)
            granted.append(Granted(route, control, grant))
    except BaseException:
        close_all(udp, granted)
        raise
    association = associate(granted, udp, trust_relay_address)
    return UDPAssociation(association, timeout)
