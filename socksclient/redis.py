"""Redis through a proxy: connections for the pools of redis-py (the extra ``[redis]``).

A pool connects again and again, and so what it takes is a class:

    pool = redis.ConnectionPool(
        connection_class=socksclient.redis.SSLConnection,
        host="redis.example",
        port=6380,
        socket_connect_timeout=10.0,
        proxy="socks5h://127.0.0.1:1080",
    )
    client = redis.Redis.from_pool(pool)

Beware of redis-py's ``from_url``: in `redis` it takes the class that it is given even if that is
one without TLS and the URL one of ``rediss:``, and in `redis.asyncio` the other way round. And the
`repr` of a pool shows what it was given: let a proxy with a password be a `Proxy`, which hides it.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any, cast

import anyio

from socksclient._anyio.driver import open_tunnel
from socksclient._net.sockets import is_internet, refuse_tls, send_at_once
from socksclient._sync.connect import create_connection
from socksclient._sync.tls import server_name
from socksclient.protocol.proxy import Chain, ProxyLike, as_chain
from socksclient.protocol.route import Route

try:
    import redis.asyncio.connection
    import redis.connection
except ImportError as error:
    raise ImportError(
        "socksclient.redis needs redis-py: pip install 'socksclient[redis]'"
    ) from error


__all__ = ["AsyncConnection", "AsyncSSLConnection", "Connection", "SSLConnection"]


class Connection(redis.connection.Connection):
    """`redis.Connection` through a proxy, for the pools of `redis`.

    With ``socks5h`` the server's name goes to the proxy as it is. `socket_connect_timeout` is one
    deadline for all of the connection through the proxy. What goes wrong with the proxy is a
    `redis.ConnectionError` or `redis.TimeoutError`, whose `__context__` is the `SocksError`.

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.
        options: As of `redis.Connection`: `host`, `port`, `socket_connect_timeout` …

    Raises:
        ValueError: The proxy cannot be, or speaks TLS.
    """

    _destination: str | None = None

    def __init__(self, *, proxy: ProxyLike, **options: Any) -> None:
        self._proxy = _without_tls(as_chain(proxy))
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def _connect(self) -> socket.socket:
        timeout = self.socket_connect_timeout
        host = self._destination or self.host
        sock = create_connection((host, self.port), timeout, proxy=self._proxy)
        try:
            _set_options(sock, self)
            sock.settimeout(self.socket_timeout)
        except BaseException:
            sock.close()
            raise
        return sock

    def get_resolved_ip(self) -> None:
        """Called by redis-py, for the server's address: the proxy alone knows it."""


class SSLConnection(redis.connection.SSLConnection, Connection):
    """`redis.SSLConnection` through a proxy: `Connection` with TLS to the server.

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.
        options: As of `redis.SSLConnection`: `ssl_ca_certs` …
    """

    def _connect(self) -> socket.socket:
        host = self.host
        _check_server_name(host)
        # redis-py takes the name for TLS from `host`, where it may end with a dot for the proxy.
        self._destination, self.host = host, server_name(host)
        try:
            sock: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
            return sock
        finally:
            self._destination, self.host = None, host


class AsyncConnection(redis.asyncio.connection.Connection):
    """`redis.asyncio.Connection` through a proxy, for the pools of `redis.asyncio`.

    As `Connection`; `socket_connect_timeout` is the deadline for TLS with the server as well.

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.
        options: As of `redis.asyncio.Connection`.

    Raises:
        ValueError: The proxy cannot be, or speaks TLS.
    """

    def __init__(self, *, proxy: ProxyLike, **options: Any) -> None:
        self._proxy = _without_tls(as_chain(proxy))
        super().__init__(**options)

    async def _connect(self) -> None:
        arguments = {**self._connection_arguments()}  # "ssl" is among them, where it is wanted
        host, port = arguments.pop("host"), arguments.pop("port")
        if "ssl" in arguments:
            _check_server_name(host)
            arguments["server_hostname"] = server_name(host)
        route = Route.through(self._proxy, host, port)
        timeout = self.socket_connect_timeout
        deadline = anyio.current_time() + (math.inf if timeout is None else timeout)
        channel, _ = await open_tunnel(route, timeout=timeout)
        # Without TLS, the connection is a socket.
        sock = cast("socket.socket", channel)
        try:
            _set_options(sock, self)
        except BaseException:
            sock.close()
            raise
        with anyio.fail_after(deadline - anyio.current_time()):
            self._reader, self._writer = await asyncio.open_connection(sock=sock, **arguments)

    def get_resolved_ip(self) -> None:
        """Called by redis-py, for the server's address: the proxy alone knows it."""


class AsyncSSLConnection(redis.asyncio.connection.SSLConnection, AsyncConnection):
    """`redis.asyncio.SSLConnection` through a proxy: `AsyncConnection` with TLS to the server.

    Args:
        proxy: The proxy's URL, or a `Proxy`, or a chain of these.
        options: As of `redis.asyncio.SSLConnection`.
    """


def _without_tls(chain: Chain) -> Chain:
    # redis-py would do the TLS handshake with the server past the TLS with the proxy, and the name
    # of the server would be in the clear.
    refuse_tls(chain, "a connection of redis-py", "a proxy without TLS")
    return chain


def _check_server_name(host: str) -> None:
    """Raises a UnicodeError for a name with a label that is too long for TLS.

    So will ssl, but only when the connection is there, which redis-py does not close then.
    """
    host.encode("idna")


def _set_options(sock: socket.socket, connection: Connection | AsyncConnection) -> None:
    """Those that redis-py sets, which are for the connection to the proxy here."""
    send_at_once(sock)
    if connection.socket_keepalive and is_internet(sock.family):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options: Any = connection.socket_keepalive_options  # for redis-py it may be any object
        for option, value in options.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
