"""Awaited: connections, listeners and associations in the manner of `anyio`.

It runs on asyncio (uvloop too) and trio. Nothing here has a timeout: use `anyio.fail_after`.
"""

from __future__ import annotations

import socket
import ssl
from types import TracebackType
from typing import Literal, cast, overload

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from socksclient._anyio.driver import (
    Stream,
    close,
    exchange,
    handed_over,
    open_stream,
    open_tunnel,
)
from socksclient._net.bound_address import HasPeer, listening_at
from socksclient._net.log import log, placed
from socksclient._net.sockets import refuse_tls
from socksclient._net.tls import server_name
from socksclient.protocol.address import HostPort, host_port
from socksclient.protocol.codes import Command
from socksclient.protocol.exceptions import SocksError
from socksclient.protocol.flow import ConnectionEnded
from socksclient.protocol.proxy import ProxyLike, as_chain
from socksclient.protocol.route import Route

__all__ = [
    "Listener",
    "bind",
    "connect_socket",
    "connect_tcp",
    "resolve",
    "resolve_ptr",
]


@overload
async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = ...,
    tls: Literal[False] = ...,
    ssl_context: None = ...,
    tls_hostname: None = ...,
    tls_standard_compatible: bool = ...,
) -> SocketStream | TLSStream: ...


@overload
async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = ...,
    tls: bool = ...,
    ssl_context: ssl.SSLContext,
    tls_hostname: str | None = ...,
    tls_standard_compatible: bool = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = ...,
    tls: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    tls_hostname: str,
    tls_standard_compatible: bool = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = ...,
    tls: Literal[True],
    ssl_context: ssl.SSLContext | None = ...,
    tls_hostname: str | None = ...,
    tls_standard_compatible: bool = ...,
) -> TLSStream: ...


async def connect_tcp(
    host: str,
    port: int,
    *,
    proxy: ProxyLike,
    local_host: str | None = None,
    tls: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    tls_hostname: str | None = None,
    tls_standard_compatible: bool = True,
) -> SocketStream | TLSStream:
    """Connects through `proxy`, in the manner of `anyio.connect_tcp`.

    There is no timeout argument: use `anyio.fail_after`.

    Args:
        host: The destination. With ``socks5h``, ``socks4a`` and ``http`` a host name goes to the
            proxy as it is and is never resolved here; with ``socks5`` and ``socks4`` it is
            resolved here, and after a refusal (except REP 07) its next address is tried.
        port: 1 to 65535.
        proxy: The proxy's URL, or a `Proxy`; or a sequence of these, which is a chain, the
            nearest hop first.
        local_host: The local IP address to connect to the proxy from.
        tls: Whether to speak TLS with the destination; so it is with one of the next two given.
        ssl_context: The context to use, in place of a default one.
        tls_hostname: The name to verify the destination's certificate against, in place of `host`.
            TLS gets neither with a dot at its end (RFC 6066 §3).
        tls_standard_compatible: Whether TLS ends with its closing handshake; False for HTTP.

    Returns:
        A stream of which nothing has been read that the destination sent. It is a `TLSStream` also
        where a hop speaks TLS.

    Raises:
        ValueError: The destination or the proxy cannot be, or a hop cannot carry what it would be
            asked for; nothing has been sent.
        ProxyConnectError: The proxy cannot be reached, or its TLS fails.
        ResolveError: The destination's name has no address (``socks5`` and ``socks4`` only).
        ProtocolError: The peer does not speak as it should; `ProxyClosed` if it hung up.
        AuthenticationError: The proxy accepts no method offered, or not the credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
        ssl.SSLError: TLS with the destination failed.
        anyio.BrokenResourceError: The destination hung up in its TLS handshake.
    """
    route = Route.through(as_chain(proxy), host, port)
    stream, _ = await open_stream(route, local_host)
    if not (tls or ssl_context or tls_hostname):
        return stream
    try:
        tls_stream = await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=server_name(tls_hostname or route.last.host.text),
            ssl_context=ssl_context,
            standard_compatible=tls_standard_compatible,
        )
    except BaseException:
        await close(stream)
        raise
    return await handed_over(tls_stream)


async def connect_socket(
    host: str, port: int, *, proxy: ProxyLike, local_host: str | None = None
) -> socket.socket:
    """Connects through `proxy`, for what takes a socket: ``asyncio.open_connection(sock=…)``.

    Args:
        host: As for `connect_tcp`.
        port: As for `connect_tcp`.
        proxy: As for `connect_tcp`.
        local_host: As for `connect_tcp`.

    Returns:
        A plain connected socket, non-blocking, of which nothing has been read that the
        destination sent.

    Raises:
        ValueError: As `connect_tcp` does, and so the others; or a hop speaks TLS, which takes
            more than a socket.
        ProxyConnectError: The proxy cannot be reached.
        ResolveError: The destination's name has no address (``socks5`` and ``socks4`` only).
        ProtocolError: The peer does not speak as it should; `ProxyClosed` if it hung up.
        AuthenticationError: The proxy accepts no method offered, or not the credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
    """
    chain = as_chain(proxy)
    refuse_tls(chain, "the socket of connect_socket", "connect_tcp")
    sock, _ = await open_tunnel(Route.through(chain, host, port), local_host)
    return cast("socket.socket", sock)


