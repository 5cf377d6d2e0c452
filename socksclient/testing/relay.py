"""The UDP relay of `socksclient.testing.SocksServer`."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from socksclient.protocol.address import Host, decode_destination
from socksclient.protocol.socks5 import datagram_header_size, encode_datagram_header

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from socksclient.testing.faults import Faults
    from socksclient.testing.record import Connection

Address = tuple[str, int]


class Relay:
    """The UDP relay of one association: like Dante's, it serves the first sender only.

    Not by asyncio's transports: before Python 3.13, they do not send empty datagrams.
    """

    def __init__(
        self,
        seen: Connection,
        faults: Faults,
        routes: Mapping[Address, Address],
        resolve: Callable[[Address], Awaitable[list[Address]]],
        hang_up: Callable[[], None],
    ) -> None:
        self.seen = seen
        self.faults = faults
        self.routes = routes
        self.resolve = resolve
        self.hang_up = hang_up
        self.loop = asyncio.get_running_loop()
        self.client: Address | None = None
        self.sockets: list[socket.socket] = []
        self.outside: dict[str, socket.socket] = {}
        self.targets: dict[Address, Address] = {}
        self.sources: dict[Address, Address] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def listen(self, host: str) -> Address:
        """Begins; returns where it listens for the client."""
        self.inside = self.open(host, self.from_client)
        address: Address = self.inside.getsockname()[:2]
        return address

    def open(self, host: str, received: Callable[[bytes, Address], None]) -> socket.socket:
        """A socket at `host`, which hands on what it receives."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sockets.append(sock)
        sock.setblocking(False)
        sock.bind((host, 0))

        def receive() -> None:
            with suppress(OSError):  # what ICMP says of a datagram sent before
                octets, (sender, port, *_) = sock.recvfrom(65535)
                received(octets, (sender, port))

        self.loop.add_reader(sock, receive)
        return sock

    def from_client(self, octets: bytes, sender: Address) -> None:
        """A datagram with its header."""
        size = datagram_header_size(octets)
        # Garbage does not make its sender the client.
        if size == 0 or self.client not in (None, sender):
            return
        self.client = sender
        destination = decode_destination(octets[3:size])
        self.seen.datagrams.append((destination, octets[size:]))
        if destination in self.targets:
            self.deliver(destination, octets[size:])
        else:
            task = asyncio.ensure_future(self.find(destination, octets[size:]))
            self.tasks.add(task)  # the event loop itself holds them weakly only
            task.add_done_callback(self.tasks.discard)
        self.maybe_end()

    async def find(self, destination: Address, payload: bytes) -> None:
        """Delivers the first datagram to a destination."""
        with suppress(OSError, ValueError):  # no answer then, as from every relay
            target = (await self.resolve(self.routes.get(destination, destination)))[0]
            self.targets[destination] = target
            if destination in self.routes:
                self.sources[target] = destination
            self.deliver(destination, payload)

    def deliver(self, destination: Address, payload: bytes) -> None:
        """Sends it on."""
        target = self.targets[destination]
        any_host = "::" if ":" in target[0] else "0.0.0.0"
        if any_host not in self.outside:
            self.outside[any_host] = self.open(any_host, self.from_outside)
        _send(self.outside[any_host], payload, target)

    def from_outside(self, payload: bytes, source: Address) -> None:
        """A datagram without a header."""
        assert self.client is not None  # before it, nobody knows of the sockets to the outside
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
        """Hangs up if the faults want it now."""
        if self.faults.end_after == len(self.seen.datagrams):
            self.hang_up()

    def close(self) -> None:
        """Ends it."""
        for task in self.tasks:
            task.cancel()
        for sock in self.sockets:
            self.loop.remove_reader(sock)
            sock.close()


def _send(sock: socket.socket, octets: bytes, address: Address) -> None:
    with suppress(OSError):  # a datagram may get lost, and so it may be too long
        sock.sendto(octets, address)
