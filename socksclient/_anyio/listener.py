"""Awaited: a proxy that listens for one peer (BIND, RFC 1928 §4).

The proxy sends two replies. With the first one it says where it listens, and `bind` returns. With
the second one it says which peer has connected, and `Listener.accept` returns. From then on the
connection to the proxy carries what the peer sends.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

from socksclient._anyio.driver import open_stream
from socksclient._anyio.exchange import exchange
from socksclient._anyio.streams import Stream, close
from socksclient._net.bound_address import HasPeer, listening_at
from socksclient._net.log import log, placed
from socksclient.protocol.address import HostPort, host_port
from socksclient.protocol.codes import Command
from socksclient.protocol.exceptions import SocksError
from socksclient.protocol.flow import ConnectionEnded
from socksclient.protocol.proxy import ProxyLike, as_chain
from socksclient.protocol.route import Route

__all__ = ["Listener", "bind"]


async def bind(
    host: str, port: int, *, proxy: ProxyLike, local_host: str | None = None
) -> Listener:
    """Ask `proxy` to listen for one connection of a peer (BIND, RFC 1928 §4).

    The caller writes ``async with await bind(…) as listener``. There is no timeout argument: use
    `anyio.fail_after`.

    RFC 1928 intends BIND for a protocol such as FTP in its active mode, where the client has a
    connection to the server through the same proxy already. A proxy may insist on such a
    connection.

    Args:
        host: The host of the peer that the caller expects; mostly this is the destination of the
            other connection. Some proxies turn away every other host, and some accept any host.
            "0.0.0.0" with port 0 stands for any peer.
        port: The port of the peer, from 0 to 65535.
        proxy: The proxy's URL, or a `Proxy`; or a sequence of these, which is a chain, the
            nearest proxy first. The last proxy of the chain listens for the peer.
        local_host: The local IP address to connect to the nearest proxy from.

    Returns:
        A `Listener`. Its `address` is the (host, port) that the peer must connect to.

    Raises:
        ValueError: The host, the port, `local_host` or the proxy is not valid, or a hop cannot
            carry its request. Nothing has been sent.
        ReplyError: A proxy refused its request. Few proxies offer BIND; Dante does.
        ProtocolError: A proxy sent what its protocol does not allow; or no peer could connect to
            the address at which the proxy says that it listens, because the address is multicast
            or reserved, its port is 0, or it is the one at which the proxy serves SOCKS (3proxy
            0.9.6 to 1.0.0 replies so).
        SocksError: The other errors of `connect_tcp`.
    """
    # The address goes out as the caller wrote it. Dante understands 0.0.0.0 as any peer with IPv4,
    # and refuses :: (REP 03), so this function cannot choose the zeros for the caller.
    route = Route.through(as_chain(proxy), host, port, Command.BIND)
    stream, grant = await open_stream(route, local_host)
    try:
        with placed(route, "request"):
            sock: HasPeer = stream.extra(SocketAttribute.raw_socket)
            return Listener(stream, listening_at(sock, grant), route)
    except BaseException:
        await close(stream)
        raise


class Listener:
    """A proxy that listens for one peer, as `bind` returns it.

    A listener is an async context manager, which closes the listener at its end.

    Attributes:
        address: The (host, port) that the peer must connect to.
        peer_address: The (host, port) that the proxy says the peer has; None until `accept` has
            returned.
    """

    def __init__(self, stream: Stream, address: HostPort, route: Route) -> None:
        self.address = address
        self.peer_address: HostPort | None = None
        self._stream = stream
        self._closed = False
        self._route = route
        self._guard = anyio.ResourceGuard("accepting from")
        # The flow of the second reply. The listener keeps the flow and its step, so that octets
        # which came before a cancellation are not lost for the next call.
        self._flow = route.last.proxy.kind.next_reply(Command.BIND)
        self._step = next(self._flow)
        self._peer: HostPort | None = None

    async def accept(self) -> SocketStream | TLSStream:
        """Wait until the peer has connected to the proxy, and return the connection.

        The peer may have connected long before this call. A listener accepts one peer only, because
        a BIND request admits one connection. If this method is cancelled, the caller can call it
        again, and no octet is lost.

        Returns:
            A stream. Nothing has been read from the stream that the peer sent.

        Raises:
            ReplyError: The proxy turned a peer away (REP 02), or stopped waiting. The listener is
                closed.
            ProtocolError: The proxy sent what its protocol does not allow. The listener is closed.
            ProxyClosed: The proxy closed the connection, or reset it. The listener is closed.
            anyio.BusyResourceError: Another task waits in this method.
            anyio.ClosedResourceError: The listener is closed, or the peer has been accepted before.
        """
        await anyio.lowlevel.checkpoint()
        with self._guard:
            if self.peer_address is not None:
                raise anyio.ClosedResourceError
            if self._peer is None:
                await self._second_reply()
            # A caller that is cancelled in the same turn of the event loop in which the reply came
            # might never use the stream. So the stream stays here for the next call.
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._check_open()
            self.peer_address = self._peer
            return self._stream

    async def _second_reply(self) -> None:
        """Drive the flow of the second reply to its end, and keep the address of the peer."""
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
            # Another task may have closed the listener, which ended the wait of this task.
            self._check_open()
            self._closed = True
            await close(self._stream)
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError from None

    async def aclose(self) -> None:
        """Stop listening: close the connection to the proxy.

        A stream that `accept` has returned belongs to the caller, and stays open.
        """
        if self.peer_address is None and not self._closed:
            self._closed = True
            await close(self._stream)
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Listener:
        return self

    async def __aexit__(self, *_exc_info: object) -> None:
        await self.aclose()
