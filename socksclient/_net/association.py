"""`Association`: the sockets of a UDP association (RFC 1928 §7), used without waiting.

The classes of `socksclient._sync.udp` and `socksclient._anyio.udp` are built upon an `Association`,
and add the waiting.
"""

from __future__ import annotations

import errno
import os
import select
import selectors
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from socksclient._net.datagrams import (
    MAX_DATAGRAM_SIZE,
    Target,
    encode_headers,
    is_from,
    size_of_headers,
    unwrap,
)
from socksclient._net.log import placed
from socksclient.protocol.address import HostPort
from socksclient.protocol.exceptions import AssociationClosed
from socksclient.protocol.route import Route
from socksclient.protocol.socks5 import (
    MAX_HEADER_SIZE,
    datagram_header_size,
    encode_datagram_header,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from socksclient.protocol.steps import Grant

Received: TypeAlias = tuple[bytes, int, HostPort]
"""A datagram, how many octets of it are its headers, and its source."""

_MANY = 4096
"""How many addresses to remember. One association may well reach millions of addresses."""

_LEAST_ROOM = 256
"""The fewest octets of its receive buffer that a system uses for one datagram; Linux uses 768."""

_ATTEMPTS = 4
"""How many times to try to send one datagram when ICMP errors of earlier ones prevent that."""


class Granted(NamedTuple):
    """The association that one hop has granted.

    Attributes:
        route: The requests that led to the hop.
        control: The control connection, on which the hop has granted the request. The association
            lasts as long as this connection, and this process sends nothing more on it.
        grant: The content of the hop's reply. Its bound address is the address of the relay.
    """

    route: Route
    control: socket.socket
    grant: Grant


class Association:
    """A UDP association: its control connections, and the UDP socket to the nearest relay.

    All sockets are non-blocking. The UDP socket is connected to the relay of the nearest hop, so
    that the kernel drops the datagrams of all other hosts.

    Args:
        granted: The associations that the hops have granted, the nearest hop first.
        udp: The UDP socket, which is connected to the relay of the nearest hop.
        relays: Where the relay of each hop is, the nearest hop first.
        advice: The text that errors have about the address of a relay as long as no datagram has
            come from the relay; empty if there is nothing to say.

    Attributes:
        chain: The hops, the nearest hop first.
        controls: The control connection of each hop.
        udp: The UDP socket.
        relay_address: The (host, port) of the nearest relay.
        advice: The argument; empty once a good datagram has arrived.
        dropped: How many datagrams have come from the relay and were not delivered.
        destination: The only host and port that the caller wants to hear from; None if the caller
            wants to hear from all.
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
        relays: Sequence[Target],
        advice: str = "",
    ) -> None:
        for _, control, _ in granted:
            control.setblocking(False)
        self.chain = tuple(request.proxy for request in granted[-1].route.requests)
        self.controls = [control for _, control, _ in granted]
        self.udp = udp
        nearest, port = relays[0]
        self.relay_address = nearest.text, port
        self.advice = advice
        self.dropped = 0
        self.destination: Target | None = None
        self.closed = False
        self._granted = granted
        self._ended: Route | None = None
        self._is_over = False
        self._epoll = _epoll(udp, *self.controls)
        self.pollable = -1 if self._epoll is None else self._epoll.fileno()
        self._descriptor = udp.fileno()
        self._waiting: list[None] = []
        self._next_relays = relays[1:]
        self._outer_headers = encode_headers(self._next_relays)
        self._headers: dict[object, bytes] = {}
        self._forget_sources()

    def header_for(self, address: object) -> bytes | None:
        """Return the headers that go before the payload of a datagram to an address.

        Returns:
            The headers for all hops; None if the association does not know the address yet. The
            caller then finds the target, resolves its name if need be, and calls `learn`.
        """
        return self._headers.get(address)

    def learn(self, address: object, target: Target) -> bytes:
        """Remember the target that an address means, and return the headers for all hops.

        Args:
            address: The address as the caller of the library writes it.
            target: The host and the port that the last hop is asked for.
        """
        if len(self._headers) >= _MANY:
            self._headers.clear()
        header = self._outer_headers + encode_datagram_header(*target)
        self._headers[address] = header
        return header

    def send(self, header: bytes, data: bytes | bytearray | memoryview, flags: int = 0) -> int:
        """Send one datagram, and return the number of octets of its payload.

        Args:
            header: The headers that `header_for` or `learn` returned.
            data: The payload.
            flags: The flags for `socket.socket.send`.

        Raises:
            TypeError: The payload is not bytes-like, or its octets are not contiguous.
            BlockingIOError: The system has no room for the datagram now.
            AssociationClosed: A proxy has ended the association.
            OSError: The datagram is too long (EMSGSIZE), the association is closed (EBADF), or
                the system reports another error of the UDP socket.
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
        try:
            return self.udp.send(datagram, flags) - len(header)
        except BlockingIOError:
            raise
        except OSError as error:
            self.check()
            if self.destination is not None:
                self._advise(error)
                raise
        return self._send_again(datagram, flags) - len(header)

    def _send_again(self, datagram: bytes, flags: int) -> int:
        """Send one datagram that `send` has not sent, and return how many octets it has.

        An ICMP error of an *earlier* datagram is reported by the next `send` of the socket, which
        then sends nothing. So this function sends the datagram once more. Another error may have
        come meanwhile, and such errors may come without end.
        """
        attempts = _ATTEMPTS - 1
        while True:
            try:
                return self.udp.send(datagram, flags)
            except BlockingIOError:
                raise
            except OSError as error:
                self.check()
                attempts -= 1
                if attempts == 0:
                    self._advise(error)
                    raise

    def receive(self, size: int) -> Received | None:
        """Receive one datagram; return None if it was dropped.

        Args:
            size: The most octets of payload that the caller wants.

        Raises:
            BlockingIOError: There is no datagram now.
            AssociationClosed: A proxy has ended the association.
            OSError: The association is closed (EBADF), or the system reports another error of the
                UDP socket, and the association has one destination only.
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
            if self.destination is None:
                return None
            self._advise(error)
            raise
        header_size = datagram_header_size(octets)
        if self._next_relays:
            header_size = size_of_headers(octets, len(self.controls))
        headers = octets[:header_size]
        try:
            source = self._sources[headers]
        except KeyError:
            source = self._judge(headers)
        if source is None:
            self.dropped += 1
            return None
        return octets, header_size, source

    def receive_behind(self, size: int) -> Received:
        """Receive the next good datagram after `receive` has dropped one.

        A caller that is woken by edges (EPOLLET) receives until BlockingIOError. So this function
        looks at every datagram that was there when the call began; the system announces later ones.

        Raises:
            BlockingIOError: There is no good datagram, or the call has dropped as many datagrams
                as the receive buffer can hold: garbage without end does not hold the caller.
            AssociationClosed: A proxy has ended the association.
            OSError: The association is closed (EBADF), or the system reports another error of the
                UDP socket, and the association has one destination only.
        """
        most = self.udp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _LEAST_ROOM
        for _ in range(most):
            received = self.receive(size)
            if received is not None:
                return received
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """Wait until any of the sockets has something to read, for at most `seconds`.

        With epoll, this function does not notice that another thread closes the association.

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
            # The association is closed, which the next call on a socket reports.
            return []

    def wait_for_room(self, seconds: float) -> None:
        """Wait until the system has room for a datagram to send, for at most `seconds`."""
        self._select(selectors.EVENT_WRITE, seconds, self.udp)

    def connect(self, target: Target) -> None:
        """Make a target the only destination: drop all datagrams of other sources from now on."""
        self.destination = target
        self._forget_sources()

    def check(self) -> None:
        """Check that no control connection has ended, and throw away what the proxies send on them.

        Raises:
            OSError: The association is closed (EBADF).
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
            # Otherwise the error and this frame would hold each other.
            del cause

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
            # If the proxy has ended the connection, `shutdown` fails, but the threads are awake.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def check_open(self) -> None:
        """Raise an OSError (EBADF) if the association is closed."""
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
        """Raise an error like this one with the advice behind its text, if there is any advice."""
        if self.advice:
            raise OSError(error.errno, f"{error.strerror}; {self.advice}") from error

    def _forget_sources(self) -> None:
        # The key is the headers, so that each source is decoded once. A bad datagram has none.
        self._sources: dict[bytes, HostPort | None] = {b"": None}

    def _judge(self, headers: bytes) -> HostPort | None:
        """Return the source of a datagram; None if the datagram is to be dropped."""
        # A good datagram has come, so the relay's address is right.
        self.advice = ""
        if len(self._sources) >= _MANY:
            self._forget_sources()
        # The order matters: another thread may connect meanwhile, and then replaces `_sources`. A
        # result for the destination of before must not get into the new dictionary.
        sources, destination = self._sources, self.destination
        source = unwrap(headers, self._next_relays)
        if source is not None and destination is not None and not is_from(source, destination):
            source = None
        sources[headers] = source
        return source


def _epoll(*sockets: socket.socket) -> select.epoll | None:
    """Return an epoll for all sockets; None if the system has none, or gevent has removed it.

    The selectors of the standard library take three times as long.

    Raises:
        OSError: The system has no descriptor left, or no room to register a socket.
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
