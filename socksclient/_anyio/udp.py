"""Awaited: UDP associations in the manner of `anyio`'s UDP sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any, cast

import anyio
import anyio.lowlevel
from anyio.abc import ConnectedUDPSocket, SocketAttribute, UDPSocket

from socksclient._anyio.driver import find_target, first_ready, open_tunnel
from socksclient._net.association import Association, Granted
from socksclient._net.relay import associate, bind_udp, close_all, routes_of
from socksclient._net.sockets import check_source
from socksclient.protocol.address import HostPort
from socksclient.protocol.proxy import ProxyLike, as_chain
from socksclient.protocol.route import NOT_KNOWN, Route

__all__ = ["ConnectedUDPAssociation", "UDPAssociation", "udp_associate"]


class _Awaited:
    """What both kinds of association do alike."""

    def __init__(self, association: Association) -> None:
        self._association = association

    @property
    def relay_address(self) -> HostPort:
        """The (host, port) at the proxy to which all datagrams go."""
        return self._association.relay_address

    @property
    def dropped(self) -> int:
        """How many datagrams came from the relay and were not delivered.

        Those were shorter than their header, fragments, not of RFC 1928's form, or not from where
        `UDPAssociation.connected` says.
        """
        return self._association.dropped

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """As of anyio's sockets; the remote address is the destination's, not the relay's."""
        udp, destination = self._association.udp, self._association.destination
        attributes: dict[Any, Callable[[], Any]] = {
            SocketAttribute.family: lambda: udp.family,
            SocketAttribute.local_address: lambda: udp.getsockname()[:2],
            SocketAttribute.local_port: lambda: udp.getsockname()[1],
            SocketAttribute.raw_socket: lambda: self._raw_socket,
        }
        if destination is not None:
            host, port = destination
            attributes[SocketAttribute.remote_address] = lambda: (host.text, port)
            attributes[SocketAttribute.remote_port] = lambda: port
        return attributes

    @property
    def _raw_socket(self) -> socket.socket:  # anyio's base classes ask for it
        return self._association.udp

    async def aclose(self) -> None:
        """Ends the association: the UDP socket and the connection to the proxy."""
        association = self._association
        if not association.closed:
            if association.pollable >= 0:
                anyio.notify_closing(association.pollable)
            anyio.notify_closing(association.udp)
            for control in association.controls:
                anyio.notify_closing(control)
            association.close()
        await anyio.lowlevel.checkpoint()

    async def _send(self, header: bytes, data: bytes) -> None:
        while True:
            self._check_open()
            try:
                self._association.send(header, data)
            except BlockingIOError:
                pass  # and waits outside of `except`: a cancellation is not to have it as context
            else:
                return
            await anyio.wait_writable(self._association.udp)

    async def _receive(self) -> tuple[bytes, HostPort]:
        association = self._association
        await anyio.lowlevel.checkpoint_if_cancelled()  # asyncio might receive before it cancels
        while True:
            self._check_open()
            # Wait before every datagram, so that garbage without end does not keep other tasks from
            # running.
            try:
                if association.pollable >= 0:
                    await anyio.wait_readable(association.pollable)
                else:
                    sockets = (association.udp, *association.controls)
                    await first_ready(anyio.wait_readable, sockets, None)
            except Exception:
                self._check_open()  # or else there was nothing to wait for
                raise
            self._check_open()
            try:
                received = association.receive(0xFFFF)
            except BlockingIOError:
                # A proxy sent something on its control connection, and there is no datagram.
                continue
            if received is not None:
                octets, header_size, source = received
                return octets[header_size:], source

    def _check_open(self) -> None:
        if self._association.closed:
            raise anyio.ClosedResourceError


