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
from socksclient.protocol.address import HostPort, host_port, socket_address
from socksclient.protocol.proxy import ProxyLike, as_chain
from socksclient.protocol.route import NOT_KNOWN, Route
from socksclient.protocol.tunnel import SocketAddress

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

    `socksclient.udp_associate` makes it. It sends to and receives from any number of
    destinations, each with its own (host, port): IPv4, IPv6 and, with ``socks5h``, names, which
    the proxy resolves; with ``socks5`` a name is resolved here when it is first used.

    UDP promises no more through a proxy than without: datagrams get lost, doubled, reordered.

    The association lasts as long as a TCP connection to the proxy. When the proxy ends that, a
    waiting receive raises `AssociationClosed`, and so does every later send and receive. A program
    that waits for `fileno` with a selector learns of the end only by its next call.

    Several threads may use it at once; when one closes it, those that wait wake within a second.
    Green threads of gevent and eventlet may use it too, but with eventlet only one may receive at a
    time, as with eventlet's sockets. It is a context manager that closes itself. It has those
    methods of a socket that make sense here, and they take those flags that do: MSG_DONTWAIT, with
    which the call does not wait, and for sending also MSG_CONFIRM and MSG_NOSIGNAL.

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
        self._udp = association.udp
        self._connected_header = b""
        self.settimeout(timeout)

    @property
    def dropped(self) -> int:
        """How many datagrams came from the relay and were not delivered.

        Those were shorter than their header, fragments, not of RFC 1928's form, or not from where
        `connect` says.
        """
        return self._association.dropped

    @property
    def family(self) -> int:
        """The address family of the destination once connected to an address, else the relay's."""
        destination = self._association.destination
        if destination is None or destination[0].is_name:
            return self._udp.family
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
            data: At most 65,507 octets with its header, which takes 10 (IPv4), 22 (IPv6) or 7 and
                the name's length. It may be empty.
            flags: Any of MSG_CONFIRM, MSG_DONTWAIT and MSG_NOSIGNAL, or 0, which is the default.
            address: The (host, port) of the destination; a host name with ``socks5h`` goes to the
                proxy as it is, with ``socks5`` it is resolved when it is first used.

        Returns:
            How many octets of `data` were sent: all.

        Raises:
            ValueError: Host or port are not valid, or the association cannot honour the flags.
                Nothing has been sent.
            AssociationClosed: The proxy has ended the association.
            ConnectionRefusedError: The association is connected, and nobody listens at the relay,
                or at the destination, if the proxy passes that on as Dante does.
            ResolveError: The name has no address (``socks5`` only).
            TimeoutError: The system had no room for the datagram before the timeout.
            BlockingIOError: The system has no room now, and the call must not wait.
            OSError: EMSGSIZE if the datagram is too long, EBADF if the association is closed, and
                whatever else the system reports.
        """
        if address is None:
            # With two arguments, the second one is the address; `_target` refuses all else.
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

        Raises:
            OSError: EDESTADDRREQ if there is none, and whatever `sendto` raises.
        """
        if flags != 0:
            _check_flags(flags, _TO_SEND)
        if not self._connected_header:
            self._association.check_open()
            raise OSError(errno.EDESTADDRREQ, os.strerror(errno.EDESTADDRREQ))
        return self._send(self._connected_header, data, flags)

    def recvfrom(self, bufsize: int = 0xFFFF, flags: int = 0) -> tuple[bytes, SocketAddress]:
        """Receive the next good datagram; those before it are dropped.

        Args:
            bufsize: The most octets to return; a longer payload is cut off.
            flags: MSG_DONTWAIT, or 0.

        Returns:
            The payload, and the address that it came from according to the proxy. If the caller
            sent to a name, the proxy may give that name or its address.

        Raises:
            ValueError: `bufsize` is negative, or the association cannot honour the flags.
            TimeoutError: No datagram came before the timeout. If none has ever come from the relay,
                and its address is a private one that is not the proxy's own, the text says so.
            BlockingIOError: No datagram is there, and the call must not wait.
            AssociationClosed: The proxy has ended the association.
            ConnectionRefusedError: The association is connected, and nobody listens at the relay,
                or at the destination, if the proxy passes that on as Dante does.
            OSError: EBADF if the association is closed, and whatever else the system reports.
        """
        if flags != 0:
            _check_flags(flags, _TO_RECEIVE)
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        octets, header_size, source = self._receive(bufsize, flags)
        return octets[header_size : header_size + bufsize], socket_address(*source)

    def recv(self, bufsize: int = 0xFFFF, flags: int = 0) -> bytes:
        """Receive one datagram without its source, otherwise as `recvfrom` does.

        If `bufsize` is 0, nothing is received, as with sockets.
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
            buffer: Takes the payload; any writable buffer will do.
            nbytes: The most octets to take; 0 means as many as the buffer has room for.
            flags: MSG_DONTWAIT, or 0.

        Returns:
            The number of octets, and the address that they came from.

        Raises:
            ValueError: `nbytes` is negative or more than the buffer has room for, or the
                association cannot honour the flags.
            OSError: Whatever `recvfrom` raises.
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

        If the buffer has no room, nothing is received, as with sockets.
        """
        if len(buffer) == 0:
            _check_flags(flags, _TO_RECEIVE)
            return 0
        return self.recvfrom_into(buffer, nbytes, flags)[0]

    def connect(self, address: SocketAddress) -> None:
        """Make `address` the destination of `send`, and the only source to receive from.

        Datagrams of other sources are dropped from now on. If the proxy resolves the name in
        `address`, this process does not know its address: it compares the port, and also the name
        if the proxy gives one as the source.

        Raises:
            ValueError: Host or port are not valid.
            ResolveError: The name has no address (``socks5`` only).
            ProxyTimeout: The name was not resolved in time (``socks5`` only).
            OSError: EBADF if the association is closed.
        """
        self._association.check_open()
        target = self._target(address)
        self._connected_header = self._association.learn(address, target)
        self._association.connect(target)

    def connect_ex(self, address: SocketAddress) -> int:
        """Connect as `connect` does, but return the number of an error, or 0 if there is none.

        EIO stands for an error without a number of the system: a name without an address has none.

        Raises:
            ValueError: Host or port are not valid.
        """
        try:
            self.connect(address)
        except OSError as error:
            return error.errno if error.errno is not None and error.errno > 0 else errno.EIO
        return 0

    def getpeername(self) -> SocketAddress:
        """The destination that it is connected to.

        Raises:
            OSError: ENOTCONN if there is none.
        """
        self._association.check_open()
        if self._association.destination is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        host, port = self._association.destination
        return socket_address(host.text, port)

    def getsockname(self) -> SocketAddress:
        """The local address from which the datagrams go to the relay."""
        self._association.check_open()
        address: SocketAddress = self._udp.getsockname()
        return address

    def fileno(self) -> int:
        """The descriptor of the UDP socket, to wait for; -1 when closed."""
        return -1 if self._association.closed else self._udp.fileno()

    def getsockopt(self, level: int, optname: int) -> int:
        """An option of the UDP socket."""
        self._association.check_open()
        return self._udp.getsockopt(level, optname)

    def setsockopt(self, level: int, optname: int, value: int | bytes) -> None:
        """Sets an option of the UDP socket, such as the size of its buffers."""
        self._association.check_open()
        self._udp.setsockopt(level, optname, value)

    def gettimeout(self) -> float | None:
        """The seconds that a send or receive may take; None is without end, 0 non-blocking."""
        return self._timeout

    def settimeout(self, value: float | None) -> None:
        """Sets what `gettimeout` returns.

        Raises:
            ValueError: It is negative, or not a number.
        """
        if value is not None and not value >= 0:  # nor is it NaN
            raise ValueError("Timeout value out of range")
        self._timeout = None if value is None else min(float(value), MAX_TIMEOUT)

    def getblocking(self) -> bool:
        """Whether the timeout is not 0."""
        return self._timeout != 0

    def setblocking(self, flag: bool) -> None:
        """Sets no timeout, or 0."""
        self.settimeout(None if flag else 0.0)

    def close(self) -> None:
        """Ends the association: the UDP socket and the connection to the proxy."""
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
        """Return the host and the port to send to the proxy for an address."""
        if not isinstance(address, tuple) or len(address) not in (2, 4):
            raise TypeError(f"address must be a (host, port) pair, not {address!r}")
        host, port, *zone = address
        if any(zone[1:]):
            raise ValueError(f"address {address!r} has a scope id, which means nothing to a proxy")
        # Without end if it is non-blocking: so it is with sockets, which resolve names too.
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
        # To ask epoll costs less than a receive that finds nothing. To ask otherwise costs more.
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
    """Limit a wait to half a second: epoll does not notice that another thread closes."""
    return _SLICE if seconds is None else min(seconds, _SLICE)


