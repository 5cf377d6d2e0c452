"""The whole way through a chain of proxies, as one generator that does no I/O.

`tunnel` yields four kinds of step (`socksclient.protocol.steps`). A driver does what each step asks
for, and sends the answer back into the generator. If a step fails with an OSError, the driver
throws that error into the generator. So the generator alone decides whether another address is
worth a try, and what the caller is told. Hop, phase and the addresses still to try are its local
variables, and no other code sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import TypeVar

from socksclient.protocol.address import Host, HostPort, SocketAddress, host_port, is_address
from socksclient.protocol.codes import Command, Phase, Reply, Socks4Reply
from socksclient.protocol.exceptions import (
    ProxyClosed,
    ReplyError,
    ResolveError,
    SocksError,
)
from socksclient.protocol.flow import ConnectionEnded, Flow
from socksclient.protocol.place import is_deadline, place
from socksclient.protocol.proxy import Proxy
from socksclient.protocol.route import NOT_KNOWN, Request, Route
from socksclient.protocol.steps import (
    Connect,
    Direction,
    Event,
    Grant,
    Report,
    Resolve,
    ServerAddress,
    StartTLS,
    Steps,
)

__all__ = ["handshake", "resolve_target", "tunnel"]

T = TypeVar("T")


def tunnel(route: Route, report: Report | None = None) -> Steps[Grant]:
    """Open a way through every hop of a route.

    Where this process resolves a target (``socks5``), each of its addresses gets a try on a
    connection of its own.

    Args:
        route: The requests to the hops.
        report: A function that gets each `Event` at once.

    Raises:
        SocksError: A hop cannot be reached, refuses its request, or breaks its protocol; a name has
            no address; or the deadline passed. The error says at which hop and in which phase
            (`place`).
        Exception: A `Method` of the caller's own raised this exception.
    """
    hop = 0
    phase: Phase = "resolve"
    # For each hop, the hosts to ask it for, and how many of these have failed.
    hosts = [[request.host] for request in route.requests]
    failed = [0] * len(route.requests)
    servers: Sequence[ServerAddress] = ()
    earlier: list[str] = []

    def note(text: str) -> None:
        _tell(report, Event(hop, phase, "note", note=text))

    def begin_phase(new: Phase) -> None:
        nonlocal phase
        phase = new
        note(new)

    def report_octets(direction: Direction, octets: bytes, is_secret: bool) -> None:
        _tell(report, Event(hop, phase, direction, octets, is_secret))

    while True:
        try:
            if not servers:
                # Every name is resolved before the first connection is made: a destination without
                # an address costs the proxies nothing.
                for hop, request in enumerate(route.requests):
                    hosts[hop] = yield from _hosts_of(request, note)
                hop = 0
                servers = yield from _servers_of(route.requests[0].proxy, note)
            hop = 0
            begin_phase("connect")
            winner: ServerAddress = yield Connect(servers)
            servers = _with_first(winner, servers)
            for hop, request in enumerate(route.requests):
                yield from _start_tls(request.proxy, begin_phase)
                host = _host_to_ask(request, hosts[hop][failed[hop]], winner if hop == 0 else None)
                flow = request.proxy.kind.handshake(
                    request.proxy, request.command, host, request.port, begin_phase
                )
                bound_address = yield from _observed(flow, report and report_octets)
                note(f"granted, bound address {host_port(*bound_address)!r}")
            return Grant(bound_address, _own_address(route, hosts, failed))
        except Exception as error:  # noqa: BLE001 - it is raised again
            failure = place(error, route, hop, phase, hosts[hop], failed[hop], earlier)
            try:
                note(_failure_note(failure))
                if failed[hop] + 1 == len(hosts[hop]) or not _concerns_one_address(failure):
                    raise failure
                earlier.append(
                    f"before that, {hosts[hop][failed[hop]]}: {getattr(failure, 'strerror', '')}"
                )
            finally:
                # Otherwise the error and this frame would keep each other alive.
                del failure
        failed[hop] += 1


def handshake(route: Route, report: Report | None = None) -> Steps[HostPort]:
    """Run the handshake with one proxy on a connection to it that is there already.

    Args:
        route: The one request. If this process resolves its target (``socks5``), the flow asks for
            the first address only, because the next address would need a new connection.
        report: A function that gets each `Event` at once.

    Returns:
        The bound address.

    Raises:
        SocksError: The proxy refuses the request or breaks its protocol, the target's name has no
            address, or the deadline passed. The error says in which phase (`place`).
        Exception: A `Method` of the caller's own raised this exception.
    """
    phase: Phase = "resolve"

    def note(text: str) -> None:
        _tell(report, Event(0, phase, "note", note=text))

    def begin_phase(new: Phase) -> None:
        nonlocal phase
        phase = new
        note(new)

    def report_octets(direction: Direction, octets: bytes, is_secret: bool) -> None:
        _tell(report, Event(0, phase, direction, octets, is_secret))

    [request] = route.requests
    try:
        host, port = yield from resolve_target(request, note)
        flow = request.proxy.kind.handshake(request.proxy, request.command, host, port, begin_phase)
        bound_address = yield from _observed(flow, report and report_octets)
        note(f"granted, bound address {host_port(*bound_address)!r}")
        return bound_address
    except Exception as error:  # noqa: BLE001 - it is raised again
        failure = place(error, route, 0, phase)
        try:
            note(_failure_note(failure))
            raise failure
        finally:
            # Otherwise the error and this frame would keep each other alive.
            del failure


def _failure_note(error: Exception) -> str:
    """Return what the log says about an error.

    It says nothing about an error that a method of the user's own has raised, because nobody knows
    what stands in its text.
    """
    return f"failed: {error.strerror}" if isinstance(error, SocksError) else ""


def _tell(report: Report | None, event: Event) -> None:
    if report is not None and (event.note or event.octets):
        report(event)


def _own_address(
    route: Route, hosts: Sequence[Sequence[Host]], failed: Sequence[int]
) -> HostPort | None:
    """Return the (host, port) by which the hop before reached the last hop, if there is one."""
    if len(route.requests) == 1:
        return None
    return hosts[-2][failed[-2]].text, route.requests[-2].port


def resolve_target(
    request: Request, note: Callable[[str], None] = lambda _: None
) -> Steps[tuple[Host, int]]:
    """Return the host and the port to ask a hop for: the first address, if they are resolved here.

    Raises:
        ResolveError: The name has no address.
    """
    [host, *_] = yield from _hosts_of(request, note)
    return host, request.port


_NOT_OF_ONE_ADDRESS = (
    Reply.COMMAND_NOT_SUPPORTED,
    Socks4Reply.NO_IDENTD,
    Socks4Reply.IDENTD_REPORTS_ANOTHER_USER,
)
"""The replies with which the proxy would refuse every other address too."""


def _concerns_one_address(error: Exception) -> bool:
    """Return whether the next address of a target may succeed after an error.

    It may after every refusal except `_NOT_OF_ONE_ADDRESS`, because servers differ: on a host
    without IPv6, microsocks replies REP 01 to an IPv6 address. A hang-up on the request counts too,
    because `ssh -D` hangs up on every failure, and sends no reply.
    """
    if isinstance(error, ReplyError):
        # The replies are compared by identity because the numbers of SOCKS5 and SOCKS4 overlap.
        return not any(error.reply is reply for reply in _NOT_OF_ONE_ADDRESS)
    return isinstance(error, ProxyClosed) and error.phase == "request"


def _hosts_of(request: Request, note: Callable[[str], None]) -> Steps[list[Host]]:
    """Return the hosts to ask a hop for, in the order to try them."""
    if not request.is_resolved_here:
        return [request.host]
    note(f"resolve {request.host}")
    try:
        addresses: list[SocketAddress] = yield Resolve(request.host.text, request.port)
    except OSError as error:
        if is_deadline(error):
            raise
        raise ResolveError.of(request.host.text, error) from error
    return _carried_by(request.proxy, request.host, addresses)


def _carried_by(proxy: Proxy, host: Host, addresses: Iterable[SocketAddress]) -> list[Host]:
    """Return the addresses of `host` that the proxy can be asked for, and that mean the same there.

    Raises:
        ResolveError: There is none.
    """
    texts = [address[0] for address in addresses if not any(address[3:])]
    hosts = [Host.of(text) for text in texts if "%" not in text]
    carried = [found for found in hosts if proxy.kind.carries(found)]
    if not carried:
        raise ResolveError(f"{host} has no address that the proxy could reach: {', '.join(texts)}")
    return carried


def _servers_of(proxy: Proxy, note: Callable[[str], None]) -> Steps[Sequence[ServerAddress]]:
    """Return the addresses of the nearest hop, in the order to try them."""
    if proxy.path is not None:
        return [proxy.path]
    # Only the system's resolver knows the number of the network interface that a zone id names.
    if "%" not in proxy.host and is_address(proxy.host):
        return [(proxy.host, proxy.port)]
    note(f"resolve {proxy.host}")
    addresses: list[SocketAddress] = yield Resolve(proxy.host, proxy.port)
    return interleave(addresses)


def interleave(addresses: Iterable[SocketAddress]) -> list[SocketAddress]:
    """Return the addresses with their families taking turns (RFC 8305 §4)."""
    by_family: dict[bool, list[SocketAddress]] = {}
    for address in addresses:
        by_family.setdefault(":" in address[0], []).append(address)
    turns = zip_longest(*by_family.values())
    return [address for turn in turns for address in turn if address is not None]


def _start_tls(proxy: Proxy, begin_phase: Callable[[Phase], None]) -> Steps[None]:
    if proxy.tls:
        begin_phase("tls")
        yield StartTLS(proxy)


def _with_first(first: T, others: Iterable[T]) -> list[T]:
    """Return all servers, and put the one that has answered at the front.

    So the next connection does not wait again for the servers that have not answered.
    """
    return [first, *(other for other in others if other != first)]


_UNSPECIFIED_IPV6 = Host.of("::")


def _host_to_ask(request: Request, host: Host, server: ServerAddress | None) -> Host:
    """Return the host to ask a hop for: `host`, except for UDP from a source that is not known.

    UDP ASSOCIATE announces such a source by zeros (RFC 1928 §7). By their family Dante chooses the
    family of its relay, and where Dante listens at IPv6 addresses only, it refuses the zeros of
    IPv4 (REP 08). So they are of the family by which the hop is reached.

    Args:
        request: The request to the hop.
        host: The host that its turn has come to.
        server: The address of the nearest hop; None for every other hop.
    """
    if request.command != Command.UDP_ASSOCIATE or (host.text, request.port) != NOT_KNOWN:
        return host
    reached_at = server[0] if isinstance(server, tuple) else request.proxy.host
    return _UNSPECIFIED_IPV6 if ":" in reached_at else host


def _observed(flow: Flow[T], report: Callable[[Direction, bytes, bool], None] | None) -> Flow[T]:
    """Run a flow, and report the octets of its steps."""
    if report is None:
        return (yield from flow)
    with closing(flow):
        try:
            step = next(flow)
            while True:
                is_secret = step.is_secret
                if step.send:
                    report("sent", step.send, is_secret)
                # The octets have no variable, because the proxy may have repeated the credentials,
                # and a traceback can show variables.
                received = [b""]
                try:
                    received = [(yield step)]
                except Exception as error:  # noqa: BLE001 - the flow judges it
                    if isinstance(error, ConnectionEnded):
                        report("received", error.received, is_secret)
                    step = flow.throw(error)
                else:
                    # A proxy may repeat the credentials in its answer.
                    report("received", received[0], is_secret)
                    step = flow.send(received.pop())
        except StopIteration as stop:
            result: T = stop.value
            return result
