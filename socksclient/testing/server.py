"""`SocksServer`: the server of the tests, in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Literal
from urllib.parse import quote

from socksclient.protocol.address import host_port
from socksclient.protocol.codes import Phase
from socksclient.testing.session import Session

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
        reply: The REP of the reply, the CD with SOCKS4, the status with HTTP; no connection is
            made, unless it is 0.
        bound_address: The (host, port) that the reply bears; a host that is no IP address goes as
            a name of 0 to 255 octets.
        answers: The octets to say in place of the answer in that phase ("method selection",
            "authentication", "request"; "relay" is the second reply to BIND): garbage of any kind.
        reply_with_data: Says the reply only when the destination has sent something, together
            with that, in one segment. With BIND, that is the second reply and the peer.
        second_reply: The REP of the second reply to BIND; the peer is let go, unless it is 0.
        late: Seconds to wait before the second reply, when the peer has come.
        relay_host: The IP address at which the UDP relay listens, and which the reply bears: of
            another family than the server's, or 0.0.0.0.
        garbage: Datagrams that the relay sends before each one that it delivers.
        stranger: A datagram that comes from another port than the relay's before each of them.
        end_after: Ends a UDP association after so many datagrams of the client, by hanging up.
        control_data: What is said on the control connection of a UDP association, after the reply.
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
    second_reply: int | None = None
    late: float | None = None
    relay_host: str | None = None
    garbage: Sequence[bytes] = ()
    stranger: bytes | None = None
    end_after: int | None = None
    control_data: bytes = b""

    def __post_init__(self) -> None:
        octet, status, count = range(0x100), range(1000), range(sys.maxsize)
        limits = {"method": octet, "status": octet, "reply": status, "second_reply": octet}
        counts = ("stall_after", "close_after", "reset_after", "end_after")
        for name, limit in {**limits, **dict.fromkeys(counts, count)}.items():
            value = getattr(self, name)
            if value is not None and value not in limit:
                raise ValueError(f"{name} is {value!r}, which is not from 0 to {limit[-1]}")
        for phase in self.answers:
            if phase not in ("method selection", "authentication", "request", "relay"):
                raise ValueError(f"answers are for no phase {phase!r}")

    def __repr__(self) -> str:
        """Only what differs from the defaults: it names parametrized tests."""
        told = []
        for fault in fields(self):
            value = getattr(self, fault.name)
            if value is not None and value is not False and value not in ({}, (), b""):
                told.append(f"{fault.name}={value!r}")
        return f"Faults({', '.join(told)})"


@dataclass
class Connection:
    """What the server saw of one connection; None where it did not come so far.

    Attributes:
        client: The client's (host, port); ("", 0) at a unix socket.
        protocol: "SOCKS5", "SOCKS4" (4A too) or "HTTP".
        methods: The METHODS offered.
        username: Of the credentials; with SOCKS4 the user id.
        password: Of the credentials.
        command: CMD of the request.
        address_type: ATYP of the request.
        destination: DST.ADDR and DST.PORT of the request, as they came: a name is not resolved.
        reply: REP of the reply; CD with SOCKS4, the status with HTTP.
        second_reply: REP or CD of the second reply to BIND.
        peer: The (host, port) of the peer that came after BIND.
        datagrams: What the client sent over UDP: the destination of each, and its payload.
        transcript: The octets of the handshake, message by message, with who said them.
    """

    client: tuple[str, int]
    protocol: Literal["SOCKS5", "SOCKS4", "HTTP"] | None = None
    methods: bytes | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    command: int | None = None
    address_type: int | None = None
    destination: tuple[str, int] | None = None
    reply: int | None = None
    second_reply: int | None = None
    peer: tuple[str, int] | None = None
    datagrams: list[tuple[tuple[str, int], bytes]] = field(default_factory=list)
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
        accounts: User names and their passwords. With any, the client must authenticate; with
            SOCKS4, its user id must be one of them.
        routes: For a requested (host, port), the (host, port) to connect to in its place. Over UDP
            its answers come under the requested one. For RESOLVE and RESOLVE_PTR, where the port
            is 0, the answer.
        faults: What to do wrong: on every connection, or on the first, the second, and so on,
            and none after the last.
        host: The address to listen at; the system chooses the port.
        path: Of a unix socket to listen at in place of that. It is removed at the end.
        tls: The context of a server, to speak TLS with all clients.

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
        path: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connections: list[Connection] = []
        self._accounts = dict(accounts or {})
        self.routes = dict(routes or {})
        self.misbehave(faults)
        self._host = host
        self._port = 0
        self._path = path
        self._tls = tls
        self._started = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sessions: list[Session] = []

    def misbehave(self, faults: Faults | Iterable[Faults]) -> None:
        """Faults for the connections that come from now on, as for the class."""
        self._faults: Iterator[Faults] = (
            itertools.repeat(faults)
            if isinstance(faults, Faults)
            else itertools.chain(iter(faults), itertools.repeat(Faults()))
        )

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, as (host, port)."""
        return self._host, self._port

    @property
    def url(self) -> str:
        """Its ``socks5h://`` URL, with the credentials of the first account, if there is any."""
        return self.url_as("socks5h")

    def url_as(self, scheme: str) -> str:
        """Return its URL with another scheme, such as "socks4a" or "http".

        If the server speaks TLS, "http" and "https" become "https", and any other scheme gets
        "+tls" at its end if it lacks that.
        """
        userinfo = ""
        for username, password in itertools.islice(self._accounts.items(), 1):
            userinfo = quote(username, safe="")
            if not scheme.startswith("socks4"):
                userinfo += f":{quote(password, safe='')}"
            userinfo += "@"
        if self._tls is not None:
            bare = scheme.removesuffix("+tls")
            scheme = "https" if bare in ("http", "https") else f"{bare}+tls"
        where = host_port(*self.address) if self._path is None else f"localhost{quote(self._path)}"
        return f"{scheme}://{userinfo}{where}"

    @property
    def requests(self) -> list[Connection]:
        """The connections that came as far as a request."""
        return [seen for seen in self.connections if seen.destination is not None]

    def __enter__(self) -> SocksServer:
        if self._path is None:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            listener = socket.create_server((self._host, 0), family=family, backlog=1024)
            self._port = listener.getsockname()[1]
        else:
            listener = socket.socket(socket.AF_UNIX)
            try:
                listener.bind(self._path)
                listener.listen(1024)
            except BaseException:
                listener.close()
                raise
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="SocksServer", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError as error:
            listener.close()
            self._remove_path()
            text = f"cannot start the server's thread: {error}"
            raise OSError(errno.EAGAIN, text) from error
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
        self._remove_path()

    def _remove_path(self) -> None:
        if self._path is not None:
            os.unlink(self._path)

    def _run(self, listener: socket.socket) -> None:
        self._loop = asyncio.SelectorEventLoop()  # that of Windows has no add_reader
        try:
            self._loop.run_until_complete(self._serve(listener))
        finally:
            self._loop.close()

    async def _serve(self, listener: socket.socket) -> None:
        self._stop = asyncio.Event()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, listener)
        self._started.set()
        await self._stop.wait()
        self._loop.remove_reader(listener)
        listener.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in self._sessions:
            session.abort()
        await asyncio.sleep(0)  # in which they are closed

    # Not by asyncio.start_server: stopped in the middle of an accept, it leaves the socket open.
    def _accept(self, listener: socket.socket) -> None:
        sock, client = listener.accept()
        if self._path is None:
            # asyncio does so only where the socket knows its protocol's number.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(client=client[:2] if self._path is None else ("", 0))
        self.connections.append(connection)
        session = Session(
            connection, sock, next(self._faults), self._accounts, self.routes, self._tls
        )
        self._sessions.append(session)
        task = asyncio.ensure_future(session.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(session.close)
