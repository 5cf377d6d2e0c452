"""Redis through a SOCKS proxy: classes of connections for redis-py (the extra ``[redis]``).

A pool of redis-py makes a connection whenever it needs one, so it takes a class of connections:

    pool = redis.ConnectionPool(
        connection_class=socksclient.redis.SSLConnection,
        host="redis.example",
        port=6380,
        socket_connect_timeout=10.0,
        proxy="socks5h://127.0.0.1:1080",
    )
    client = redis.Redis.from_pool(pool)

Beware of two things in redis-py. With ``from_url``, the pools of `redis` use the given class even
if the class has no TLS and the URL begins with ``rediss:``; the pools of `redis.asyncio` then use
their own class, and not the given one. And the `repr` of a pool shows the arguments of its
connections. So pass a proxy with a password as a `Proxy`, whose `repr` hides the password.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any, cast

import anyio

from socksclient._anyio.driver import open_tunnel
from socksclient._net.sockets import is_internet, refuse_tls, send_at_once
from socksclient._net.tls import server_name
from socksclient._sync.connect import create_connection
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
    """A `redis.Connection` that goes through a SOCKS proxy, for the pools of `redis`.

    With ``socks5h``, the proxy resolves the name of the server. `socket_connect_timeout`, in
    seconds, is one deadline for the connection to the proxy and all of the handshake together. If
    the connection cannot be made, redis-py raises a `redis.ConnectionError` or a
    `redis.TimeoutError`, whose `__context__` is the `SocksError`.

    Args:
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.
        options: The arguments of `redis.Connection`: `host`, `port`, `socket_connect_timeout` …

    Raises:
        ValueError: The proxy is not valid, or a hop speaks TLS.
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
        """Return None, because only the proxy knows the address of the server; redis-py asks."""


class SSLConnection(redis.connection.SSLConnection, Connection):
    """A `redis.SSLConnection` that goes through a SOCKS proxy: `Connection` with TLS.

    Args:
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.
        options: The arguments of `redis.SSLConnection`: `host`, `port`, `ssl_ca_certs` …

    Raises:
        ValueError: The proxy is not valid, or a hop speaks TLS.
    """

    def _connect(self) -> socket.socket:
        host = self.host
        _check_server_name(host)
        # redis-py takes the name for TLS from `host`. There it may end with a dot, which is for the
        # proxy, and which TLS does not have.
        self._destination, self.host = host, server_name(host)
        try:
            sock: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
            return sock
        finally:
            self._destination, self.host = None, host


class AsyncConnection(redis.asyncio.connection.Connection):
    """A `redis.asyncio.Connection` that goes through a SOCKS proxy, for pools of `redis.asyncio`.

    It behaves as `Connection` does, but the deadline of `socket_connect_timeout` also holds for the
    TLS handshake with the server.

    Args:
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.
        options: The arguments of `redis.asyncio.Connection`.

    Raises:
        ValueError: The proxy is not valid, or a hop speaks TLS.
    """

    def __init__(self, *, proxy: ProxyLike, **options: Any) -> None:
        self._proxy = _without_tls(as_chain(proxy))
        super().__init__(**options)

    async def _connect(self) -> None:
        # With TLS to the server, "ssl" is one of these arguments.
        arguments = {**self._connection_arguments()}
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
        """Return None, because only the proxy knows the address of the server; redis-py asks."""


class AsyncSSLConnection(redis.asyncio.connection.SSLConnection, AsyncConnection):
    """A `redis.asyncio.SSLConnection` that goes through a SOCKS proxy, with TLS to the server.

    It behaves as `AsyncConnection` does.

    Args:
        proxy: The URL of the proxy, or a `Proxy`, or a sequence of these: a chain, the nearest hop
            first.
        options: The arguments of `redis.asyncio.SSLConnection`.

    Raises:
        ValueError: The proxy is not valid, or a hop speaks TLS.
    """


def _without_tls(chain: Chain) -> Chain:
    # redis-py would do the TLS handshake with the server past the TLS with the proxy, and the name
    # of the server would be in the clear.
    refuse_tls(chain, "a connection of redis-py", "a proxy without TLS")
    return chain


def _check_server_name(host: str) -> None:
    """Check that TLS can carry the name of the server.

    ssl would check the name only after the connection has been made, and redis-py would not close
    the connection then.

    Raises:
        UnicodeError: A label of the name is too long.
    """
    host.encode("idna")


def _set_options(sock: socket.socket, connection: Connection | AsyncConnection) -> None:
    """Set the options that redis-py would set, on the connection to the nearest hop."""
    send_at_once(sock)
    if connection.socket_keepalive and is_internet(sock.family):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # redis-py annotates this attribute as any object.
        options: Any = connection.socket_keepalive_options
        for option, value in options.items():
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