def _left(end: float | None, advice: str = "") -> float | None:
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
    """Has `proxy` relay UDP datagrams (UDP ASSOCIATE, RFC 1928 §7).

    Args:
        timeout: Seconds for all of it, as of `create_connection`; the association has it set.
        proxy: The proxy's URL, or a `Proxy`; or a chain of SOCKS5 proxies, each of which relays
            for the next.
        local_address: The (IP address, port) to send from, which is told to the proxy: some relay
            nothing else then. By default that is left open, as it must be behind a NAT.
        trust_relay_address: Whether to send to where the proxy says that its relay is. If not,
            it is taken to be at the address of the proxy itself, at the port that it says:
            v2ray, for one, tells whatever address is in its configuration. When the relay is at a
            private address that is not the proxy's own, errors and the log (DEBUG) say so.

    Returns:
        A `UDPAssociation`, which is used like a socket.

    Raises:
        ValueError: The timeout, the proxy or `local_address` is not valid, or a hop cannot relay
            UDP. Nothing has been sent.
        ReplyError: The proxy refused; many do not offer UDP.
        ProxyConnectError: The proxy or its relay cannot be reached, this system cannot send from
            `local_address` (EADDRNOTAVAIL, EADDRINUSE, EACCES), or this system cannot make the UDP
            socket or its epoll (EAFNOSUPPORT without IPv6, EMFILE). `errno` says which.
        ProxyTimeout: The `timeout` passed.
        ProtocolError: The proxy does not speak as it should, or the relay's address is multicast,
            reserved or a name, or its port is 0. Nothing has been sent to the relay.
        ProxyClosed: The proxy hung up.
        AuthenticationError: The proxy accepts no method offered, or it refused the credentials.
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
