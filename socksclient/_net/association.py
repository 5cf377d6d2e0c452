"""A UDP association (RFC 1928 §7): its sockets and what goes through them, without waiting.

`socksclient._sync.udp` and `socksclient._anyio.udp` are built upon it, and wait.

Through a chain, each hop grants an association of its own, by a control connection through the
hops before it. A datagram goes to the relay of the nearest hop, in it a datagram for the relay of
the next, and so on: each relay takes off its header.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import selectors
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from socksclient._net.bound_address import reachable
from socksclient._net.log import log, placed
from socksclient._net.sockets import PlainSocket, family_of
from socksclient.protocol.address import (
    Host,
    HostPort,
    IPAddress,
    decode_address,
    host_port,
    is_address,
    parse_port,
    without_mapping,
)
from socksclient.protocol.codes import Command
from socksclient.protocol.exceptions import (
    AssociationClosed,
    ProtocolError,
    ProxyClosed,
    ProxyConnectError,
)
from socksclient.protocol.route import NOT_KNOWN, Route
from socksclient.protocol.socks5 import (
    MAX_HEADER_SIZE,
    datagram_header_size,
    encode_datagram_header,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from socksclient.protocol.proxy import Chain
    from socksclient.protocol.tunnel import Grant, SocketAddress

Received: TypeAlias = tuple[bytes, int, HostPort]
"""A datagram, how many octets of it are its header, and its source."""

MAX_DATAGRAM_SIZE = 0xFFFF - 20 - 8
"""Octets that a UDP datagram in an IPv4 packet can carry: 65,507."""

_MANY = 4096  # addresses to remember; an association may well speak with millions

_LEAST_ROOM = 256
"""The fewest octets of its receive buffer that a system uses for one datagram; Linux uses 768."""

_ATTEMPTS = 4
"""How many times to try to send one datagram when ICMP errors of earlier ones prevent that."""

_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            # RFC 1918
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            # RFC 4193
            "fc00::/7",
            # link-local: RFC 3927, RFC 4291
            "169.254.0.0/16",
            "fe80::/10",
            # loopback
            "127.0.0.0/8",
            "::1/128",
        ),
    )
)
"""Networks whose addresses may belong to one host at the proxy and to another one here."""

_INSTEAD = "with trust_relay_address=False, datagrams go to the proxy's own address"


class Granted(NamedTuple):
    """What one hop has granted.

    Attributes:
        route: The requests that led to the hop.
        control: The connection on which it was. The association lives as long as this connection;
            nothing is ever sent on it.
        grant: What the hop's reply says; its bound address is that of the relay.
    """

    route: Route
    control: socket.socket
    grant: Grant


class Association:
    """What the hops have granted: their control connections, and the UDP socket to the relay.

    All sockets are non-blocking. The UDP socket is connected to the relay of the nearest hop, so
    that the kernel drops what strangers send.

    Args:
        granted: By each hop, the nearest one first.
        udp: Connected to the relay of the nearest.
        relays: Where that is, and where the relays of the others are.
        advice: What errors say about the relay's address when nothing comes from the relay; empty
            if nothing is wrong with the address.

    Attributes:
        relay_address: The first of `relays`.
        advice: The argument; empty once a good datagram has come from the relay.
        dropped: How many datagrams of the relay were not delivered.
        headers: What goes before the payload, for each destination that is known already.
        peer: The one destination whose datagrams are wanted, if there is only one.
        closed: Whether `close` has been called.
        pollable: A descriptor that has something to read when any of the sockets has; -1 where
            there is no epoll.

    Raises:
        OSError: The system has no descriptor left for `pollable`.
    """

    def __init__(
        self,
        granted: Sequence[Granted],
        udp: socket.socket,
        relays: Sequence[HostPort],
        advice: str = "",
    ) -> None:
        for _, control, _ in granted:
            control.setblocking(False)
        self.chain = tuple(request.proxy for request in granted[-1].route.requests)
        self.controls = [control for _, control, _ in granted]
        self.udp = udp
        self.relay_address = relays[0]
        self.advice = advice
        self.dropped = 0
        self.headers: dict[object, bytes] = {}
        self.peer: HostPort | None = None
        self.closed = False
        self._granted = granted
        self._ended: Route | None = None
        self._is_over = False
        self._epoll = _epoll(udp, *self.controls)
        self.pollable = -1 if self._epoll is None else self._epoll.fileno()
        self._descriptor = udp.fileno()
        self._waiting: list[None] = []
        self._next_relays = relays[1:]
        self._outer_headers = b"".join(
            encode_datagram_header(Host.of(host), port) for host, port in relays[1:]
        )
        self._forget_sources()

    def learn(self, address: object, host: Host, port: int) -> bytes:
        """The header for `address` from now on: host and port as they go over the wire."""
        if len(self.headers) >= _MANY:
            self.headers.clear()
        header = self._outer_headers + encode_datagram_header(host, port)
        self.headers[address] = header
        return header

    def send(self, header: bytes, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Send one datagram, and return the number of octets of `data` in it, which is all.

        Args:
            header: What `learn` returned.
            data: The payload.
            flags: The flags for `socket.socket.send`.

        Raises:
            BlockingIOError: The system has no room for the datagram now.
            AssociationClosed: The proxy has ended the association.
            OSError: EMSGSIZE if the datagram is too long, EBADF if the association is closed, and
                whatever else the system reports of the UDP socket.
        """
        try:
            datagram = header + data
        except TypeError:
            kind = type(data).__name__
            raise TypeError(f"a contiguous bytes-like object is required, not {kind!r}") from None
        if len(datagram) > MAX_DATAGRAM_SIZE:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if self._epoll is None:
            self.check()
        else:
            # To ask epoll takes a fifth of a microsecond; `check` takes a whole one.
            for descriptor, _ in self.wait(0):
                if descriptor != self._descriptor:
                    self.check()
        attempts = _ATTEMPTS
        while True:
            try:
                return self.udp.send(datagram, flags) - len(header)
            except BlockingIOError:
                raise
            except OSError as error:
                self.check()
                # An ICMP error of an earlier datagram is reported by the next `send`, which then
                # sends nothing. So send once more; another error may have come meanwhile.
                attempts -= 1
                if self.peer is not None or attempts == 0:
                    self._advise(error)
                    raise

    def receive(self, size: int) -> Received | None:
        """Receive one datagram; return None if it was dropped.

        Args:
            size: Octets of payload wanted at most.

        Raises:
            BlockingIOError: There is no datagram now.
            AssociationClosed: The proxy has ended the association.
            OSError: EBADF if the association is closed, and whatever else the system reports of
                the UDP socket.
        """
        # The relays of v2ray and shadowsocks still send after the association has ended.
        if self._is_over:
            self.check()
        try:
            octets = self.udp.recv(MAX_HEADER_SIZE * len(self.controls) + size)
        except BlockingIOError:
            self.check()
            raise
        except OSError as error:
            # This is an ICMP error. Either Dante passes it on from the destination, or the relay
            # itself is gone, which may happen just before the control connection ends. As with
            # sockets, the error is reported only where there is one destination.
            self.check()
            if self.peer is None:
                return None
            self._advise(error)
            raise
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

    def receive_behind(self, size: int) -> Received:
        """Receive the next good datagram after `receive` has dropped one.

        A caller that is woken by edges (EPOLLET) receives until BlockingIOError. So this looks at
        every datagram that was there when the call began; the system announces later ones.

        Raises:
            BlockingIOError: There is no good datagram, or as many were dropped as the receive
                buffer can hold: garbage without end does not hold the caller.
            OSError: Whatever `receive` raises.
        """
        most = self.udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _LEAST_ROOM
        for _ in range(most):
            received = self.receive(size)
            if received is not None:
                return received
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Wait until any of the sockets has something to read, for at most `seconds`.

        With epoll, this does not notice that another thread closes the association.

        Returns:
            The descriptors that have something to read, each with its events. Without epoll the
            list is always empty.
        """
        if self._epoll is None:
            self._select(selectors.EVENT_READ, seconds, self.udp, *self.controls)
            return []
        try:
            return self._epoll.poll(seconds)
        except ValueError:
            # The association is closed; the next call on a socket reports that.
            return []

    def wait_for_room(self, seconds: float) -> None:
        """Wait until the system has room for a datagram to send, for at most `seconds`."""
        self._select(selectors.EVENT_WRITE, seconds, self.udp)

    def connect(self, host: str, port: int) -> None:
        """Drop all datagrams of other sources from now on."""
        self.peer = (host, port)
        self._forget_sources()

    def check(self) -> None:
        """Check that no control connection has ended. What the proxies send on them is ignored.

        Raises:
            OSError: EBADF if the association is closed.
            AssociationClosed: One of the control connections has ended.
        """
        self.check_open()
        cause = None
        for route, control, _ in self._granted if self._ended is None else ():
            try:
                if control.recv(0xFFFF):
                    continue
            except BlockingIOError:
                continue
            except OSError as error:
                cause = error
            self._ended = route
            self._is_over = True
            break
        if self._ended is None:
            return
        try:
            with placed(self._ended, "relay"):
                raise AssociationClosed from cause
        finally:
            del cause  # or it and this frame would hold each other

    def close(self) -> None:
        """End the association, and wake all threads that wait, except those that wait by epoll.

        The descriptors stay open while another thread waits without epoll: gevent and eventlet
        must never find a descriptor closed, and given to another socket, while they watch it. The
        last thread to stop waiting closes the descriptors.
        """
        self.closed = True
        self._is_over = True
        if not self._waiting:
            self._close_sockets()
            return
        for sock in (self.udp, *self.controls):
            # If the proxy has ended the connection, this fails, but the threads are awake then.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def check_open(self) -> None:
        """Raise OSError EBADF if the association is closed."""
        if self.closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _select(self, event: int, seconds: float, *sockets: socket.socket) -> None:
        # No lock is needed: `append` and `pop` are atomic, `close` sets `closed` before it looks at
        # the list, and this function appends to the list before it looks at `closed`.
        self._waiting.append(None)
        try:
            if not self.closed:
                # Unlike the default selector, these need no descriptor, which the system may lack.
                # eventlet has only SelectSelector.
                selector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
                for sock in sockets:
                    selector.register(sock, event)
                selector.select(seconds)
        finally:
            self._waiting.pop()
            if self.closed and not self._waiting:
                self._close_sockets()

    def _close_sockets(self) -> None:
        self.udp.close()
        for control in self.controls:
            control.close()
        if self._epoll is not None:
            self._epoll.close()

    def _advise(self, error: OSError) -> None:
        """Raise the error again with the advice behind its text, if there is any advice."""
        if self.advice:
            raise OSError(error.errno, f"{error.strerror}; {self.advice}") from error

    def _forget_sources(self) -> None:
        # By header, so that each is decoded once. No header at all is that of a bad datagram.
        self._sources: dict[bytes, HostPort | None] = {b"": None}

    def _judge(self, header: bytes) -> HostPort | None:
        """The source that the header bears; None if it is not wanted."""
        # A good datagram has come, so the relay's address is right.
        self.advice = ""
        if len(self._sources) >= _MANY:
            self._forget_sources()
        # In that order: another thread may connect meanwhile, and what is judged by the peer of
        # before must not outlive it.
        sources, peer = self._sources, self.peer
        source: HostPort | None = None
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


def _is_from(source: HostPort, peer: HostPort) -> bool:
    """Whether `source` may be `peer`.

    If `peer` is a name, only the proxy knows its address: Dante gives the address as the source,
    v2ray the name. The caller may have given `peer` as an IPv4-mapped address; a source never is.
    """
    if source[1] != peer[1]:
        return False
    host, wanted = (name.rstrip(".").lower() for name in (source[0], without_mapping(peer[0])))
    return host == wanted or (is_address(host) and not is_address(wanted))


def _epoll(*sockets: socket.socket) -> select.epoll | None:
    """Return an epoll for all the sockets; None if the system has none or gevent has removed it.

    The selectors of the standard library take three times as long.
    """
    if not hasattr(select, "epoll"):
        return None
    epoll = select.epoll()
    try:
        for sock in sockets:
            epoll.register(sock, select.EPOLLIN)
    except BaseException:
        epoll.close()
        raise
    return epoll


def bind_udp(chain: Chain, local_address: HostPort) -> socket.socket:
    """Return a UDP socket bound to the address to send from, for an association of `chain`.

    Args:
        chain: The hops of the association; errors name the nearest one.
        local_address: The (IP address, port); port 0 lets the system choose.

    Raises:
        ValueError: The port is not valid, or the nearest hop cannot relay UDP.
        ProxyConnectError: The system has no such address, the port is taken, or the socket cannot
            be made; `errno` says which.
    """
    host, port = local_address[0], parse_port(local_address[1], least=0)
    route = Route.through(chain[:1], *NOT_KNOWN, Command.UDP_ASSOCIATE)
    with placed(route, "connect"):
        try:
            udp = PlainSocket(family_of(host), socket.SOCK_DGRAM)
            try:
                udp.bind((host, port))
            except BaseException:
                udp.close()
                raise
        except OSError as error:
            text = f"cannot send datagrams from {host_port(host, port)}: {error.strerror}"
            raise ProxyConnectError(text, error.errno) from error
    return udp


def routes_of(chain: Chain, source: HostPort) -> list[Route]:
    """Return the routes to an association with each hop, the nearest one first.

    Args:
        chain: Each hop is reached through those before it.
        source: Where the datagrams will come from, for the nearest; what the others will see is
            the outer side of the relay before them, which is not known.

    Raises:
        ValueError: A hop cannot relay UDP.
    """
    return [
        Route.through(
            chain[: number + 1], *(NOT_KNOWN if number else source), Command.UDP_ASSOCIATE
        )
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

    Raises:
        ProtocolError: The bound address in a hop's reply cannot be that of a relay.
        ProxyConnectError: The UDP socket or its epoll cannot be made, or the socket cannot be
            connected to the relay; `errno` says why.
    """
    try:
        relays = [_relay_of(*one, trust_relay_address) for one in granted]
        each = [_advice(one, *relay) for one, relay in zip(granted, relays, strict=True)]
        with placed(granted[0].route, "relay"):
            _, nearest = relays[0]
            where = host_port(*nearest[:2])
            family = family_of(nearest[0])
            what, advice = f"make a UDP socket for the relay, {where}", each[0]
            try:
                if udp is None:
                    udp = PlainSocket(family, socket.SOCK_DGRAM)
                udp.setblocking(False)
                what = f"reach the relay, {where}"
                if udp.family != family:
                    raise OSError(errno.EAFNOSUPPORT, "local_address is of another address family")
                udp.connect(nearest)
                what, advice = f"wait for datagrams of the relay, {where}", ""
                addresses = [address[:2] for _, address in relays]
                return Association(granted, udp, addresses, next(filter(None, each), ""))
            except OSError as error:
                text = f"cannot {what}: {'; '.join(filter(None, (error.strerror, advice)))}"
                raise ProxyConnectError(text, error.errno) from error
    except BaseException:
        for _, control, _ in granted:
            control.close()
        if udp is not None:
            udp.close()
        raise


