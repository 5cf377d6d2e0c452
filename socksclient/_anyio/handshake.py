"""`handshake`, for a program that has a connection to the proxy already."""

from __future__ import annotations

from contextlib import closing
from typing import Any, TypeVar, cast

import anyio.lowlevel
from anyio.abc import ByteStream, SocketStream
from anyio.streams.tls import TLSStream

from socksclient._anyio.driver import Driver
from socksclient._net.log import report_to
from socksclient._net.sockets import the_one_proxy
from socksclient.protocol import tunnel
from socksclient.protocol.address import HostPort
from socksclient.protocol.proxy import Proxy
from socksclient.protocol.route import Route

__all__ = ["handshake"]

T = TypeVar("T")


async def handshake(stream: ByteStream, host: str, port: int, *, proxy: str | Proxy) -> HostPort:
    """Ask a proxy for a connection to (host, port), on a connection to the proxy that is open.

    The function neither opens nor closes anything. When it has returned, `stream` leads to the
    destination, and every octet that the destination sent is still unread. After an error or a
    cancellation, the connection is of no more use, and the caller closes it. There is no timeout
    argument: use `anyio.fail_after`.

    With ``socks5`` and ``socks4`` this process resolves the host, and the proxy is asked for the
    first address only, because another address needs another connection.

    Args:
        stream: The connection to the proxy: any `anyio.abc.ByteStream`.
        host: The destination: a name or an IP address.
        port: The port of the destination, from 1 to 65535.
        proxy: The proxy's URL, or a `Proxy`, for its protocol and the credentials. Its host and
            port count for the texts of errors only. If the proxy speaks TLS, `stream` does so
            already, and the URL says nothing about TLS.

    Returns:
        The bound address (BND.ADDR and BND.PORT), as (host, port). HTTP names none: it is
        ("0.0.0.0", 0).

    Raises:
        ValueError: The destination or the proxy is not valid, the proxy's protocol cannot carry the
            request, or the URL asks for TLS. Nothing has been sent.
        ResolveError: The destination's name has no address (``socks5`` and ``socks4`` only).
        ProtocolError: The proxy sent what its protocol does not allow.
        ProxyClosed: The proxy closed the connection, or reset it, before the end of its reply.
        AuthenticationError: The proxy accepts no method that was offered, or it refused the
            credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
        anyio.ClosedResourceError: `stream` is closed.
    """
    route = Route.on_connection(the_one_proxy(proxy), host, port)
    await anyio.lowlevel.checkpoint()
    channel = stream if isinstance(stream, SocketStream | TLSStream) else _Foreign(stream)
    with closing(tunnel.handshake(route, report_to(route, None))) as steps:
        return await Driver(cast("SocketStream", channel)).run(steps)


class _Foreign:
    """A stream of another library. It may take bytes only."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def send(self, item: memoryview) -> None:
        await self._stream.send(bytes(item))

    async def receive(self, max_bytes: int) -> bytes:
        return await self._stream.receive(max_bytes)

    def extra(self, attribute: Any, default: T) -> T:
        value: T = self._stream.extra(attribute, default)
        return value
