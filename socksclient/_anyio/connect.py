"""Awaited: connect through a proxy, in the manner of `anyio.connect_tcp`."""

from __future__ import annotations

import socket
import ssl
from typing import Literal, cast, overload

from anyio.abc import SocketStream
from anyio.streams.tls import TLSStream

from socksclient._anyio.driver import open_stream, open_tunnel
from socksclient._anyio.streams import close, handed_over
from socksclient._net.sockets import refuse_tls
from socksclient._net.tls import server_name
from socksclient.protocol.proxy import ProxyLike, as_chain
from socksclient.protocol.route import Route

__all__ = ["connect_socket", "connect_tcp"]


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
    """Connect to `host` through `proxy`, in the manner of `anyio.connect_tcp`.

    There is no timeout argument: use `anyio.fail_after`. Where the proxy's own name has several
    addresses, this function races them (RFC 8305). It repeats no request that a proxy has answered,
    except for the next address of a name that it resolves itself, and it never connects to the
    destination directly.

    Args:
        host: The host of the destination. With ``socks5h``, ``socks4a`` and ``http`` the proxy gets
            a host name as it is, and this process never resolves the name. With ``socks5`` and
            ``socks4`` this process resolves the name, and asks the proxy for the first address. If
            the proxy refuses that address or hangs up, this process asks for the next address, on a
            new connection. REP 07 (RFC 1928 §6) ends this, because with REP 07 the proxy would
            refuse every address.
        port: The port of the destination, from 1 to 65535.
        proxy: The proxy's URL, or a `Proxy`; or a sequence of these, which is a chain, the
            nearest proxy first.
        local_host: The local IP address to connect to the nearest proxy from.
        tls: Whether to speak TLS with the destination. If `ssl_context` or `tls_hostname` is given,
            this function speaks TLS in any case.
        ssl_context: The context for TLS with the destination, in place of a default one.
        tls_hostname: The name to check the destination's certificate against, in place of `host`.
            TLS gets either name without a dot at its end (RFC 6066 §3).
        tls_standard_compatible: Whether TLS ends with its closing handshake. Many HTTP servers send
            none, so HTTP clients pass False.

    Returns:
        A stream. Nothing has been read from the stream that the destination sent. The stream is a
        `TLSStream` if there is TLS with the destination, and also if a hop speaks TLS.

    Raises:
        ValueError: The destination, `local_host` or the proxy is not valid, or a hop cannot carry
            its request. Nothing has been sent.
        TypeError: An argument has a wrong type, such as a host that is not a str. Nothing has been
            sent.
        ProxyConnectError: The name of the nearest proxy does not resolve, the nearest proxy cannot
            be reached (from `local_host`), or TLS with a proxy failed.
        ResolveError: The destination's name has no address that the proxy can be asked for
            (``socks5`` and ``socks4`` only).
        ProtocolError: A proxy sent what its protocol does not allow.
        ProxyClosed: A proxy closed the connection, or reset it, before the end of its reply. This
            is a `ProtocolError`.
        AuthenticationError: A proxy accepted none of the methods offered, or refused the
            credentials.
        ReplyError: A proxy refused its request. `reply` is the code of the reply.
        ssl.SSLError: TLS with the destination failed.
        anyio.BrokenResourceError: The destination hung up in its TLS handshake.
        Exception: A `Method` of the caller's own raised this exception.
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
    """Connect to `host` through `proxy`, and return a socket for another library.

    Many libraries take a connected socket: ``asyncio.open_connection(sock=…)``,
    `trio.SocketStream`, asyncssh, websockets. There is no timeout argument: use `anyio.fail_after`.

    Args:
        host: The host of the destination, as in `connect_tcp`.
        port: The port of the destination, from 1 to 65535.
        proxy: The proxy's URL, or a `Proxy`; or a sequence of these, which is a chain, the
            nearest proxy first. No hop may speak TLS.
        local_host: The local IP address to connect to the nearest proxy from.

    Returns:
        A connected, non-blocking, plain socket. Nothing has been read from the socket that the
        destination sent.

    Raises:
        ValueError: The destination, `local_host` or the proxy is not valid, a hop cannot carry its
            request, or a hop speaks TLS, which a plain socket cannot. Nothing has been sent.
        SocksError: The other errors of `connect_tcp`.
    """
    chain = as_chain(proxy)
    refuse_tls(chain, "the socket of connect_socket", "connect_tcp")
    sock, _ = await open_tunnel(Route.through(chain, host, port), local_host)
    return cast("socket.socket", sock)