async def bind(
    host: str, port: int, *, proxy: ProxyLike, local_host: str | None = None
) -> Listener:
    """Has `proxy` listen for one connection of a peer (BIND, RFC 1928 §4).

    As `socksclient.bind`; used as ``async with await bind(…) as listener``.

    Args:
        host: The peer that is expected; "0.0.0.0" with port 0 is anyone.
        port: Its port, from 0 to 65535.
        proxy: The proxy's URL, or a `Proxy`, or a chain of these, of which the last is to listen.
        local_host: The local IP address to connect to the proxy from.

    Returns:
        A `Listener`; its `address` is where the peer is to connect to.

    Raises:
        ValueError: As `connect_tcp` does, and so the others.
        ReplyError: The proxy refused; few offer BIND, Dante does.
        ProtocolError: The address at which the proxy says it listens is none that a peer could
            connect to, as `socksclient.bind` tells.
    """
    # Dante takes 0.0.0.0 for any peer of IPv4 only, and refuses :: (REP 03).
    route = Route.through(as_chain(proxy), host, port, Command.BIND)
    stream, grant = await open_stream(route, local_host)
    try:
        with placed(route, "request"):
            sock: HasPeer = stream.extra(SocketAttribute.raw_socket)
            return Listener(stream, listening_at(sock, grant), route)
    except BaseException:
        await close(stream)
        raise


async def resolve(name: str, *, proxy: ProxyLike) -> str:
    """Has Tor resolve `name` (RESOLVE, one of its extensions of SOCKS).

    Args:
        name: It is never resolved here, whatever the scheme.
        proxy: Tor's URL, or a `Proxy`, or a chain with Tor at its end.

    Returns:
        An IP address, as text.

    Raises:
        ValueError: As `connect_tcp` does, and so the others.
        ReplyError: There is no such name (REP 04), or the proxy is not Tor.
    """
    return await _ask(Route.through(as_chain(proxy), name, 0, Command.RESOLVE))


async def resolve_ptr(address: str, *, proxy: ProxyLike) -> str:
    """Has Tor find the name of an IP address (RESOLVE_PTR, one of its extensions of SOCKS).

    Args:
        address: An IP address, as text.
        proxy: As of `resolve`; not with SOCKS4, which cannot carry a name back.

    Raises:
        ValueError: As `connect_tcp` does, and so the others.
        ReplyError: It has no name (REP 04), or the proxy is not Tor.
    """
    return await _ask(Route.through(as_chain(proxy), address, 0, Command.RESOLVE_PTR))


async def _ask(route: Route) -> str:
    channel, grant = await open_tunnel(route)
    await close(channel)
    return grant.bound_address[0]


class Listener:
    """A proxy that listens for one peer; `bind` makes it. An async context manager.

    Attributes:
        address: The (host, port) at the proxy to tell the peer.
        peer_address: The (host, port) of the peer, as the proxy says, once it is accepted.
    """

    def __init__(self, stream: Stream, address: HostPort, route: Route) -> None:
        self.address = address
        self.peer_address: HostPort | None = None
        self._stream = stream
        self._closed = False
        self._route = route
        self._guard = anyio.ResourceGuard("accepting from")
        # The second reply. Its flow is kept, so that what has come of it outlives a cancellation.
        self._flow = route.last.proxy.kind.next_reply(Command.BIND)
        self._step = next(self._flow)
        self._peer: HostPort | None = None

    async def accept(self) -> SocketStream | TLSStream:
        """Waits for the peer, which may have come long ago. It comes once.

        When it is cancelled, it can be called again, and nothing is lost.

        Returns:
            A stream of which nothing has been read that the peer sent.

        Raises:
            ReplyError: The proxy turned a peer away (REP 02), or gave up. It listens no more.
            ProtocolError: The proxy does not speak SOCKS5 as it should; `ProxyClosed` if it hung
                up. It listens no more.
            anyio.BusyResourceError: Another task waits for the peer.
            anyio.ClosedResourceError: The listener is closed, or the peer accepted before.
        """
        await anyio.lowlevel.checkpoint()
        with self._guard:
            if self.peer_address is not None:
                raise anyio.ClosedResourceError
            if self._peer is None:
                await self._second_reply()
            # A caller that has been cancelled in the same turn of the event loop as the reply came
            # might not get to use the stream. So it stays here for the next call.
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._check_open()
            self.peer_address = self._peer
            return self._stream

    async def _second_reply(self) -> None:
        self._check_open()
        try:
            with placed(self._route, "request"):
                while True:
                    try:
                        octets = await exchange(self._step, self._stream)
                    except ConnectionEnded as ended:
                        self._step = self._flow.throw(ended)
                    else:
                        self._step = self._flow.send(octets)
        except StopIteration as stop:
            host, port = self._peer = stop.value
            log(self._route, -1, f"accepted {host_port(host, port)!r}")
        except SocksError:
            self._check_open()
            self._closed = True
            await close(self._stream)
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError from None

    async def aclose(self) -> None:
        """Has the proxy listen no more. A stream that `accept` returned stays open."""
        if self.peer_address is None and not self._closed:
            self._closed = True
            await close(self._stream)
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Listener:
        return self

    async def __aexit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
