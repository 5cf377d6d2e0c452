"""`Route`: what each hop of a chain is asked for, checked before any octet is sent."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from socksclient.protocol.address import Host, HostPort, is_onion, parse_port
from socksclient.protocol.codes import Command
from socksclient.protocol.proxy import Chain, Proxy

__all__ = ["NOT_KNOWN", "Request", "Route"]

NOT_KNOWN = ("0.0.0.0", 0)
"""The source address that UDP ASSOCIATE announces if the client does not know its own."""


class Request(NamedTuple):
    """The request to one hop.

    Attributes:
        proxy: The hop.
        command: CMD of the request.
        host: The host of the target: an IP address, or a name, which this process may have to
            resolve before it sends the request.
        port: The port of the target, which is DST.PORT.
    """

    proxy: Proxy
    command: Command
    host: Host
    port: int

    @property
    def is_resolved_here(self) -> bool:
        """Whether the host is a name that this process resolves, and the proxy does not."""
        return not (
            self.proxy.remote_dns
            or not self.host.is_name
            or self.command in (Command.RESOLVE, Command.RESOLVE_PTR)
        )


class Route(NamedTuple):
    """The requests that lead through a chain of proxies.

    Attributes:
        requests: The request to each hop, the nearest hop first. Every hop but the last is asked to
            connect to the next hop.
        destination: The (host, port) as the caller gave it; None for a UDP association, which has
            no one destination.
    """

    requests: tuple[Request, ...]
    destination: HostPort | None

    @classmethod
    def through(
        cls, chain: Chain, host: str, port: int, command: Command = Command.CONNECT
    ) -> Route:
        """Return the route whose last hop is asked to do `command` for a host and a port.

        Raises:
            ValueError: The host or the port is not valid, a hop's protocol cannot carry its
                request, or this process would have to resolve a name that only Tor knows.
            TypeError: The host is not a str.
        """
        # Only a connection needs its port: 0 means "not known" to BIND and UDP ASSOCIATE.
        least = 1 if command == Command.CONNECT else 0
        request = Request(chain[-1], command, Host.parse(host), parse_port(port, least=least))
        return cls(
            _checked(chain, request), None if command == Command.UDP_ASSOCIATE else (host, port)
        )

    @classmethod
    def of_datagram(cls, chain: Chain, host: str, port: int) -> Route:
        """Return the route of a datagram that the relay of the last hop sends to a host and a port.

        Raises:
            ValueError: The host or the port is not valid, a hop's protocol cannot carry its
                request, or this process would have to resolve a name that only Tor knows.
            TypeError: The host is not a str.
        """
        request = Request(chain[-1], Command.UDP_ASSOCIATE, Host.parse(host), parse_port(port))
        return cls(_checked(chain, request), (host, port))

    @classmethod
    def on_connection(cls, proxy: Proxy, host: str, port: int) -> Route:
        """Return the route through one proxy to which there is a connection already.

        Raises:
            ValueError: The host or the port is not valid, or the protocol of the proxy cannot carry
                the request.
            TypeError: The host is not a str.
        """
        request = Request(proxy, Command.CONNECT, Host.parse(host), parse_port(port))
        proxy.kind.check_request(proxy, request.command, request.host)
        return cls((request,), (host, port))

    @property
    def last(self) -> Request:
        """The request to the last hop."""
        return self.requests[-1]


def _checked(chain: Chain, last: Request) -> tuple[Request, ...]:
    """Return the requests to all hops, of which the last one is asked for `last`."""
    if chain[0].path is None and is_onion(chain[0].host):
        raise ValueError(
            f"{chain[0].host} is known to Tor only, and this process cannot resolve it"
        )
    requests = [
        Request(hop, Command.CONNECT, Host.parse(after.host), after.port)
        for hop, after in pairwise(chain)
    ]
    requests.append(last)
    for request in requests:
        request.proxy.kind.check_request(request.proxy, request.command, request.host)
    return tuple(requests)
