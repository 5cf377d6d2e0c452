"""Where the relays of a UDP association are, and how to begin an association with them.

Through a chain, each hop grants an association of its own, on a control connection through the hops
before it. `routes_of` says which requests to make. When the hops have granted them, `associate`
finds the relay of each hop by the bound address of its reply, and makes the `Association`.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from socksclient._net.association import Association, Granted
from socksclient._net.bound_address import reachable
from socksclient._net.log import log, placed
from socksclient._net.sockets import PlainSocket, family_of
from socksclient.protocol.address import Host, HostPort, host_port, parse_port
from socksclient.protocol.codes import Command
from socksclient.protocol.exceptions import ProtocolError, ProxyClosed, ProxyConnectError
from socksclient.protocol.route import NOT_KNOWN, Route

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from socksclient.protocol.address import SocketAddress
    from socksclient.protocol.proxy import Chain
    from socksclient.protocol.steps import Grant

_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            # RFC 1918
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            # RFC 4193
            "fc00::/7",
            # link-local: RFC 3927, RFC 4291
            "169.254.0.0/16",
            "fe80::/10",
            # loopback
            "127.0.0.0/8",
            "::1/128",
        ),
    )
)
"""Networks whose addresses may belong to one host at the proxy and to another one here."""

_INSTEAD = "with trust_relay_address=False, datagrams go to the proxy's own address"


def bind_udp(chain: Chain, local_address: HostPort) -> socket.socket:
    """Return a UDP socket bound to the address to send from, for an association of `chain`.

    Args:
        chain: The hops of the association. Errors name the nearest hop.
        local_address: The (IP address, port). With port 0 the system chooses the port.

    Raises:
        ValueError: The port is not an integer from 0 to 65535, or the nearest hop cannot relay UDP.
        ProxyConnectError: The system has no such address, the port is taken, or the system cannot
            make the socket; `errno` says which.
    """
    host, port = local_address[0], parse_port(local_address[1], least=0)
    route = Route.through(chain[:1], *NOT_KNOWN, Command.UDP_ASSOCIATE)
    where = host_port(host, port)
    with placed(route, "connect"), _explained(f"send datagrams from {where}"):
        udp = PlainSocket(family_of(host), socket.SOCK_DGRAM)
        try:
            udp.bind((host, port))
        except BaseException:
            udp.close()
            raise
    return udp


def routes_of(chain: Chain, source: HostPort) -> list[Route]:
    """Return the routes to an association with each hop, the nearest hop first.

    Args:
        chain: The hops. Each hop is reached through those before it.
        source: The (IP address, port) that this process sends datagrams from; `NOT_KNOWN` if that
            is open. Only the nearest hop is told. The other hops see the outer address of the relay
            before them, which this process does not know.

    Raises:
        ValueError: A hop cannot relay UDP.
    """
    sources = [source] + [NOT_KNOWN] * (len(chain) - 1)
    return [
        Route.through(chain[: number + 1], *announced, Command.UDP_ASSOCIATE)
        for number, announced in enumerate(sources)
    ]


def associate(
    granted: Sequence[Granted], udp: socket.socket | None, trust_relay_address: bool
) -> Association:
    """Return the association that the hops have granted. A failure closes all sockets.

    Args:
        granted: The associations that the hops have granted, the nearest hop first.
        udp: The socket to send from, if the caller has bound one. Otherwise this function makes one
            of the relay's family, which may differ from the family of the control connection:
            Dante takes the family of its relay from DST.ADDR.
        trust_relay_address: Whether the relay is at the host of the bound address. Otherwise the
            relay is at the proxy's own host, and at the port of the bound address.

    Raises:
        ProtocolError: The bound address in a hop's reply is no address that a relay can have.
        ProxyClosed: The nearest hop has reset its control connection already.
        ProxyConnectError: The system cannot make the UDP socket or its epoll, or cannot connect the
            socket to the relay; `errno` says why.
    """
    try:
        relays = [_relay_of(*one, trust_relay_address) for one in granted]
        hints = [advice_about(one, *relay) for one, relay in zip(granted, relays, strict=True)]
        _, nearest = relays[0]
        where = host_port(*nearest[:2])
        family = family_of(nearest[0])
        with placed(granted[0].route, "relay"):
            if udp is None:
                with _explained(f"make a UDP socket for the relay, {where}", hints[0]):
                    udp = PlainSocket(family, socket.SOCK_DGRAM)
            udp.setblocking(False)
            with _explained(f"reach the relay, {where}", hints[0]):
                if udp.family != family:
                    raise OSError(
                        errno.EAFNOSUPPORT,
                        "local_address has another address family than the relay",
                    )
                udp.connect(nearest)
            with _explained(f"wait for datagrams of the relay, {where}"):
                targets = [(host, address[1]) for host, address in relays]
                advice = next(filter(None, hints), "")
                return Association(granted, udp, targets, advice)
    except BaseException:
        close_all(udp, granted)
        raise


def close_all(udp: socket.socket | None, granted: Iterable[Granted]) -> None:
    """Close the UDP socket, if there is one, and all control connections."""
    if udp is not None:
        udp.close()
    for _, control, _ in granted:
        control.close()


@contextmanager
def _explained(what: str, advice: str = "") -> Iterator[None]:
    """Turn an OSError into a ProxyConnectError that says what this system cannot do.

    Args:
        what: The text after "cannot".
        advice: The end of the text; it may be empty.
    """
    try:
        yield
    except OSError as error:
        text = f"cannot {what}: {'; '.join(filter(None, (error.strerror, advice)))}"
        raise ProxyConnectError(text, error.errno) from error


def _relay_of(
    route: Route, control: socket.socket, grant: Grant, trust: bool
) -> tuple[Host, SocketAddress]:
    """Return the host and the address to which the datagrams for one hop go."""
    with placed(route, "relay"):
        host, address = reachable(control, grant, trust)
        # A chain may give a hop by a name, and that hop's relay is then at this name.
        if host.is_name and host.text != (grant.own_address and grant.own_address[0]):
            text = f"the proxy says that its relay is at {host.text!r}, which is not an IP address"
            raise ProtocolError(f"{text}; {_INSTEAD}")
        log(route, -1, f"relay {host_port(*address[:2])!r}")
    return host, address


def advice_about(granted: Granted, relay: Host, address: SocketAddress) -> str:
    """Return the text for errors about a relay that may be out of reach; empty for other relays."""
    route, control, grant = granted
    if not is_private(relay):
        return ""
    try:
        own, _ = reachable(control, grant, trust=False)
    except ProxyClosed:
        # The association will report that the proxy has ended it.
        return ""
    if own.is_name or own.unmapped.ip == relay.unmapped.ip:
        return ""
    where = host_port(*address[:2])
    advice = f"the relay, {where}, has a private address that is not the proxy's own, {own}"
    log(route, -1, f"{advice}; {_INSTEAD}")
    return f"{advice}; {_INSTEAD}"


def is_private(host: Host) -> bool:
    """Return whether a host is an address of a private network, of one link or of one machine."""
    ip = host.unmapped.ip
    return ip is not None and any(ip in network for network in _PRIVATE)
