"""One connection of a client to `socksclient.testing.SocksServer`."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, cast

from socksclient.wire import (
    AddressType,
    Command,
    datagram_header_size,
    decode_address,
    encode_address,
    encode_datagram_header,
    is_address,
    is_unspecified,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from socksclient.exceptions import Phase
    from socksclient.testing import Connection, Faults

Address = tuple[str, int]


class Over(Exception):
    """The session is over."""


class Session:
    """One connection of a client, from its greeting to the end of the relaying."""

    def __init__(
        self,
        connection: Connection,
        sock: socket.socket,
        faults: Faults,
        accounts: Mapping[str, str],
        routes: Mapping[tuple[str, int], tuple[str, int]],
    ) -> None:
        self.seen = connection
        self.sock = sock
        self.faults = faults
        self.accounts = accounts
        self.routes = routes
        self.said = 0

    async def run(self) -> None:
        """All of it."""
        self.reader, self.writer = await asyncio.open_connection(sock=self.sock)
        try:
            method = await self.select_method()
            await self.authenticate(method)
            await self.serve_request()
        except (Over, asyncio.IncompleteReadError, OSError):
            pass

    def close(self, _task: asyncio.Task[None]) -> None:
        """When all is done, or when the server is stopped before anything was."""
        writer = getattr(self, "writer", None)
        (writer or self.sock).close()

    async def hear(self, count: int) -> bytes:
        """Reads exactly `count` octets of the handshake."""
        octets = await self.reader.readexactly(count)
        self.seen.note("client", octets)
        return octets

    async def say(self, phase: Phase, octets: bytes, data: bytes = b"") -> None:
        """Says the answer of `phase`, as far as the faults let it; `data` is the destination's."""
        faults = self.faults
        octets = faults.answers.get(phase, octets)
        limits = (faults.stall_after, faults.close_after, faults.reset_after)
        limit = min((n for n in limits if n is not None), default=None)
        cut = octets if limit is None else octets[: max(0, limit - self.said)]
        pieces = [cut]
        if faults.split or faults.drip is not None:
            pieces = [bytes([octet]) for octet in cut]
        for number, piece in enumerate(pieces, 1):
            await asyncio.sleep(faults.drip or 0)
            self.seen.note("server", piece)
            self.said += len(piece)
            self.writer.write(piece + data if number == len(pieces) else piece)
            await self.writer.drain()
        if limit is not None and len(cut) < len(octets):
            await self.end()

    async def end(self) -> None:
        """Does what the faults say when the count is reached."""
        if self.faults.stall_after is not None:
            while await self.reader.read(65536):
                pass
        elif self.faults.reset_after is not None:
            reset(self.writer)
        raise Over

    async def select_method(self) -> int:
        """RFC 1928 §3."""
        version, count = await self.hear(2)
        if version != 0x05:
            raise Over
        self.seen.methods = methods = await self.hear(count)
        method = 0x02 if self.accounts else 0x00
        if self.faults.method is not None:
            method = self.faults.method
        elif method not in methods:
            method = 0xFF
        await self.say("method selection", bytes([0x05, method]))
        if method == 0xFF:
            raise Over
        return method

    async def authenticate(self, method: int) -> None:
        """RFC 1929, or whatever a private method says."""
        if method == 0x02:
            _, size = await self.hear(2)
            username = self.seen.username = _text(await self.hear(size))
            [size] = await self.hear(1)
            password = self.seen.password = _text(await self.hear(size))
            status = 0x00 if self.accounts.get(username) == password else 0x01
            if self.faults.status is not None:
                status = self.faults.status
            await self.say("authentication", bytes([0x01, status]))
            if status != 0x00:
                raise Over
        elif method != 0x00:  # whatever sub-negotiation it is, it has one message
            self.seen.note("client", await self.reader.read(65536))
            await self.say("authentication", b"")

    async def serve_request(self) -> None:
        """RFC 1928 §4."""
        _, self.seen.command, _, self.seen.address_type = await self.hear(4)
        host = await self.hear_host(self.seen.address_type)
        port = int.from_bytes(await self.hear(2), "big")
        destination = self.seen.destination = (host, port)
        serve = {
            Command.CONNECT: self.connect,
            Command.BIND: self.bind,
            Command.UDP_ASSOCIATE: self.associate,
        }.get(cast("Command", self.seen.command))
        if serve is None:
            await self.refuse(0x07)
        if self.faults.reply:
            await self.refuse(self.faults.reply)
        await serve(self.routes.get(destination, destination))

    async def hear_host(self, address_type: int) -> str:
        """DST.ADDR of the request."""
        if address_type == AddressType.IPV4:
            return str(ipaddress.IPv4Address(await self.hear(4)))
        if address_type == AddressType.IPV6:
            return str(ipaddress.IPv6Address(await self.hear(16)))
        [size] = await self.hear(1)
        return _text(await self.hear(size))

    async def refuse(self, rep: int) -> NoReturn:
        """Replies with a failure."""
        await self.reply(rep, ("0.0.0.0", 0))
        raise Over

    async def reply(self, rep: int, bound_address: tuple[str, int], data: bytes = b"") -> None:
        """RFC 1928 §6; `data` is the destination's."""
        self.seen.reply = rep
        host, port = self.faults.bound_address or bound_address
        await self.say("request", _reply(rep, (host, port)), data)

    async def connect(self, destination: Address) -> None:
        """Connects to `destination` and relays."""
        try:
            reader, writer = await asyncio.open_connection(*destination)
        except (OSError, ValueError) as error:  # the latter: no name that can be resolved
            await self.refuse(0x05 if isinstance(error, ConnectionRefusedError) else 0x04)
        try:
            data = await reader.read(65536) if self.faults.reply_with_data else b""
            await self.reply(0x00, writer.get_extra_info("sockname")[:2], data)
            await self.relay(reader, writer)
        finally:
            writer.close()

    async def bind(self, destination: Address) -> None:
        """Waits for one peer, from `destination` or, if that is unspecified, from anywhere."""
        try:
            addresses = await self.resolve(destination)
        except (OSError, ValueError):
            await self.refuse(0x04)
        expected = {address[0] for address in addresses}
        host = "::1" if ":" in addresses[0][0] else "127.0.0.1"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as listener:
            listener.setblocking(False)
            await self.reply(0x00, listener.getsockname()[:2])
            sock, peer = await self.unless_client_leaves(listener)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as in SocksServer
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            self.seen.peer = peer[:2]
            await asyncio.sleep(self.faults.late or 0)
            data = await reader.read(65536) if self.faults.reply_with_data else b""
            if self.faults.second_reply is not None:
                rep = self.faults.second_reply
            else:
                welcome = peer[0] in expected or is_unspecified(destination[0])
                rep = 0x00 if welcome else 0x02
            self.seen.second_reply = rep
            await self.say("relay", _reply(rep, peer[:2]), data)
            if rep == 0x00:
                await self.relay(reader, writer)
        finally:
            writer.close()

    async def unless_client_leaves(self, listener: socket.socket) -> tuple[socket.socket, Address]:
        """Accepts a connection."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()
        # Not by `sock_accept`: cancelled at the wrong moment, it loses the socket.
        loop.add_reader(listener, news.set)
        coming = asyncio.ensure_future(news.wait())
        leaving = asyncio.ensure_future(self.reader.read(1))
        try:
            await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not news.is_set():
                raise Over
            return listener.accept()
        finally:
            loop.remove_reader(listener)
            coming.cancel()
            leaving.cancel()
            await asyncio.gather(coming, leaving, return_exceptions=True)

    async def associate(self, _source: Address) -> None:
        """Relays datagrams until the client leaves."""
        relay = Relay(self.seen, self.faults, self.routes, self.resolve, self.writer.close)
        host = self.faults.relay_host or self.writer.get_extra_info("sockname")[0]
        try:
            await self.reply(0x00, relay.listen(host))
            self.writer.write(self.faults.control_data)
            relay.maybe_end()
            while await self.reader.read(65536):
                pass
        finally:
            relay.close()

    async def resolve(self, destination: Address) -> list[Address]:
        """The addresses of a destination."""
        host, port = destination
        if is_address(host):
            return [destination]
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(str(sockaddr[0]), port) for *_, sockaddr in found]

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relays both ways, until both have ended."""
        limits = (self.faults.stall_after, self.faults.close_after, self.faults.reset_after)
        if self.said in limits:
            await self.end()
        await asyncio.gather(_pump(self.reader, writer), _pump(reader, self.writer))


def _reply(rep: int, bound_address: Address) -> bytes:
    return bytes([0x05, rep, 0x00]) + encode_address(*bound_address)


def _text(octets: bytes) -> str:
    return octets.decode(errors="backslashreplace")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, to its end, which is passed on as a half-close."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


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
        if self.client is None:
            self.client = sender
        size = datagram_header_size(octets)
        if sender != self.client or size == 0:
            return
        destination = decode_address(octets[3:size])
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
        for datagram in (*self.faults.garbage, encode_datagram_header(*source) + payload):
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
