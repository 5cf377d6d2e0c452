"""A SOCKS5 server on loopback for tests and demos, never for production: it protects nothing.

    with SocksServer(accounts={"user": "pass"}) as server:
        sock = socksclient.create_connection(("127.0.0.1", port), proxy=server.url)
        assert server.requests[0].destination == ("127.0.0.1", port)

With `routes`, names that exist nowhere lead to servers of the test; with `Faults`, it misbehaves
as proxies do in the field. With pytest, the fixture `socks_proxy` is such a server.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
import struct
import threading
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal, NoReturn
from urllib.parse import quote

from socksclient.exceptions import Phase, host_port
from socksclient.wire import AddressType, Command, encode_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType

__all__ = ["Connection", "Faults", "SocksServer"]


@dataclass(frozen=True, repr=False)
class Faults:
    """What the server does otherwise than asked, on one connection. By default nothing.

    The counts are of the octets that it says in the handshake: 2 select the method, 2 answer the
    credentials, if any, and the reply has 10 for an IPv4 address. When a count is reached, it
    acts in place of saying more, having read what the client said last.

    Attributes:
        split: Says every octet in a segment of its own.
        drip: Seconds to wait before every octet.
        stall_after: Says nothing more after so many octets, and stays connected.
        close_after: Hangs up after so many octets.
        reset_after: Resets the connection (RST) after so many octets.
        method: The METHOD to select, whatever was offered.
        status: The STATUS that answers the credentials, whatever they are.
        reply: The REP of the reply; no connection is made, unless it is 0.
        bound_address: The (host, port) that the reply bears; a host that is no IP address goes as
            a name of 0 to 255 octets.
        answers: The octets to say in place of the answer in that phase ("method selection",
            "authentication", "request"): garbage of any kind.
        reply_with_data: Says the reply only when the destination has sent something, together
            with that, in one segment.
    """

    split: bool = False
    drip: float | None = None
    stall_after: int | None = None
    close_after: int | None = None
    reset_after: int | None = None
    method: int | None = None
    status: int | None = None
    reply: int | None = None
    bound_address: tuple[str, int] | None = None
    answers: Mapping[Phase, bytes] = field(default_factory=dict)
    reply_with_data: bool = False

    def __post_init__(self) -> None:
        bytes(octet for octet in (self.method, self.status, self.reply) if octet is not None)

    def __repr__(self) -> str:
        """Only what differs from the defaults: it names parametrized tests."""
        told = []
        for fault in fields(self):
            value = getattr(self, fault.name)
            if value is not None and value is not False and value != {}:
                told.append(f"{fault.name}={value!r}")
        return f"Faults({', '.join(told)})"


@dataclass
class Connection:
    """What the server saw of one connection; None where it did not come so far.

    Attributes:
        client: The client's (host, port).
        methods: The METHODS offered.
        username: Of the credentials.
        password: Of the credentials.
        command: CMD of the request.
        address_type: ATYP of the request.
        destination: DST.ADDR and DST.PORT of the request, as they came: a name is not resolved.
        reply: REP of the reply.
        transcript: The octets of the handshake, message by message, with who said them.
    """

    client: tuple[str, int]
    methods: bytes | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    command: int | None = None
    address_type: int | None = None
    destination: tuple[str, int] | None = None
    reply: int | None = None
    transcript: list[tuple[Literal["client", "server"], bytes]] = field(default_factory=list)

    @property
    def received(self) -> bytes:
        """All octets of the handshake that came from the client."""
        return b"".join(octets for who, octets in self.transcript if who == "client")

    @property
    def sent(self) -> bytes:
        """All octets of the handshake that went to the client."""
        return b"".join(octets for who, octets in self.transcript if who == "server")

    def note(self, who: Literal["client", "server"], octets: bytes) -> None:
        """Adds to the transcript."""
        if self.transcript and self.transcript[-1][0] == who:
            octets = self.transcript.pop()[1] + octets
        self.transcript.append((who, octets))


class SocksServer:
    """The server, as a context manager; it runs in a thread of its own.

    Args:
        accounts: User names and their passwords. With any, the client must authenticate.
        routes: For a requested (host, port), the (host, port) to connect to in its place.
        faults: What to do wrong: on every connection, or on the first, the second, and so on,
            and none after the last.
        host: The address to listen at; the system chooses the port.

    Attributes:
        connections: What was seen of every connection, in their order.
        routes: A dict of them; it may change while the server runs. What has no route is resolved
            and connected to for real.
    """

    def __init__(
        self,
        *,
        accounts: Mapping[str, str] | None = None,
        routes: Mapping[tuple[str, int], tuple[str, int]] | None = None,
        faults: Faults | Iterable[Faults] = (),
        host: str = "127.0.0.1",
    ) -> None:
        self.connections: list[Connection] = []
        self._accounts = dict(accounts or {})
        self.routes = dict(routes or {})
        self.misbehave(faults)
        self._host = host
        self._port = 0
        self._started = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def misbehave(self, faults: Faults | Iterable[Faults]) -> None:
        """Faults for the connections that come from now on, as for the class."""
        self._faults: Iterator[Faults] = (
            itertools.repeat(faults)
            if isinstance(faults, Faults)
            else itertools.chain(faults, itertools.repeat(Faults()))
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, as (host, port)."""
        return self._host, self._port

    @property
    def url(self) -> str:
        """Its ``socks5h://`` URL, with the credentials of the first account, if there is any."""
        userinfo = ""
        for username, password in itertools.islice(self._accounts.items(), 1):
            userinfo = f"{quote(username, safe='')}:{quote(password, safe='')}@"
        return f"socks5h://{userinfo}{host_port(*self.address)}"

    @property
    def requests(self) -> list[Connection]:
        """The connections that came as far as a request."""
        return [seen for seen in self.connections if seen.destination is not None]

    def __enter__(self) -> SocksServer:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, 0), family=family, backlog=1024)
        self._port = listener.getsockname()[1]
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._serve(listener),), name="SocksServer", daemon=True
        )
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, listener)
        self._started.set()
        await self._stop.wait()
        self._loop.remove_reader(listener)
        listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Not by asyncio.start_server: stopped in the middle of an accept, it leaves the socket open.
    def _accept(self, listener: socket.socket) -> None:
        sock, client = listener.accept()
        connection = Connection(client=client[:2])
        self.connections.append(connection)
        session = _Session(connection, sock, next(self._faults), self._accounts, self.routes)
        task = asyncio.ensure_future(session.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(session.close)


class _Over(Exception):
    """The session is over."""


class _Session:
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
        self.reader, self.writer = await asyncio.open_connection(sock=self.sock)
        try:
            method = await self.select_method()
            await self.authenticate(method)
            await self.serve_request()
        except (_Over, asyncio.IncompleteReadError, OSError):
            pass

    def close(self, _task: asyncio.Task[None]) -> None:
        """When all is done, or when the server is stopped before anything was."""
        writer = getattr(self, "writer", None)
        (writer or self.sock).close()

    async def hear(self, count: int) -> bytes:
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
        raise _Over

    async def select_method(self) -> int:
        version, count = await self.hear(2)
        if version != 0x05:
            raise _Over
        self.seen.methods = methods = await self.hear(count)
        method = 0x02 if self.accounts else 0x00
        if self.faults.method is not None:
            method = self.faults.method
        elif method not in methods:
            method = 0xFF
        await self.say("method selection", bytes([0x05, method]))
        if method == 0xFF:
            raise _Over
        return method

    async def authenticate(self, method: int) -> None:
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
                raise _Over
        elif method != 0x00:  # whatever sub-negotiation it is, it has one message
            self.seen.note("client", await self.reader.read(65536))
            await self.say("authentication", b"")

    async def serve_request(self) -> None:
        _, self.seen.command, _, self.seen.address_type = await self.hear(4)
        host = await self.hear_host(self.seen.address_type)
        port = int.from_bytes(await self.hear(2), "big")
        destination = self.seen.destination = (host, port)
        if self.seen.command != Command.CONNECT:
            await self.refuse(0x07)
        if self.faults.reply:
            await self.refuse(self.faults.reply)
        try:
            there = await asyncio.open_connection(*self.routes.get(destination, destination))
        except (OSError, UnicodeError) as error:  # the latter: no name that can be resolved
            await self.refuse(0x05 if isinstance(error, ConnectionRefusedError) else 0x04)
        await self.relay(*there)

    async def hear_host(self, address_type: int) -> str:
        if address_type == AddressType.IPV4:
            return str(ipaddress.IPv4Address(await self.hear(4)))
        if address_type == AddressType.IPV6:
            return str(ipaddress.IPv6Address(await self.hear(16)))
        [size] = await self.hear(1)
        return _text(await self.hear(size))

    async def refuse(self, rep: int) -> NoReturn:
        await self.reply(rep, ("0.0.0.0", 0))
        raise _Over

    async def reply(self, rep: int, bound_address: tuple[str, int], data: bytes = b"") -> None:
        self.seen.reply = rep
        host, port = self.faults.bound_address or bound_address
        await self.say("request", bytes([0x05, rep, 0x00]) + encode_address(host, port), data)

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            data = await reader.read(65536) if self.faults.reply_with_data else b""
            await self.reply(0x00, writer.get_extra_info("sockname")[:2], data)
            limits = (self.faults.stall_after, self.faults.close_after, self.faults.reset_after)
            if self.said in limits:
                await self.end()
            await asyncio.gather(_pump(self.reader, writer), _pump(reader, self.writer))
        finally:
            writer.close()


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
