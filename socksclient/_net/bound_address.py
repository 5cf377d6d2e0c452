"""Where a proxy listens for a peer or relays datagrams, by the bound address of its reply."""

from __future__ import annotations

import ipaddress
from typing import Any, Protocol

from socksclient.protocol.address import (
    Host,
    HostPort,
    IPAddress,
    SocketAddress,
    host_port,
    without_mapping,
)
from socksclient.protocol.exceptions import ProtocolError, ProxyClosed
from socksclient.protocol.steps import Grant

__all__ = ["HasPeer", "listening_at", "reachable"]

_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")
"""Addresses that can only be the source of a packet (RFC 1122 §3.2.1.3)."""

_RESERVED_BUT_USED = (
    # NAT64 writes IPv4 addresses in this form (RFC 6052 §2.1, RFC 8215).
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    # The overlay network Yggdrasil uses these addresses.
    ipaddress.ip_network("200::/7"),
)
"""Networks that `ipaddress` calls reserved, although hosts have such addresses."""


class HasPeer(Protocol):
    """A socket, or an object that tells the other end of a connection as a socket does."""

    def getpeername(self) -> Any:
        """Return the address of the other end of the connection."""


def reachable(control: HasPeer, grant: Grant, trust: bool = True) -> tuple[Host, SocketAddress]:
    """Return where a proxy listens or relays: the host, and the address as sockets have it.

    That is the bound address of the proxy's reply. If its host is unspecified or must not be
    trusted, the proxy's own host takes its place (RFC 1928 §6).

    Args:
        control: The connection to the nearest hop.
        grant: What the proxy has granted.
        trust: Whether the host of the bound address counts.

    Raises:
        ProtocolError: The port is 0, the host is no valid name, or it is an address that no host
            can have: a multicast, broadcast or reserved one.
        ProxyClosed: The proxy has reset the connection already.
    """
    host, port = grant.bound_address
    # simple-socks replies "succeeded" with port 0, and then hangs up.
    if port == 0:
        raise ProtocolError("the proxy granted the request, but its bound address has port 0")
    if trust:
        try:
            bound = Host.parse(host)
        except ValueError as error:
            raise ProtocolError(f"the bound address is not valid: {error}") from None
        if not bound.is_unspecified:
            if bound.ip is not None and not _is_of_a_host(bound.ip):
                text = "the proxy granted the request, but no host can have its bound address"
                raise ProtocolError(f"{text}, {bound}")
            return bound, (bound.text, port)
    if grant.own_address is not None:
        return Host.of(grant.own_address[0]), (grant.own_address[0], port)
    peer = _peer_of(control)
    # A proxy at a unix socket is on this machine.
    if peer is None:
        own = Host.of("::1" if ":" in host else "127.0.0.1")
        return own, (own.text, port)
    proxy_host, _, *zone = peer
    return Host.of(proxy_host), (proxy_host, port, *zone)


def _peer_of(control: HasPeer) -> tuple[Any, ...] | None:
    """Return the address at which this process reaches the nearest hop; None for a unix socket.

    Raises:
        ProxyClosed: The proxy has reset the connection already.
    """
    try:
        peer = control.getpeername()
    except OSError as error:
        raise ProxyClosed.broken(error, b"") from error
    if not isinstance(peer, tuple):
        return None
    host, port, *zone = peer
    # An IPv6 socket returns an IPv4-mapped address if the caller wrote the proxy's address so.
    plain = without_mapping(host)
    return (plain, port) if plain != host else (host, port, *zone)


def _is_of_a_host(ip: IPAddress) -> bool:
    """Return whether one host can have the IP address: it is neither multicast nor reserved."""
    if ip.is_multicast or ip in _THIS_NETWORK:
        return False
    # `ipaddress` calls ::1 reserved.
    used = ip.is_loopback or any(ip in network for network in _RESERVED_BUT_USED)
    return used or not ip.is_reserved


def listening_at(control: HasPeer, grant: Grant) -> HostPort:
    """Return where a proxy listens for the peer after BIND.

    Args:
        control: The connection to the nearest hop.
        grant: What the proxy has granted with its first reply.

    Raises:
        ProtocolError: `reachable` refuses the address, or the address is the one at which the proxy
            serves SOCKS, where no peer comes through (3proxy 0.9.6 to 1.0.0 replies so).
        ProxyClosed: The proxy has reset the connection already.
    """
    _, (host, port, *_) = reachable(control, grant)
    own = grant.own_address or _peer_of(control)
    if own is not None and port == own[1] and _plain(host) == _plain(own[0]):
        where = host_port(host, port)
        raise ProtocolError(
            f"the proxy granted BIND, but says that it listens for the peer at {where}, which is"
            " where it serves SOCKS: a peer that connects there does not come through (3proxy"
            " 0.9.6 to 1.0.0 does this)"
        )
    return host, port


def _plain(host: str) -> str:
    """Return a host in the form to compare: without a zone id, and IPv4 where IPv6 maps it."""
    return without_mapping(host.partition("%")[0])
