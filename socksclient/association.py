"""A UDP association (RFC 1928 §7): its sockets and what goes through them, without waiting.

What waits is built upon it: `socksclient.udp`, blocking, and `socksclient.anyio_udp`, awaited.

Through a chain, each hop grants an association of its own, by a control connection through the
hops before it. A datagram goes to the relay of the nearest hop, in it a datagram for the relay of
the next, and so on: each relay takes off its header.
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from socksclient.attempt import NOT_KNOWN, Attempt
from socksclient.exceptions import (
    AssociationClosed,
    ProtocolError,
    ProxyConnectError,
    host_port,
)
from socksclient.sockets import PlainSocket, SocketAddress, reachable
from socksclient.wire import (
    MAX_HEADER_SIZE,
    Command,
    datagram_header_size,
    decode_address,
    encode_datagram_header,
    is_address,
    without_mapping,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from socksclient.proxy import Chain

Address: TypeAlias = tuple[str, int]
"""The (host, port) of a destination or a source."""

MAX_DATAGRAM_SIZE = 0xFFFF - 20 - 8
"""Octets that a UDP datagram in an IPv4 packet can carry: 65,507."""

_MANY = 4096  # addresses to remember; an association may well speak with millions


class Granted(NamedTuple):
    """What one hop has granted.

    Attributes:
        attempt: What was asked for; errors are placed by it.
        control: The connection on which it was. The association lives as long as this connection;
            nothing is ever sent on it.
        bound_address: BND.ADDR and BND.PORT of the reply: the relay.
    """

    attempt: Attempt
    control: socket.socket
    bound_address: Address


class Association:
    """What the hops have granted: their control connections, and the UDP socket to the relay.

    All sockets are non-blocking. The UDP socket is connected to the relay of the nearest hop, so
    that the kernel drops what strangers send.

    Args:
        granted: By each hop, the nearest one first.
        udp: Connected to the relay of the nearest.
        relays: Where that is, and where the relays of the others are.

    Attributes:
        relay_address: The first of `relays`.
        dropped: How many datagrams of the relay were not delivered.
        headers: What goes before the payload, for each destination that is known already.
        peer: The one destination whose datagrams are wanted, if there is only one.
        pollable: A descriptor that has something to read when any of the sockets has; -1 where
            the system has no such thing.
    """

    def __init__(
        self, granted: Sequence[Granted], udp: socket.socket, relays: Sequence[Address]
    ) -> None:
        for attempt, control, _ in granted:
            attempt.phase = "relay"
            control.setblocking(False)
        self.proxy = granted[-1].attempt.proxy
        self.controls = [control for _, control, _ in granted]
        self.udp = udp
        self.relay_address = relays[0]
        self.dropped = 0
        self.headers: dict[object, bytes] = {}
        self.peer: Address | None = None
        self.closed = False
        self._granted = granted
        self._ended: Attempt | None = None
        self._poll = _poll(udp, *self.controls)
        self.pollable = self._poll.fileno()
        self._descriptor = udp.fileno()
        self._next_relays = relays[1:]
        self._outer_headers = b"".join(encode_datagram_header(*relay) for relay in relays[1:])
        self._forget_sources()

    def learn(self, address: object, host: str, port: int) -> bytes:
        """The header for `address` from now on: host and port as they go over the wire."""
        if len(self.headers) >= _MANY:
            self.headers.clear()
        header = self._outer_headers + encode_datagram_header(host, port)
        self.headers[address] = header
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
            if descriptor != self._descriptor:
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
        if self._ended is not None:  # some relays go on: of v2ray and shadowsocks
            self.check()
        try:
            octets = self.udp.recv(MAX_HEADER_SIZE * len(self.controls) + size)
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
        if self._next_relays:
            header_size = self._all_headers_size(octets)
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
        """Waits until any of the sockets has something to read, so many seconds at most.

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
        """Looks after the control connections. What the proxies say on them is ignored.

        Raises:
            AssociationClosed: One has ended.
        """
        self.check_open()
        cause = None
        for attempt, control, _ in self._granted if self._ended is None else ():
            try:
                if control.recv(0xFFFF):
                    continue
            except BlockingIOError:
                continue
            except OSError as error:
                cause = error
            self._ended = attempt
            break
        if self._ended is None:
            return
        try:
            with self._ended:
                raise AssociationClosed from cause
        finally:
            del cause  # or it and this frame would hold each other

    def close(self) -> None:
        """Ends the association."""
        self.closed = True
        self.udp.close()
        for control in self.controls:
            control.close()
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
        source: Address | None = None
        inner = header
        for relay in (*self._next_relays, peer):
            size = datagram_header_size(inner)
            source = decode_address(inner[3:size])
            inner = inner[size:]
            if relay is not None and not _is_from(source, relay):
                source = None
                break
        sources[header] = source
        return source

    def _all_headers_size(self, octets: bytes) -> int:
        """How many octets the headers of all hops have; 0 if the datagram is to be dropped."""
        total = 0
        for _ in self.controls:
            size = datagram_header_size(octets[total:])
            if size == 0:
                return 0
            total += size
        return total


