"""The two classes of awaited UDP associations, in the manner of anyio's UDP sockets."""

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
    """The part that both kinds of association have in common."""

    def __init__(self, association: Association) -> None:
        self._association = association

    @property
    def relay_address(self) -> HostPort:
        """The (host, port) at the proxy to which all datagrams go."""
        return self._association.relay_address

    @property
    def dropped(self) -> int:
        """How many datagrams have come from the relay and were not delivered.

        An association drops a datagram that is shorter than its header, that is a fragment, whose
        header has no form of RFC 1928, or whose source is not the destination of
        `UDPAssociation.connected`.
        """
        return self._association.dropped

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes that anyio's UDP sockets have.

        The remote address and port are those of the connected destination, and not of the relay.
        """
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

    # anyio's base classes ask for this attribute.
    @property
    def _raw_socket(self) -> socket.socket:
        return self._association.udp

    async def aclose(self) -> None:
        """End the association: close the UDP socket and the control connections.

        A task that waits in the association then raises `anyio.ClosedResourceError`.
        """
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
                pass
            else:
                return
            # This task waits outside of `except`, so that a cancellation does not have the
            # BlockingIOError as its context.
            await anyio.wait_writable(self._association.udp)

    async def _receive(self) -> tuple[bytes, HostPort]:
        association = self._association
        # Without this, asyncio might receive a datagram before it delivers the cancellation.
        await anyio.lowlevel.checkpoint_if_cancelled()
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
                # If another task has closed the association, there was nothing to wait for.
                self._check_open()
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

    `socksclient.anyio.udp_associate` makes it. An association sends to and receives from any number
    of destinations: IPv4 addresses, IPv6 addresses and names. With ``socks5h`` the proxy resolves a
    name; with ``socks5`` this process resolves the name when the name is first used.

    UDP promises no more through a proxy than without one: datagrams can be lost, doubled or
    reordered.

    The association lasts as long as its control connection, a TCP connection to the proxy. When the
    proxy ends that connection, a waiting receive raises `socksclient.AssociationClosed`, and so
    does every later send and receive. When this process has closed the association, they raise
    `anyio.ClosedResourceError`.
    """

    async def send(self, item: tuple[bytes, HostPort]) -> None:
        """Send one datagram.

        Args:
            item: The payload, which may be empty, and the (host, port) of the destination. With its
                header the payload has at most 65,507 octets. The header has 10 octets for an IPv4
                address, 22 for an IPv6 address, and 7 more than the name for a name. A chain adds a
                header for each further hop.

        Raises:
            ValueError: The host or the port is not valid. Nothing has been sent.
            AssociationClosed: The proxy has ended the association.
            anyio.ClosedResourceError: This process has closed the association.
            ResolveError: The name has no address (``socks5`` only).
            OSError: The datagram is too long (EMSGSIZE), or the system reports another error.
        """
        await anyio.lowlevel.checkpoint()
        data, address = item
        header = self._association.header_for(address)
        if header is None:
            route = Route.of_datagram(self._association.chain, *address)
            header = self._association.learn(address, await find_target(route))
        await self._send(header, data)

    async def receive(self) -> tuple[bytes, HostPort]:
        """Receive the next good datagram, and drop the bad ones before it.

        Returns:
            The payload and its source, a (host, port). The proxy says what the source is. If the
            caller has sent to a name, the proxy may give that name or its address.

        Raises:
            AssociationClosed: The proxy has ended the association.
            anyio.ClosedResourceError: This process has closed the association.
            anyio.BusyResourceError: Another task receives already.
            OSError: The system reports another error.
        """
        return await self._receive()

    async def connected(self, host: str, port: int) -> ConnectedUDPAssociation:
        """Return the same association for one destination only.

        From now on, the association drops the datagrams of other sources. If the proxy resolves the
        name `host`, this process does not know the address behind that name. It then compares the
        port only, and also the name if the proxy gives a name as the source.

        Args:
            host: The host of the destination: a name or an IP address.
            port: The port of the destination.

        Returns:
            An `anyio.abc.ConnectedUDPSocket`. Closing it ends the association.

        Raises:
            ValueError: The host or the port is not valid.
            ResolveError: The name has no address (``socks5`` only).
            anyio.ClosedResourceError: This process has closed the association.
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
        """Send one datagram to the destination, otherwise as `UDPAssociation.send` does.

        Args:
            item: The payload, which may be empty.

        Raises:
            AssociationClosed: The proxy has ended the association.
            anyio.ClosedResourceError: This process has closed the association.
            ConnectionRefusedError: Nobody listens at the relay; or nobody listens at the
                destination, and the proxy says so, as Dante does.
            OSError: The datagram is too long (EMSGSIZE), or the system reports another error.
        """
        await anyio.lowlevel.checkpoint()
        await self._send(self._header, item)

    async def receive(self) -> bytes:
        """Receive the next datagram of the destination, and drop all others before it.

        Raises:
            AssociationClosed: The proxy has ended the association.
            anyio.ClosedResourceError: This process has closed the association.
            anyio.BusyResourceError: Another task receives already.
            ConnectionRefusedError: Nobody listens at the relay; or nobody listens at the
                destination, and the proxy says so, as Dante does.
            OSError: The system reports another error.
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
    """Ask a proxy to relay UDP datagrams (UDP ASSOCIATE, RFC 1928 §7).

    Use the result as a context manager: ``async with await udp_associate(...) as udp``.

    Args:
        proxy: The proxy's URL, or a `Proxy`; or a chain of SOCKS5 proxies, the nearest hop first,
            each of which relays for the next.
        local_host: The IP address to send from. This process tells the proxy the address, and
            some proxies then relay the datagrams of no other address. By default this process tells
            the proxy that the address is not known, which is right behind a NAT.
        local_port: The port to send from, which counts only together with `local_host`; 0 lets the
            system choose.
        trust_relay_address: Whether to send to the address at which the proxy says that its relay
            is. If not, datagrams go to the proxy's own address, at the port of the relay. When a
            relay has a private address that is not the proxy's own, errors and the log (DEBUG) say
            so.

    Returns:
        A `UDPAssociation`, which is an `anyio.abc.UDPSocket`.

    Raises:
        ValueError: The proxy, `local_host` or `local_port` is not valid, or a hop cannot relay UDP.
            Nothing has been sent.
        ReplyError: A proxy refused the request. Many proxies do not offer UDP.
        ResolveError: A hop with the scheme ``socks5`` needs the address of the next hop, and this
            process has found none.
        ProxyConnectError: The proxy or its relay cannot be reached, this system cannot send from
            `local_host` and `local_port` (EADDRNOTAVAIL, EADDRINUSE, EACCES), or this system cannot
            make the UDP socket or its epoll (EAFNOSUPPORT without IPv6, EMFILE). `errno` says
            which.
        ProtocolError: A proxy sent what SOCKS5 does not allow; or no relay can be at the bound
            address, because its port is 0, or its host is a name, or no host can have the address.
            Nothing has been sent to the relay.
        ProxyClosed: A proxy closed the connection, or reset it, before the end of its reply.
        AuthenticationError: A proxy accepts no method that was offered, or it refused the
            credentials.
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
