"""The UDP relay of `socksclient.testing.SocksServer`."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from socksclient.protocol.address import Host, HostPort, decode_destination
from socksclient.protocol.socks5 import datagram_header_size, encode_datagram_header

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from socksclient.testing.faults import Faults
    from socksclient.testing.record import Connection


class Relay:
    """The UDP relay of one association. Like Dante's, it serves only the first sender.

    The relay does without asyncio's transports, which send no empty datagrams before Python 3.13
    (CPython issue 113812).
    """

    def __init__(
        self,
        seen: Connection,
        faults: Faults,
        routes: Mapping[HostPort, HostPort],
        resolve: Callable[[HostPort], Awaitable[list[HostPort]]],
        hang_up: Callable[[], None],
    ) -> None:
        self.seen = seen
        self.faults = faults
        self.routes = routes
        self.resolve = resolve
        self.hang_up = hang_up
        self.loop = asyncio.get_running_loop()
        self.client: HostPort | None = None
        self.sockets: list[socket.socket] = []
        self.outside: dict[str, socket.socket] = {}
        self.addresses: dict[HostPort, HostPort] = {}
        self.sources: dict[HostPort, HostPort] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def listen(self, host: str) -> HostPort:
        """Start the relay, and return the (host, port) to which the client sends datagrams."""
        self.inside = self.open(host, self.from_client)
        address: HostPort = self.inside.getsockname()[:2]
        return address

    def open(self, host: str, received: Callable[[bytes, HostPort], None]) -> socket.socket:
        """Open a socket at `host`, and call `received` with each datagram and its sender."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sockets.append(sock)
        sock.setblocking(False)
        sock.bind((host, 0))

        def receive() -> None:
            # An ICMP error of a datagram that this socket sent earlier shows up here.
            with suppress(OSError):
                octets, (sender, port, *_) = sock.recvfrom(65535)
                received(octets, (sender, port))

        self.loop.add_reader(sock, receive)
        return sock

    def from_client(self, octets: bytes, sender: HostPort) -> None:
        """Take a datagram with a header, record it, and send its payload to its destination."""
        size = datagram_header_size(octets)
        # A datagram without a valid header does not make its sender the client.
        if size == 0 or self.client not in (None, sender):
            return
        self.client = sender
        destination = decode_destination(octets[3:size])
        self.seen.datagrams.append((destination, octets[size:]))
        if destination in self.addresses:
            self.deliver(destination, octets[size:])
        else:
            task = asyncio.ensure_future(self.find(destination, octets[size:]))
            # The event loop has only a weak reference to the task.
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        self.maybe_end()

    async def find(self, destination: HostPort, payload: bytes) -> None:
        """Resolve a destination, and deliver the first datagram to it."""
        # A relay has no way to tell the client that a name has no address.
        with suppress(OSError, ValueError):
            address = (await self.resolve(self.routes.get(destination, destination)))[0]
            self.addresses[destination] = address
            if destination in self.routes:
                self.sources[address] = destination
            self.deliver(destination, payload)

    def deliver(self, destination: HostPort, payload: bytes) -> None:
        """Send a payload to a destination that has been resolved."""
        address = self.addresses[destination]
        any_host = "::" if ":" in address[0] else "0.0.0.0"
        if any_host not in self.outside:
            self.outside[any_host] = self.open(any_host, self.from_outside)
        _send(self.outside[any_host], payload, address)

    def from_outside(self, payload: bytes, source: HostPort) -> None:
        """Take a datagram without a header, and send it to the client with its header."""
        # The sockets to the outside are opened for the client's first datagram.
        assert self.client is not None
        source = self.sources.get(source, source)
        if self.faults.stranger is not None:
            with socket.socket(self.inside.family, socket.SOCK_DGRAM) as stranger:
                _send(stranger, self.faults.stranger, self.client)
        for datagram in (
            *self.faults.garbage,
            encode_datagram_header(Host.of(source[0]), source[1]) + payload,
        ):
            _send(self.inside, datagram, self.client)

    def maybe_end(self) -> None:
        """End the association if the client has sent as many datagrams as the faults allow."""
        if self.faults.end_after == len(self.seen.datagrams):
            self.hang_up()

    def close(self) -> None:
        """Close all sockets, and stop resolving."""
        for task in self.tasks:
            task.cancel()
        for sock in self.sockets:
            self.loop.remove_reader(sock)
            sock.close()


def _send(sock: socket.socket, octets: bytes, address: HostPort) -> None:
    # A datagram may be too long to be sent. The relay loses it, as a network may lose it.
    with suppress(OSError):
        sock.sendto(octets, address)