def _is_from(source: Address, peer: Address) -> bool:
    """Whether `source` may be `peer`.

    Of a name, only the proxy knows the address: Dante answers with that, v2ray with the name. The
    caller may have given the peer as an IPv4-mapped address, which no source is.
    """
    if source[1] != peer[1]:
        return False
    host, wanted = (name.rstrip(".").lower() for name in (source[0], without_mapping(peer[0])))
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
    udp = PlainSocket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        udp.bind((host, port))
    except BaseException:
        udp.close()
        raise
    return udp


def attempts_for(chain: Chain, source: Address) -> list[Attempt]:
    """The attempts to have an association of each hop, the nearest one first.

    Args:
        chain: Each hop is reached through those before it.
        source: Where the datagrams will come from, for the nearest; what the others will see is
            the outer side of the relay before them, which is not known.

    Raises:
        ValueError: A hop cannot relay UDP.
    """
    return [
        Attempt(chain[: number + 1], *(NOT_KNOWN if number else source), Command.UDP_ASSOCIATE)
        for number, _ in enumerate(chain)
    ]


def associate(
    granted: Sequence[Granted], udp: socket.socket | None, trust_relay_address: bool
) -> Association:
    """The association that the hops have granted; closes all sockets if it fails.

    Args:
        granted: By each hop, the nearest one first.
        udp: The socket to send from if it is bound already; it is made otherwise, of the
            relay's family, which need not be that of the control connection: Dante takes it from
            DST.ADDR.
        trust_relay_address: Whether BND.ADDR counts; otherwise it is the proxy's address.
    """
    try:
        relays = [_relay_of(*one, trust_relay_address) for one in granted]
        attempt, _, (_, port) = granted[0]
        with attempt:
            host = str(relays[0][0])
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            if udp is None:
                udp = PlainSocket(family, socket.SOCK_DGRAM)
            udp.setblocking(False)
            try:
                if udp.family != family:
                    raise OSError(errno.EAFNOSUPPORT, "local_address is of another family")
                udp.connect(relays[0])
            except OSError as error:
                text = f"cannot reach the relay, {host_port(host, port)}: {error.strerror}"
                raise ProxyConnectError(text, error.errno) from error
        return Association(granted, udp, [(str(relay[0]), relay[1]) for relay in relays])
    except BaseException:
        for _, control, _ in granted:
            control.close()
        if udp is not None:
            udp.close()
        raise


def _relay_of(
    attempt: Attempt, control: socket.socket, bound_address: Address, trust: bool
) -> SocketAddress:
    """Where to send the datagrams for one hop."""
    attempt.phase = "relay"
    with attempt:
        relay = reachable(control, bound_address, attempt.own_host, trust)
        host = str(relay[0])
        if not is_address(host) and host != attempt.own_host:
            text = f"the proxy says that its relay is at {host!r}, which is no IP address"
            raise ProtocolError(text)
        attempt.log(f"relay {host_port(host, relay[1])!r}")
    return relay
