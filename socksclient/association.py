"""A UDP association (RFC 1928 §7): its two sockets and what goes through them, without waiting.

What waits is built upon it: `socksclient.udp`, blocking, and `socksclient.anyio_udp`, awaited.
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
from typing import TYPE_CHECKING, TypeAlias

from socksclient.exceptions import (
    AssociationClosed,
    ProtocolError,
    ProxyConnectError,
    host_port,
)
from socksclient.sockets import Address as SocketAddress
from socksclient.sockets import reachable
from socksclient.wire import (
    MAX_HEADER_SIZE,
    datagram_header_size,
    decode_address,
    encode_datagram_header,
    is_address,
    without_mapping,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from socksclient.attempt import Attempt

Address: TypeAlias = tuple[str, int]
"""The (host, port) of a destination or a source."""

MAX_DATAGRAM_SIZE = 0xFFFF - 20 - 8
"""Octets that a UDP datagram in an IPv4 packet can carry: 65,507."""

_MANY = 4096  # addresses to remember; an association may well speak with millions


class Association:
    """What the proxy has granted: the control connection, and the UDP socket to the relay.

    Both sockets are non-blocking. The UDP socket is connected to the relay, so that the kernel
    drops what strangers send.

    Args:
        attempt: What errors are placed by.
        control: The association lives as long as this connection. Nothing is ever sent on it.
        udp: Connected to the relay.
        relay_address: Where that is.

    Attributes:
        dropped: How many datagrams of the relay were not delivered.
        headers: What goes before the payload, for each destination that is known already.
        peer: The one destination whose datagrams are wanted, if there is only one.
        pollable: A descriptor that has something to read when either socket has; -1 where the
            system has no such thing.
    """

    def __init__(
        self, attempt: Attempt, control: socket.socket, udp: socket.socket, relay_address: Address
    ) -> None:
        attempt.phase = "relay"
        control.setblocking(False)
        self.attempt = attempt
        self.control = control
        self.udp = udp
        self.relay_address = relay_address
        self.dropped = 0
        self.headers: dict[object, bytes] = {}
        self.peer: Address | None = None
        self.closed = False
        self._ended = False
        self._poll = _poll(udp, control)
        self.pollable = self._poll.fileno()
        self._control_descriptor = control.fileno()
        self._forget_sources()

    def learn(self, address: object, host: str, port: int) -> bytes:
        """The header for `address` from now on: host and port as they go over the wire."""
        if len(self.headers) >= _MANY:
            self.headers.clear()
        self.headers[address] = header = encode_datagram_header(host, port)
        return header

    def send(self, header: bytes, data: bytes | bytearray | memoryview) -> int:
        """Sends one datagram; returns how many octets of `data` that were, which is all.

        Raises:
            BlockingIOError: The system has no room for it now.
            AssociationClosed: The proxy has ended the association.
            OSError: EMSGSIZE if it is too long, and what else the system says of the UDP socket.
        """
        try:
            datagram = header + data
        except TypeError:
            kind = type(data).__name__
            raise TypeError(f"a contiguous bytes-like object is required, not {kind!r}") from None
        if len(datagram) > MAX_DATAGRAM_SIZE:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        for descriptor, _ in self.wait(0):  # a fifth of a microsecond
            if descriptor == self._control_descriptor:
                self.check()
        try:
            return self.udp.send(datagram) - len(header)
        except BlockingIOError:
            raise
        except OSError:  # it may be of a datagram before, by ICMP, and this one was not sent
            self.check()
            if self.peer is not None:
                raise
            return self.udp.send(datagram) - len(header)

    def receive(self, size: int) -> tuple[bytes, int, Address] | None:
        """One datagram, unless there is none now or it was dropped.

        Args:
            size: Octets of payload wanted at most.

        Returns:
            The datagram, how many octets of it are its header, and its source.

        Raises:
            AssociationClosed: The proxy has ended the association.
            OSError: What else the system says of the UDP socket.
        """
        if self._ended:  # some relays go on: of v2ray and shadowsocks
            self.check()
        try:
            octets = self.udp.recv(MAX_HEADER_SIZE + size)
        except BlockingIOError:
            self.check()
            return None
        except OSError:
            # By ICMP, which Dante passes on from the destination; or else the relay itself is
            # gone, as it may be just before the control connection ends. As with sockets, only
            # one that is connected tells of it.
            self.check()
            if self.peer is not None:
                raise
            return None
        header_size = datagram_header_size(octets)
        header = octets[:header_size]
        try:
            source = self._sources[header]
        except KeyError:
            source = self._judge(header)
        if source is None:
            self.dropped += 1
            return None
        return octets, header_size, source

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Waits until either socket has something to read, so many seconds at most.

        It does not notice that another thread closes the association.

        Returns:
            The descriptors which have, each with its events.
        """
        try:
            return self._poll.poll(seconds)
        except ValueError:  # it is closed, as the sockets will say
            return []

    def connect(self, host: str, port: int) -> None:
        """From now on all datagrams of other sources are dropped."""
        self.peer = (host, port)
        self._forget_sources()

    def check(self) -> None:
        """Looks after the control connection. What the proxy says on it is ignored.

        Raises:
            AssociationClosed: It has ended.
        """
        self.check_open()
        cause = None
        if not self._ended:
            try:
                if self.control.recv(0xFFFF):
                    return
            except BlockingIOError:
                return
            except OSError as error:
                cause = error
            self._ended = True
        try:
            with self.attempt:
                raise AssociationClosed from cause
        finally:
            del cause  # or it and this frame would hold each other

    def close(self) -> None:
        """Ends the association."""
        self.closed = True
        self.udp.close()
        self.control.close()
        self._poll.close()

    def check_open(self) -> None:
        """Raises OSError EBADF if it is closed."""
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _forget_sources(self) -> None:
        # By header, so that each is decoded once. No header at all is that of a bad datagram.
        self._sources: dict[bytes, Address | None] = {b"": None}

    def _judge(self, header: bytes) -> Address | None:
        """The source that the header bears; None if it is not wanted."""
        if len(self._sources) >= _MANY:
            self._forget_sources()
        # In that order: another thread may connect meanwhile, and what is judged by the peer of
        # before must not outlive it.
        sources, peer = self._sources, self.peer
        address = decode_address(header[3:])
        source = address if peer is None or _is_from(address, peer) else None
        sources[header] = source
        return source


