"""Awaited: connections, listeners and associations in the manner of `anyio`.

It runs on asyncio (uvloop too) and trio. Nothing here has a timeout: use `anyio.fail_after`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import anyio
import anyio.lowlevel
from anyio.streams.tls import TLSStream

from socksclient.anyio_driver import NO_DELAY, exchange, open_stream, open_tunnel, targets, wrap
from socksclient.anyio_udp import ConnectedUDPAssociation, UDPAssociation
from socksclient.association import associate, bind_udp
from socksclient.attempt import NOT_KNOWN, Attempt
from socksclient.exceptions import SocksError, host_port
from socksclient.flows import reply
from socksclient.proxy import ProxyLike, as_proxy
from socksclient.sockets import check_source, reachable
from socksclient.wire import Command

if TYPE_CHECKING:
    import socket
    import ssl
    from types import TracebackType

    from anyio.abc import SocketStream

__all__ = [
    "ConnectedUDPAssociation",
    "Listener",
    "UDPAssociation",
    "bind",
    "connect_socket",
    "connect_tcp",
    "udp_associate",
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
) -> SocketStream: ...


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
        host: The destination. With ``socks5h`` a host name goes to the proxy as it is and is
            never resolved here; with ``socks5`` it is resolved here, and its addresses are tried
            in order.
        port: 1 to 65535.
        proxy: The proxy's URL, or a `Proxy`.
        local_host: The local IP address to connect to the proxy from.
        tls: Whether to speak TLS with the destination; so it is with one of the next two given.
        ssl_context: The context to use, in place of a default one.
        tls_hostname: The name to verify the destination's certificate against, in place of `host`.
        tls_standard_compatible: Whether TLS ends with its closing handshake; False for HTTP.

    Returns:
        A stream of which nothing has been read that the destination sent.

    Raises:
        ValueError: The destination or the proxy cannot be; nothing has been sent.
        ProxyConnectError: The proxy cannot be reached.
        ResolveError: The destination's name has no address (``socks5`` only).
        ProtocolError: The peer does not speak SOCKS5 as it should; `ProxyClosed` if it hung up.
        AuthenticationError: The proxy accepts no method offered, or not the credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
        ssl.SSLError: TLS with the destination failed.
        anyio.BrokenResourceError: The destination hung up in its TLS handshake.
    """
    attempt = Attempt(as_proxy(proxy), host, port)
    stream = await open_stream(attempt, local_host)
    if not (tls or ssl_context or tls_hostname):
        return stream
    try:
        return await TLSStream.wrap(
            stream,
            server_side=False,
            hostname=tls_hostname or attempt.target[0],
            ssl_context=ssl_context,
            standard_compatible=tls_standard_compatible,
        )
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


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
        ValueError: As `connect_tcp` does, and so the others.
        ProxyConnectError: The proxy cannot be reached.
        ResolveError: The destination's name has no address (``socks5`` only).
        ProtocolError: The peer does not speak SOCKS5 as it should; `ProxyClosed` if it hung up.
        AuthenticationError: The proxy accepts no method offered, or not the credentials.
        ReplyError: The proxy refused the request; `reply` is its code.
    """
    sock, _ = await open_tunnel(Attempt(as_proxy(proxy), host, port), local_host)
    return sock


async def bind(
    host: str, port: int, *, proxy: ProxyLike, local_host: str | None = None
) -> Listener:
    """Has `proxy` listen for one connection of a peer (BIND, RFC 1928 §4).

    As `socksclient.bind`; used as ``async with await bind(…) as listener``.

    Args:
        host: The peer that is expected; "0.0.0.0" with port 0 is anyone.
        port: Its port, from 0 to 65535.
        proxy: The proxy's URL, or a `Proxy`.
        local_host: The local IP address to connect to the proxy from.

    Returns:
        A `Listener`; its `address` is where the peer is to connect to.

    Raises:
        ValueError: As `connect_tcp` does, and so the others.
        ReplyError: The proxy refused; few offer BIND, Dante does.
    """
    # Dante takes 0.0.0.0 for any peer of IPv4 only, and refuses :: (REP 03).
    attempt = Attempt(as_proxy(proxy), host, port, Command.BIND)
    sock, bound_address = await open_tunnel(attempt, local_host, [NO_DELAY])
    try:
        with attempt:
            host, port, *_ = reachable(sock, bound_address)
            return Listener(sock, (host, port), attempt)
    except BaseException:
        sock.close()
        raise


async def udp_associate(
    *,
    proxy: ProxyLike,
    local_host: str | None = None,
    local_port: int = 0,
    trust_relay_address: bool = True,
) -> UDPAssociation:
    """Has `proxy` relay UDP datagrams (UDP ASSOCIATE, RFC 1928 §7).

    As `socksclient.udp_associate`; used as ``async with await udp_associate(…) as udp``.

    Args:
        proxy: The proxy's URL, or a `Proxy`.
        local_host: The local IP address to send from, which is told to the proxy; with None it is
            left open, as it must be behind a NAT.
        local_port: The port to send from, if `local_host` is given; 0 lets the system choose.
        trust_relay_address: Whether to send to where the proxy says that its relay is, and not to
            the address of the proxy itself, at the port that it says.

    Returns:
        An `anyio.abc.UDPSocket`.

    Raises:
        ValueError: As `connect_tcp` does, and so the others.
        ReplyError: The proxy refused; many do not offer UDP.
        ProxyConnectError: The proxy cannot be reached, or its relay.
    """
    hop = as_proxy(proxy)
    check_source(local_host)
    udp = None
    source = NOT_KNOWN
    if local_host is not None:
        udp = bind_udp((local_host, local_port))
        source = udp.getsockname()[:2]
    try:
        attempt = Attempt(hop, *source, Command.UDP_ASSOCIATE)
        control, bound_address = await open_tunnel(attempt)
    except BaseException:
        if udp is not None:
            udp.close()
        raise
    association = associate(attempt, control, bound_address, udp, trust_relay_address)

    async def resolve(host: str, port: int) -> tuple[str, int]:
        attempt = Attempt(hop, host, port)
        with attempt:
            return (await targets(attempt))[0]

    return UDPAssociation(association, resolve)


class Listener:
    """A proxy that listens for one peer; `bind` makes it. An async context manager.

    Attributes:
        address: The (host, port) at the proxy to tell the peer.
        peer_address: The (host, port) of the peer, as the proxy says, once it is accepted.
    """

    def __init__(self, sock: socket.socket, address: tuple[str, int], attempt: Attempt) -> None:
        self.address = address
        self.peer_address: tuple[str, int] | None = None
        self._sock = sock
        self._attempt = attempt
        self._guard = anyio.ResourceGuard("accepting from")
        # The second reply. Its flow is kept, so that what has come of it outlives a cancellation.
        self._flow = reply(Command.BIND)
        self._step = next(self._flow)

    async def accept(self) -> SocketStream:
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
            if self.peer_address is not None or self._sock.fileno() < 0:
                raise anyio.ClosedResourceError
            try:
                with self._attempt:
                    self.peer_address = await self._second_reply()
            except SocksError:
                if self._sock.fileno() < 0:  # in another task, just when something had come
                    raise anyio.ClosedResourceError from None
                self._sock.close()
                raise
        with anyio.CancelScope(shield=True):  # it waits for nobody, and the peer is here
            stream = await wrap(self._attempt, self._sock)
        return stream  # noqa: RET504 - within, mypy would have the scope swallow exceptions

    async def _second_reply(self) -> tuple[str, int]:
        try:
            while True:
                self._step = self._flow.send(await exchange(self._step, self._sock))
        except StopIteration as stop:
            peer: tuple[str, int] = stop.value
            self._attempt.log(f"accepted {host_port(*peer)!r}")
            return peer

    async def aclose(self) -> None:
        """Has the proxy listen no more. A stream that `accept` returned stays open."""
        if self.peer_address is None and self._sock.fileno() >= 0:
            anyio.notify_closing(self._sock)
            self._sock.close()
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
