"""Awaited: the connection of a tunnel, which is a bare socket first and a stream with TLS.

`socksclient._sync.tls` is the blocking counterpart: there, the connection is a socket in any case.
"""

from __future__ import annotations

import errno
import ssl
from contextlib import suppress
from typing import TypeAlias, TypeVar

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream, UNIXSocketStream
from anyio.streams.tls import TLSAttribute, TLSStream

from socksclient._net.sockets import PlainSocket, is_internet
from socksclient._net.tls import context_of, server_name, tls_failure
from socksclient.protocol.proxy import Proxy

Stream: TypeAlias = SocketStream | TLSStream
Channel: TypeAlias = PlainSocket | Stream
"""The connection of a tunnel: a non-blocking socket or, with TLS, a stream."""
AnyChannel = TypeVar("AnyChannel", bound=Channel)


async def as_stream(channel: Channel) -> Stream:
    """Return a connection as a stream.

    Raises:
        ConnectionResetError: The connection has ended.
    """
    if not isinstance(channel, PlainSocket):
        return channel
    try:
        if is_internet(channel.family):
            return await SocketStream.from_socket(channel)
        return await UNIXSocketStream.from_socket(channel)
    except ValueError as error:
        # With this error anyio refuses a socket that is not connected any more.
        raise ConnectionResetError(errno.ECONNRESET, "the connection has ended") from error


async def start_tls(stream: Stream, proxy: Proxy) -> TLSStream:
    """Return a stream that speaks TLS with a proxy over `stream`.

    Raises:
        ProxyConnectError: The TLS handshake failed.
    """
    try:
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=server_name(proxy.host),
            ssl_context=context_of(proxy),
            # Many servers end the connection without the closing handshake of TLS, which an
            # SSLSocket tolerates too.
            standard_compatible=False,
        )
    except (OSError, ValueError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise tls_failure(error) from error


def ssl_object_of(channel: Channel) -> ssl.SSLObject | None:
    """Return the SSL object of a stream with TLS, or None for every other connection.

    uvloop answers no question about a connection that has failed. So the driver asks for the object
    while the connection is good.
    """
    # A stream of uvloop raises an AttributeError if the connection has ended.
    with suppress(AttributeError):
        if not isinstance(channel, PlainSocket):
            return channel.extra(TLSAttribute.ssl_object, None)
    return None


async def handed_over(channel: AnyChannel) -> AnyChannel:
    """Return a new connection, or close the connection if the task has been cancelled meanwhile.

    A task that is cancelled in the same turn of the event loop in which its wait ends goes on until
    it waits again. If the caller waits before it has put the connection where it will be closed,
    the connection stays open: httpcore's pool does so, and loses the place of the connection too.
    """
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
    except BaseException:
        await close(channel)
        raise
    return channel


async def close(channel: Channel) -> None:
    """Close a connection at once, without the closing handshake of TLS."""
    if isinstance(channel, PlainSocket):
        channel.close()
    else:
        await anyio.aclose_forcefully(channel)
