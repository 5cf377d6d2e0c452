"""`SocksServer`: the server of the tests, in a thread of its own."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from urllib.parse import quote

from socksclient.protocol.address import host_port
from socksclient.testing.faults import Faults
from socksclient.testing.record import Connection
from socksclient.testing.session import Session

__all__ = ["SocksServer"]


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
