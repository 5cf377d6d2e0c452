"""`Route`: what each hop of a chain is asked for, and what is refused before anything is sent."""

from __future__ import annotations

import re

import pytest

from socksclient import Proxy
from socksclient.protocol import Command, HostPort
from socksclient.protocol.address import Host
from socksclient.protocol.proxy import Chain, as_chain
from socksclient.protocol.route import NOT_KNOWN, Request, Route

NEAR, MIDDLE, FAR = "socks5h://near.test", "http://[2001:db8::2]:3128", "socks4a://far.test:1081"


def chain(*urls: str) -> Chain:
    return as_chain(urls)


def targets(route: Route) -> list[tuple[str, HostPort]]:
    """Return the command and the target of each request."""
    return [(request.command.text, (request.host.text, request.port)) for request in route.requests]


@pytest.mark.parametrize(
    ("urls", "wanted"),
    [
        ([NEAR], [("BIND", ("g.test", 80))]),
        ([NEAR, FAR], [("CONNECT", ("far.test", 1081)), ("BIND", ("g.test", 80))]),
        (
            [NEAR, MIDDLE, FAR],
            [
                ("CONNECT", ("2001:db8::2", 3128)),
                ("CONNECT", ("far.test", 1081)),
                ("BIND", ("g.test", 80)),
            ],
        ),
    ],
    ids=len,
)
def test_route_through_asks_every_hop_but_the_last_for_the_next_hop(
    urls: list[str], wanted: list[tuple[str, HostPort]]
) -> None:
    route = Route.through(chain(*urls), "g.test", 80, Command.BIND)
    assert targets(route) == wanted
    assert [request.proxy for request in route.requests] == list(chain(*urls))
    assert route.last is route.requests[-1]
    assert route.destination == ("g.test", 80)


def test_route_keeps_the_destination_as_the_caller_gave_it() -> None:
    route = Route.through(chain(NEAR), "[2001:DB8::1]", 80)
    assert route.destination == ("[2001:DB8::1]", 80)
    assert targets(route) == [("CONNECT", ("2001:db8::1", 80))]


def test_route_of_udp_associate_has_no_destination() -> None:
    route = Route.through(chain(NEAR), *NOT_KNOWN, Command.UDP_ASSOCIATE)
    assert route.destination is None
    assert targets(route) == [("UDP ASSOCIATE", NOT_KNOWN)]


def test_route_of_datagram_has_the_destination_of_the_datagram() -> None:
    route = Route.of_datagram(chain(MIDDLE, NEAR), "g.test", 53)
    assert route.destination == ("g.test", 53)
    assert targets(route) == [("CONNECT", ("near.test", 1080)), ("UDP ASSOCIATE", ("g.test", 53))]


def test_route_on_connection_has_one_request() -> None:
    [proxy] = chain(FAR)
    route = Route.on_connection(proxy, "g.test", 80)
    assert route.requests == (Request(proxy, Command.CONNECT, Host.parse("g.test"), 80),)
    assert route.destination == ("g.test", 80)


@pytest.mark.parametrize(
    ("urls", "host", "port", "command", "text"),
    [
        ([NEAR], "g.test", 0, Command.CONNECT, "port 0 is not in the range from 1 to 65535"),
        ([NEAR], "g.test", 65536, Command.BIND, "port 65536 is not in the range from 0 to 65535"),
        ([NEAR], "", 80, Command.CONNECT, "host is empty"),
        ([NEAR], "fe80::1%eth0", 80, Command.CONNECT, "has a zone id"),
        ([MIDDLE], "g.test", 80, Command.BIND, "an HTTP proxy does not support BIND"),
        ([FAR], "::1", 80, Command.CONNECT, "SOCKS4 cannot carry the IPv6 address ::1"),
        # A hop cannot carry the address of the next hop.
        ([FAR, MIDDLE], "g.test", 80, Command.CONNECT, "carry the IPv6 address 2001:db8::2"),
        ([NEAR, "socks5h://[fe80::1%25eth0]"], "g.test", 80, Command.CONNECT, "has a zone id"),
        (["socks5h://a.onion"], "g.test", 80, Command.CONNECT, "a.onion is known to Tor only, and"),
        (["socks5://h", "http://a.onion"], "g.test", 80, Command.CONNECT, "known to Tor only"),
        (["socks5://h"], "a.onion", 80, Command.CONNECT, "use socks5h:// or socks4a://"),
        (["socks5h+tls://h"], "::", 0, Command.UDP_ASSOCIATE, "UDP cannot use TLS"),
        ([NEAR], "g.test", 0, Command.RESOLVE_PTR, "'g.test' is not an IP address"),
    ],
)
def test_route_through_refuses_what_a_hop_cannot_carry(
    urls: list[str], host: str, port: int, command: Command, text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Route.through(chain(*urls), host, port, command)


@pytest.mark.parametrize(
    "proxies",
    [
        ["socks5h://h", "http://a.onion"],
        # The name of a proxy at a unix socket is only the name in its certificate.
        [Proxy("a.onion", path="/run/proxy", tls=True)],
    ],
)
def test_route_through_takes_an_onion_that_this_process_does_not_resolve(
    proxies: list[str | Proxy],
) -> None:
    assert Route.through(as_chain(proxies), "b.onion", 80).last.host.text == "b.onion"


def test_route_of_datagram_refuses_port_0_and_a_hop_without_udp() -> None:
    with pytest.raises(ValueError, match="port 0 is not in the range from 1 to 65535"):
        Route.of_datagram(chain(NEAR), "g.test", 0)
    with pytest.raises(ValueError, match="a SOCKS4 proxy does not support UDP ASSOCIATE"):
        Route.of_datagram(chain(FAR), "g.test", 53)


def test_route_on_connection_refuses_what_the_proxy_cannot_carry() -> None:
    [proxy] = chain(FAR)
    with pytest.raises(ValueError, match="SOCKS4 cannot carry the IPv6 address ::1"):
        Route.on_connection(proxy, "::1", 80)
    with pytest.raises(ValueError, match="port 0 is not in the range"):
        Route.on_connection(proxy, "g.test", 0)
    # A connection to a proxy is open already, so this process does not resolve its name.
    [tor] = chain("socks5h://a.onion")
    assert Route.on_connection(tor, "g.test", 80).last.proxy is tor


@pytest.mark.parametrize(
    ("url", "host", "command", "resolved_here"),
    [
        ("socks5://h", "g.test", Command.CONNECT, True),
        ("socks4://h", "g.test", Command.BIND, True),
        ("socks5://h", "192.0.2.1", Command.CONNECT, False),
        ("socks5h://h", "g.test", Command.CONNECT, False),
        ("socks4a://h", "g.test", Command.CONNECT, False),
        ("http://h", "g.test", Command.CONNECT, False),
        # Tor resolves the name under every scheme.
        ("socks5://h", "g.test", Command.RESOLVE, False),
        ("socks4://h", "g.test", Command.RESOLVE, False),
        ("socks5://h", "192.0.2.1", Command.RESOLVE_PTR, False),
    ],
)
def test_request_is_resolved_here(
    url: str, host: str, command: Command, resolved_here: bool
) -> None:
    assert Route.through(chain(url), host, 80, command).last.is_resolved_here is resolved_here