def _relay_of(
    route: Route, control: socket.socket, grant: Grant, trust: bool
) -> tuple[Host, SocketAddress]:
    """Return the host and the address to which the datagrams for one hop go."""
    with placed(route, "relay"):
        host, address = reachable(control, grant, trust)
        if host.is_name and host.text != (grant.own_address and grant.own_address[0]):
            text = f"the proxy says that its relay is at {host.text!r}, which is no IP address"
            raise ProtocolError(f"{text}; {_INSTEAD}")
        log(route, -1, f"relay {host_port(*address[:2])!r}")
    return host, address


def _advice(granted: Granted, relay: Host, address: SocketAddress) -> str:
    """Return what errors say about a relay that may be out of reach; empty for other relays."""
    route, control, grant = granted
    if not _is_private(relay):
        return ""
    try:
        own, _ = reachable(control, grant, trust=False)
    except ProxyClosed:
        # The association will report that the proxy has ended it.
        return ""
    if own.is_name or _without_mapping(own) == _without_mapping(relay):
        return ""
    where = host_port(*address[:2])
    advice = f"the relay, {where}, has a private address that is not the proxy's own, {own}"
    log(route, -1, f"{advice}; {_INSTEAD}")
    return f"{advice}; {_INSTEAD}"


def _is_private(host: Host) -> bool:
    """Return whether a host is an address of a private network, of one link or of one machine."""
    ip = _without_mapping(host)
    return ip is not None and any(ip in network for network in _PRIVATE)


def _without_mapping(host: Host) -> IPAddress | None:
    """Return the IP address of a host, and the IPv4 address that a mapped one stands for."""
    ip = host.ip
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return ip if mapped is None else mapped
