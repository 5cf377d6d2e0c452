"""`SocksServer`: a proxy for tests, which runs in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote

from socksclient.protocol.address import HostPort, host_port
from socksclient.testing.faults import Faults
from socksclient.testing.record import Connection
from socksclient.testing.session import Session

__all__ = ["SocksServer"]


class SocksServer:
    """A proxy for tests, as a context manager. The server runs in a thread of its own.

    On entry the server starts to listen. On exit the server stops, and closes all connections.

    Args:
        accounts: The usernames and their passwords. If there are any, each client must
            authenticate; with SOCKS4, the user id must be one of the usernames.
        routes: Maps a requested (host, port) to the (host, port) that the server connects to
            instead. Datagrams from the latter seem to come from the former. For RESOLVE and
            RESOLVE_PTR, both ports are 0, and the second host is the answer.
        faults: How the server misbehaves: one `Faults` for every connection, or one for the first
            connection, one for the second, and so on, after which the server behaves well.
        host: The IP address at which the server listens. The system chooses the port.
        path: The path of a unix socket at which the server listens instead of a port. On exit the
            server removes the path.
        tls: A server's context, with which the server speaks TLS with every client.

    Attributes:
        connections: The record of every connection, in the order of the connections.
        routes: The routes, as a dict. A test may change the dict while the server runs. For a
            destination without a route, the server asks the system's resolver and connects there.

    Raises:
        OSError: On entry, if the server cannot listen at the address or the path, or if the
            system cannot start another thread.
        TypeError: If `faults` is neither a `Faults` nor an iterable.
    """

    def __init__(
        self,
        *,
        accounts: Mapping[str, str] | None = None,
        routes: Mapping[HostPort, HostPort] | None = None,
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
        """Set the faults of the connections that come from now on.

        Args:
            faults: One `Faults` for every connection, or one for each of the next connections.

        Raises:
            TypeError: If `faults` is neither a `Faults` nor an iterable.
        """
        self._faults: Iterator[Faults] = (
            itertools.repeat(faults)
            if isinstance(faults, Faults)
            else itertools.chain(iter(faults), itertools.repeat(Faults()))
        )

    @property
    def address(self) -> HostPort:
        """The (host, port) at which the server listens; port 0 before it listens at a port."""
        return self._host, self._port

    @property
    def url(self) -> str:
        """The server's ``socks5h://`` URL, with the credentials of the first account, if any."""
        return self.url_as("socks5h")

    def url_as(self, scheme: str) -> str:
        """Return the server's URL with another scheme, such as "socks4a" or "http".

        The URL has the credentials of the first account, if any. If the server speaks TLS, the
        schemes "http" and "https" become "https", and every other scheme ends in "+tls".
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
        """The record of the connections on which the client has sent a request."""
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

    def __exit__(self, *_exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._remove_path()

    def _remove_path(self) -> None:
        if self._path is not None:
            os.unlink(self._path)

    def _run(self, listener: socket.socket) -> None:
        # The default event loop of Windows has no `add_reader`.
        self._loop = asyncio.SelectorEventLoop()
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
        # An aborted transport closes its socket in the next turn of the event loop.
        await asyncio.sleep(0)

    # `asyncio.start_server` is of no use here: a server that is stopped while it accepts a
    # connection leaves the socket open.
    def _accept(self, listener: socket.socket) -> None:
        sock, client = listener.accept()
        if self._path is None:
            # asyncio sets this option only if the socket has the number of its protocol, which a
            # socket that was accepted lacks.
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
