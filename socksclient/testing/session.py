"""One connection of a client to `socksclient.testing.SocksServer`."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
import struct
from http.client import responses
from typing import TYPE_CHECKING, NoReturn, cast

from socksclient.protocol.address import AddressType, Host, encode_address, is_address
from socksclient.protocol.codes import Command, Socks4Reply
from socksclient.testing.relay import Relay

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from socksclient.protocol.codes import Phase
    from socksclient.testing.faults import Faults
    from socksclient.testing.record import Connection

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
        tls: ssl.SSLContext | None,
    ) -> None:
        self.tls = tls
        self.seen = connection
        self.sock = sock
        self.faults = faults
        self.accounts = accounts
        self.routes = routes
        self.said = 0
        self.outside: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """All of it."""
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(self.reader, self.connected)
        try:
            await loop.connect_accepted_socket(lambda: protocol, self.sock, ssl=self.tls)
            first = await self.hear(1)
            protocols = {b"\x05": self.serve_socks5, b"\x04": self.serve_socks4}
            serve = self.serve_http if first.isalpha() else protocols.get(first)
            if serve is not None:
                await serve()
        except (Over, EOFError, asyncio.LimitOverrunError, OSError, ValueError, OverflowError):
            pass  # the latter ones: what it said makes no sense

    # Cancelled just when it is there, connect_accepted_socket does not return it.
    def connected(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """When the connection is there."""
        self.writer = writer

    def close(self, _task: asyncio.Task[None]) -> None:
        """When all is done, or when the server is stopped before anything was."""
        writer = getattr(self, "writer", None)
        if writer is None:
            self.sock.close()
        elif not writer.is_closing():  # closed twice, asyncio's TLS does not let it be aborted
            writer.close()

    def abort(self) -> None:
        """Abort the connections that are still open when the server stops.

        A connection with TLS stays open until the client's closing handshake has come.
        """
        # If close() leaves octets unsent, an asyncio transport closes its socket when it has sent
        # them. From then on its abort() raises AttributeError (CPython 3.10 to 3.13).
        if self.sock.fileno() >= 0:
            self.writer.transport.abort()
        if self.outside is not None and self.outside.get_extra_info("socket").fileno() >= 0:
            self.outside.transport.abort()

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

    async def serve_socks5(self) -> None:
        """RFC 1928; its version has come."""
        self.seen.protocol = "SOCKS5"
        method = await self.select_method()
        await self.authenticate(method)
        _, self.seen.command, _, self.seen.address_type = await self.hear(4)
        host = await self.hear_host(self.seen.address_type)
        await self.serve((host, int.from_bytes(await self.hear(2), "big")))

    async def serve_socks4(self) -> None:
        """SOCKS4 and 4A; the version has come."""
        self.seen.protocol = "SOCKS4"
        [self.seen.command] = await self.hear(1)
        port = int.from_bytes(await self.hear(2), "big")
        host = str(ipaddress.IPv4Address(await self.hear(4)))
        self.seen.username = await self.hear_until(b"\0")
        if host.startswith("0.0.0.") and host != "0.0.0.0":
            host = await self.hear_until(b"\0")
        self.seen.destination = (host, port)
        if self.accounts and self.seen.username not in self.accounts:
            await self.answer(Socks4Reply.IDENTD_REPORTS_ANOTHER_USER, ("0.0.0.0", 0))
            raise Over
        await self.serve((host, port))

    async def serve_http(self) -> None:
        """CONNECT of HTTP/1.1; the first octet has come."""
        self.seen.protocol = "HTTP"
        line, *fields = (await self.hear_until(b"\r\n\r\n")).split("\r\n")
        method, target, _ = line.split(" ")
        if self.seen.received[:1].decode() + method != "CONNECT":
            await self.answer(405, ("0.0.0.0", 0))
            raise Over
        self.seen.command = Command.CONNECT
        for field in fields:
            name, _, value = field.partition(": ")
            # Credentials of another scheme, such as a bearer token, are those of no account.
            if name.lower() == "proxy-authorization" and value.startswith("Basic "):
                credentials = base64.b64decode(value.removeprefix("Basic ")).decode()
                self.seen.username, _, self.seen.password = credentials.partition(":")
        host, _, port = target.rpartition(":")
        self.seen.destination = (host.strip("[]"), int(port))
        username, password = self.seen.username, self.seen.password
        if self.accounts and (username is None or self.accounts.get(username) != password):
            await self.answer(407, ("0.0.0.0", 0))
            raise Over
        await self.serve(self.seen.destination)

    async def hear_until(self, end: bytes) -> str:
        """Reads what comes before `end`, and that."""
        octets = await self.reader.readuntil(end)
        self.seen.note("client", octets)
        return _text(octets.removesuffix(end))

    async def select_method(self) -> int:
        """RFC 1928 §3."""
        [count] = await self.hear(1)
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

    async def serve(self, destination: Address) -> None:
        """Does what was asked for."""
        self.seen.destination = destination
        serve = {
            Command.CONNECT: self.connect,
            Command.BIND: self.bind,
            Command.UDP_ASSOCIATE: self.associate,
            Command.RESOLVE: self.look_up,
            Command.RESOLVE_PTR: self.look_up,
        }.get(cast("Command", self.seen.command))
        not_of_socks4 = (Command.UDP_ASSOCIATE, Command.RESOLVE_PTR)  # what SOCKS4 has not
        if serve is None or (self.seen.protocol == "SOCKS4" and self.seen.command in not_of_socks4):
            await self.refuse(0x07)
        if self.faults.reply:
            await self.answer(self.faults.reply, ("0.0.0.0", 0))
            raise Over
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
        """What `rep` of SOCKS5 is in the protocol spoken; `data` is the destination's."""
        await self.answer(self.code_of(rep), bound_address, data)

    async def answer(self, code: int, bound_address: tuple[str, int], data: bytes = b"") -> None:
        """Answers the request, with a code of the protocol spoken."""
        self.seen.reply = code
        address = self.faults.bound_address or bound_address
        await self.say("request", self.encode_reply(code, address), data)

    def code_of(self, rep: int) -> int:
        """What `rep` of SOCKS5 is in the protocol spoken."""
        if self.seen.protocol == "SOCKS4":
            return Socks4Reply.REJECTED_OR_FAILED if rep else Socks4Reply.GRANTED
        if self.seen.protocol == "HTTP":
            return 502 if rep else 200
        return rep

    def encode_reply(self, code: int, bound_address: tuple[str, int]) -> bytes:
        """The octets of a reply."""
        host, port = bound_address
        if self.seen.protocol == "SOCKS4":
            ip = ipaddress.IPv4Address(host if ":" not in host else 0)
            return bytes([0x00, code]) + port.to_bytes(2, "big") + ip.packed
        if self.seen.protocol == "HTTP":
            fields = "Via: SocksServer\r\n"
            if code in (401, 407):
                fields += 'Proxy-Authenticate: Basic realm="SocksServer"\r\n'
            return f"HTTP/1.1 {code} {responses.get(code, '')}\r\n{fields}\r\n".encode()
        return bytes([0x05, code, 0x00]) + encode_address(Host.of(host), port)

    async def connect(self, destination: Address) -> None:
        """Connects to `destination` and relays."""
        try:
            reader, writer = await asyncio.open_connection(*destination)
        except (OSError, ValueError) as error:  # the latter: no name that can be resolved
            await self.refuse(0x05 if isinstance(error, ConnectionRefusedError) else 0x04)
        self.outside = writer
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
        by_ipv6 = ":" in addresses[0][0] and self.seen.protocol != "SOCKS4"
        host = "::1" if by_ipv6 else "127.0.0.1"
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as listener:
            listener.setblocking(False)
            await self.reply(0x00, listener.getsockname()[:2])
            sock, peer = await self.unless_client_leaves(listener)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as in SocksServer
        reader, writer = await asyncio.open_connection(sock=sock)
        self.outside = writer
        try:
            self.seen.peer = peer[:2]
            await asyncio.sleep(self.faults.late or 0)
            data = await reader.read(65536) if self.faults.reply_with_data else b""
            if self.faults.second_reply is not None:
                rep = self.faults.second_reply
            else:
                welcome = peer[0] in expected or Host.of(destination[0]).is_unspecified
                rep = 0x00 if welcome else 0x02
            code = self.code_of(rep) if self.faults.second_reply is None else rep
            self.seen.second_reply = code
            await self.say("relay", self.encode_reply(code, peer[:2]), data)
            if code == self.code_of(0x00):
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
        finally:
            loop.remove_reader(listener)
            coming.cancel()
            leaving.cancel()
            await asyncio.gather(coming, leaving, return_exceptions=True)
        if not news.is_set():
            raise Over
        return listener.accept()  # nothing is awaited any more: cancelled there, it would be lost

    async def associate(self, _source: Address) -> None:
        """Relays datagrams until the client leaves."""
        relay = Relay(self.seen, self.faults, self.routes, self.resolve, self.writer.close)
        host = self.faults.relay_host or self.own_host()
        try:
            await self.reply(0x00, relay.listen(host))
            self.writer.write(self.faults.control_data)
            relay.maybe_end()
            while await self.reader.read(65536):
                pass
        finally:
            relay.close()

    def own_host(self) -> str:
        """The address that the client has connected to."""
        name = self.writer.get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else "127.0.0.1"

    async def look_up(self, destination: Address) -> None:
        """Tor's RESOLVE and RESOLVE_PTR: what the routes say, or for names the resolver."""
        wanted = self.seen.command == Command.RESOLVE
        found = destination
        if wanted and not is_address(found[0]):
            try:
                found = (await self.resolve(destination))[0]
            except (OSError, ValueError):
                await self.refuse(0x04)
        if is_address(found[0]) != wanted:
            await self.refuse(0x04)
        await self.reply(0x00, found)

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


def _text(octets: bytes) -> str:
    return octets.decode(errors="backslashreplace")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All that comes, to its end, which is passed on as a half-close."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:  # in TLS
        writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