def _is_from(source: Address, peer: Address) -> bool:
    """Whether `source` may be `peer`.

    Of a name, only the proxy knows the address: Dante answers with that, v2ray with the name.
    """
    if source[1] != peer[1]:
        return False
    host, wanted = (without_mapping(name).rstrip(".").lower() for name in (source[0], peer[0]))
    return host == wanted or (is_address(host) and not is_address(wanted))


def _poll(*sockets: socket.socket) -> select.epoll | SelectorPoll:
    # The selectors of the standard library do the same three times as slowly.
    if not hasattr(select, "epoll"):
        return SelectorPoll(sockets)
    epoll = select.epoll()
    for sock in sockets:
        epoll.register(sock, select.EPOLLIN)
    return epoll


class SelectorPoll:
    """What is used here of `select.epoll`, for systems that have none."""

    def __init__(self, sockets: Iterable[socket.socket]) -> None:
        self._selector = selectors.DefaultSelector()
        for sock in sockets:
            self._selector.register(sock, selectors.EVENT_READ)

    def fileno(self) -> int:
        """None that every event loop could wait for."""
        return -1

    def poll(self, seconds: float | None) -> list[tuple[int, int]]:
        """As `select.epoll.poll`."""
        return [(key.fd, events) for key, events in self._selector.select(seconds)]

    def close(self) -> None:
        """As `select.epoll.close`."""
        self._selector.close()


def bind_udp(local_address: Address) -> socket.socket:
    """A UDP socket bound to the (IP address, port) to send from; port 0 lets the system choose."""
    host, port = local_address
    udp = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.bind((host, port))
    except BaseException:
        udp.close()
        raise
    return udp


def associate(
    attempt: Attempt,
    control: socket.socket,
    bound_address: Address,
    udp: socket.socket | None,
    trust_relay_address: bool,
) -> Association:
    """The association that the proxy has granted on `control`; closes both sockets if it fails.

    Args:
        attempt: What was asked for.
        control: The connection on which it was.
        bound_address: BND.ADDR and BND.PORT of the reply: the relay.
        udp: The socket to send from if it is bound already; it is made otherwise, of the
            relay's family, which need not be that of `control`: Dante takes it from DST.ADDR.
        trust_relay_address: Whether BND.ADDR counts; otherwise it is the proxy's address.
    """
    attempt.phase = "relay"
    try:
        with attempt:
            family, relay = _relay_of(control, bound_address, trust_relay_address)
            if udp is None:
                udp = socket.socket(family, socket.SOCK_DGRAM)
            udp.setblocking(False)
            where = (str(relay[0]), bound_address[1])
            try:
                if udp.family != family:
                    raise OSError(errno.EAFNOSUPPORT, "local_address is of another family")
                udp.connect(relay)
            except OSError as error:
                text = f"cannot reach the relay, {host_port(*where)}: {error.strerror}"
                raise ProxyConnectError(text, error.errno) from error
        attempt.log(f"relay {host_port(*where)!r}")
        return Association(attempt, control, udp, where)
    except BaseException:
        control.close()
        if udp is not None:
            udp.close()
        raise


def _relay_of(control: socket.socket, bound_address: Address, trust: bool) -> SocketAddress:
    """Where to send the datagrams."""
    relay = reachable(control, bound_address, trust)
    host = str(relay[0])
    if not is_address(host):
        raise ProtocolError(f"the proxy says that its relay is at {host!r}, which is no IP address")
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), relay
