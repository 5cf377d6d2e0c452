"""One client's connection to a `SocksServer`, from its first octet to its end."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, NoReturn

from socksclient.protocol.address import Host, HostPort, is_address
from socksclient.protocol.codes import Command, Reply
from socksclient.testing.conversation import Conversation, Over
from socksclient.testing.protocols import HTTP, UNSPECIFIED, ProxyProtocol, Socks4, Socks5
from socksclient.testing.relay import Relay

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from socksclient.testing.faults import Faults
    from socksclient.testing.record import Connection


class Session:
    """What the server does with one client.

    Attributes:
        writer: The connection to the client; None until it is there (with TLS, until the TLS
            handshake has ended).
        outside: The connection to the destination or to BIND's peer; None while there is none.
    """

    def __init__(
        self,
        connection: Connection,
        sock: socket.socket,
        faults: Faults,
        accounts: Mapping[str, str],
        routes: Mapping[HostPort, HostPort],
        tls: ssl.SSLContext | None,
    ) -> None:
        self.seen = connection
        self.sock = sock
        self.faults = faults
        self.accounts = accounts
        self.routes = routes
        self.tls = tls
        self.writer: asyncio.StreamWriter | None = None
        self.outside: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Serve the client. A message that makes no sense ends the session without an error."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader, self._connected)
        try:
            await loop.connect_accepted_socket(lambda: protocol, self.sock, ssl=self.tls)
            assert self.writer is not None
            self.conversation = Conversation(reader, self.writer, self.seen, self.faults)
            first = await self.conversation.read(1)
            protocols: dict[bytes, type[ProxyProtocol]] = {b"\x05": Socks5, b"\x04": Socks4}
            spoken = HTTP if first.isalpha() else protocols.get(first)
            if spoken is not None:
                await self._serve(spoken(self.conversation, self.accounts))
        except (Over, EOFError, asyncio.LimitOverrunError, OSError, ValueError, OverflowError):
            pass

    # If the task is cancelled at the moment when the connection is made, connect_accepted_socket
    # never returns the transport. This callback gets hold of it.
    def _connected(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    def close(self, _task: asyncio.Task[None]) -> None:
        """Close the connection to the client; the session's task has ended or never began."""
        if self.writer is None:
            self.sock.close()
        # After a second close() of a connection with TLS, abort() raises AttributeError (CPython
        # issue 98539).
        elif not self.writer.is_closing():
            self.writer.close()

    def abort(self) -> None:
        """Abort the connections that are still open when the server stops.

        A connection with TLS stays open until the client's closing handshake has come.
        """
        # If close() leaves octets unsent, an asyncio transport closes its socket when it has sent
        # them. From then on its abort() raises AttributeError (CPython 3.10 to 3.13).
        if self.writer is not None and self.sock.fileno() >= 0:
            self.writer.transport.abort()
        if self.outside is not None and self.outside.get_extra_info("socket").fileno() >= 0:
            self.outside.transport.abort()

    async def _serve(self, protocol: ProxyProtocol) -> None:
        self.seen.protocol = protocol.name
        self.protocol = protocol
        destination = self.seen.destination = await protocol.read_request()
        if self.seen.command not in protocol.commands:
            await self._refuse(Reply.COMMAND_NOT_SUPPORTED)
        if self.faults.reply:
            await protocol.reply(self.faults.reply, UNSPECIFIED)
            raise Over
        serve = {
            Command.CONNECT: self._connect,
            Command.BIND: self._bind,
            Command.UDP_ASSOCIATE: self._associate,
            Command.RESOLVE: self._resolve,
            Command.RESOLVE_PTR: self._resolve,
        }[Command(self.seen.command)]
        await serve(self.routes.get(destination, destination))

    async def _refuse(self, reply: Reply) -> NoReturn:
        await self.protocol.reply(self.protocol.code(reply), UNSPECIFIED)
        raise Over

    async def _grant(self, bound_address: HostPort, data: bytes = b"") -> None:
        await self.protocol.reply(self.protocol.code(Reply.SUCCEEDED), bound_address, data)

    async def _connect(self, destination: HostPort) -> None:
        try:
            reader, writer = await asyncio.open_connection(*destination)
        # A ValueError says that the name cannot be resolved, such as a label of 64 octets.
        except (OSError, ValueError) as error:
            refused = isinstance(error, ConnectionRefusedError)
            await self._refuse(Reply.CONNECTION_REFUSED if refused else Reply.HOST_UNREACHABLE)
        self.outside = writer
        try:
            data = await reader.read(65536) if self.faults.reply_with_data else b""
            await self._grant(writer.get_extra_info("sockname")[:2], data)
            await self._copy_both_ways(reader, writer)
        finally:
            writer.close()

    async def _bind(self, destination: HostPort) -> None:
        """Wait for one peer: from `destination` or, if that is unspecified, from anywhere."""
        try:
            addresses = await self._addresses(destination)
        except (OSError, ValueError):
            await self._refuse(Reply.HOST_UNREACHABLE)
        hosts = {host for host, _ in addresses}
        by_ipv6 = ":" in addresses[0][0] and not isinstance(self.protocol, Socks4)
        listening = ("::1", 0) if by_ipv6 else ("127.0.0.1", 0)
        family = socket.AF_INET6 if by_ipv6 else socket.AF_INET
        with socket.create_server(listening, family=family) as listener:
            listener.setblocking(False)
            await self._grant(listener.getsockname()[:2])
            sock, (host, port, *_) = await self._accept(listener)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader, writer = await asyncio.open_connection(sock=sock)
        self.outside = writer
        self.seen.peer = (host, port)
        try:
            welcome = host in hosts or Host.of(destination[0]).is_unspecified
            await self._second_reply(reader, (host, port), welcome=welcome)
            await self._copy_both_ways(reader, writer)
        finally:
            writer.close()

    async def _second_reply(
        self, reader: asyncio.StreamReader, peer: HostPort, *, welcome: bool
    ) -> None:
        """Tell the client of BIND's peer.

        Raises:
            Over: The second reply is no success.
        """
        await asyncio.sleep(self.faults.late or 0)
        data = await reader.read(65536) if self.faults.reply_with_data else b""
        success = self.protocol.code(Reply.SUCCEEDED)
        code = self.faults.second_reply
        if code is None:
            refused = self.protocol.code(Reply.CONNECTION_NOT_ALLOWED_BY_RULESET)
            code = success if welcome else refused
        self.seen.second_reply = code
        octets = self.protocol.encode_reply(code, peer)
        await self.conversation.send("relay", octets, data)
        if code != success:
            raise Over

    async def _accept(self, listener: socket.socket) -> tuple[socket.socket, HostPort]:
        """Accept a connection.

        Raises:
            Over: The client has left before a peer came.
        """
        loop = asyncio.get_running_loop()
        peer_came = asyncio.Event()
        # `loop.sock_accept` loses the socket if it is cancelled at the wrong moment.
        loop.add_reader(listener, peer_came.set)
        coming = asyncio.ensure_future(peer_came.wait())
        leaving = asyncio.ensure_future(self.conversation.reader.read(1))
        try:
            await asyncio.wait((coming, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(listener)
            coming.cancel()
            leaving.cancel()
            await asyncio.gather(coming, leaving, return_exceptions=True)
        if not peer_came.is_set():
            raise Over
        # From here on the caller awaits nothing before it owns the socket.
        return listener.accept()

    async def _associate(self, _source: HostPort) -> None:
        """Relay datagrams until the client leaves."""
        writer = self.conversation.writer
        relay = Relay(self.seen, self.faults, self.routes, self._addresses, writer.close)
        try:
            await self._grant(relay.listen(self.faults.relay_host or self._own_host()))
            writer.write(self.faults.control_data)
            relay.maybe_end()
            while await self.conversation.reader.read(65536):
                pass
        finally:
            relay.close()

    def _own_host(self) -> str:
        """Return the address that the client has connected to; for a unix socket, 127.0.0.1."""
        name = self.conversation.writer.get_extra_info("sockname")
        return str(name[0]) if isinstance(name, tuple) else "127.0.0.1"

    async def _resolve(self, destination: HostPort) -> None:
        """Answer Tor's RESOLVE and RESOLVE_PTR, by the routes or (RESOLVE) by the resolver."""
        wants_address = self.seen.command == Command.RESOLVE
        found = destination
        if wants_address and not is_address(found[0]):
            try:
                found = (await self._addresses(destination))[0]
            except (OSError, ValueError):
                await self._refuse(Reply.HOST_UNREACHABLE)
        if is_address(found[0]) != wants_address:
            await self._refuse(Reply.HOST_UNREACHABLE)
        await self._grant(found)

    async def _addresses(self, destination: HostPort) -> list[HostPort]:
        host, port = destination
        if is_address(host):
            return [destination]
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(str(sockaddr[0]), port) for *_, sockaddr in found]

    async def _copy_both_ways(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Copy octets between the client and `reader`, `writer`, until both sides have ended."""
        await self.conversation.end_if_due()
        client = self.conversation
        await asyncio.gather(_copy(client.reader, writer), _copy(reader, client.writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy all octets, and then the end: as a half-close where that is possible."""
    while octets := await reader.read(65536):
        writer.write(octets)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        # asyncio cannot half-close a connection with TLS.
        writer.close()