class UDPAssociation(_Awaited, UDPSocket):
    """UDP through a proxy (RFC 1928 §7), as an `anyio.abc.UDPSocket`.

    `socksclient.anyio.udp_associate` makes it. It sends to and receives from any number of
    destinations, each with its own (host, port): IPv4, IPv6 and, with ``socks5h``, names, which
    the proxy resolves; with ``socks5`` a name is resolved here when it is first used.

    UDP promises no more through a proxy than without: datagrams get lost, doubled, reordered.

    The association lives by a TCP connection to the proxy. When the proxy ends that, a waiting
    receive is woken with `socksclient.AssociationClosed`, and so ends every later send and
    receive. Once closed here, they raise `anyio.ClosedResourceError`.
    """

    async def send(self, item: tuple[bytes, HostPort]) -> None:
        """Sends one datagram.

        Args:
            item: The payload, which may be empty, and the (host, port) of the destination.

        Raises:
            ValueError: Host or port cannot be.
            AssociationClosed: The proxy has ended the association.
            ResolveError: The name has no address (``socks5`` only).
            OSError: EMSGSIZE if it has more than 65,507 octets with its header, which takes 10
                (IPv4), 22 (IPv6) or 7 and the name's length; and what else the system says.
        """
        await anyio.lowlevel.checkpoint()
        data, address = item
        header = self._association.header_for(address)
        if header is None:
            route = Route.of_datagram(self._association.chain, *address)
            header = self._association.learn(address, await find_target(route))
        await self._send(header, data)

    async def receive(self) -> tuple[bytes, HostPort]:
        """Receives one datagram.

        Returns:
            The payload, and the (host, port) it came from, as the proxy says. A proxy may say the
            name that was sent to, or the address behind it.

        Raises:
            AssociationClosed: The proxy has ended the association.
            OSError: What else the system says.
        """
        return await self._receive()

    async def connected(self, host: str, port: int) -> ConnectedUDPAssociation:
        """The same association for one destination only.

        What others send is dropped from now on. Of a name that the proxy resolves only the port
        is known here, so it alone is compared, and the name if the proxy answers with one.

        Returns:
            An `anyio.abc.ConnectedUDPSocket`. Closing it ends the association.

        Raises:
            ValueError: Host or port cannot be.
            ResolveError: The name has no address (``socks5`` only).
        """
        await anyio.lowlevel.checkpoint()
        route = Route.of_datagram(self._association.chain, host, port)
        target = await find_target(route)
        self._check_open()
        self._association.connect(target)
        header = self._association.learn((host, port), target)
        return ConnectedUDPAssociation(self._association, header)


class ConnectedUDPAssociation(_Awaited, ConnectedUDPSocket):
    """A UDP association for one destination, as an `anyio.abc.ConnectedUDPSocket`."""

    def __init__(self, association: Association, header: bytes) -> None:
        super().__init__(association)
        self._header = header

    async def send(self, item: bytes) -> None:
        """Sends one datagram, as `UDPAssociation.send`.

        Raises:
            ConnectionRefusedError: Nobody listens at the destination, if the proxy passes that on
                as Dante does, or at the relay.
            OSError: As `UDPAssociation.send` does.
        """
        await anyio.lowlevel.checkpoint()
        await self._send(self._header, item)

    async def receive(self) -> bytes:
        """Receives one datagram of the destination, as `UDPAssociation.receive`.

        Raises:
            ConnectionRefusedError: As of `send`.
            OSError: As `UDPAssociation.receive` does.
        """
        octets, _ = await self._receive()
        return octets


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
        proxy: The proxy's URL, or a `Proxy`; or a chain of SOCKS5 proxies, each of which relays
            for the next.
        local_host: The local IP address to send from, which is told to the proxy; with None it is
            left open, as it must be behind a NAT.
        local_port: The port to send from, if `local_host` is given; 0 lets the system choose.
        trust_relay_address: Whether to send to where the proxy says that its relay is, and not to
            the address of the proxy itself, at the port that it says. When the relay is at a
            private address that is not the proxy's own, errors and the log (DEBUG) say so.

    Returns:
        An `anyio.abc.UDPSocket`.

    Raises:
        ValueError: The proxy, `local_host` or `local_port` is not valid, or a hop cannot relay
            UDP. Nothing has been sent.
        ReplyError: The proxy refused; many do not offer UDP.
        ProxyConnectError: The proxy or its relay cannot be reached, this system cannot send from
            `local_host` and `local_port` (EADDRNOTAVAIL, EADDRINUSE, EACCES), or it cannot make
            the UDP socket or what waits for it (EAFNOSUPPORT without IPv6, EMFILE). `errno` says
            which.
        ProtocolError: The proxy does not speak as it should, or the relay's address is a multicast
            or reserved address or a name, or its port is 0; nothing has been sent there.
            `ProxyClosed` if the proxy hung up.
        AuthenticationError: The proxy accepts no method offered, or not the credentials.
    """
    chain = as_chain(proxy)
    check_source(local_host)
    udp = None
    source = NOT_KNOWN
    if local_host is not None:
        udp = bind_udp(chain, (local_host, local_port))
        source = udp.getsockname()[:2]
    granted: list[Granted] = []
    try:
        for route in routes_of(chain, source):
            control, grant = await open_tunnel(route)
            granted.append(Granted(route, cast("socket.socket", control), grant))
    except BaseException:
        close_all(udp, granted)
        raise
    association = associate(granted, udp, trust_relay_address)
    return UDPAssociation(association)
