"""`relay`: the routes to an association, and which addresses are private."""

from __future__ import annotations

import pytest

from socksclient import Proxy
from socksclient._net.relay import is_private, routes_of
from socksclient.protocol.address import Host
from socksclient.protocol.codes import Command
from socksclient.protocol.route import NOT_KNOWN

CHAIN = (Proxy("192.0.2.1"), Proxy("192.0.2.2"), Proxy("name.test"))


def test_routes_of_announces_the_source_to_the_nearest_hop_only() -> None:
    routes = routes_of(CHAIN, ("192.0.2.9", 4711))
    last = [(route.last.host.text, route.last.port) for route in routes]
    assert last == [("192.0.2.9", 4711), NOT_KNOWN, NOT_KNOWN]


def test_routes_of_leads_to_each_hop_through_those_before_it() -> None:
    for number, route in enumerate(routes_of(CHAIN, NOT_KNOWN), 1):
        assert tuple(request.proxy for request in route.requests) == CHAIN[:number]
        *through, last = (request.command for request in route.requests)
        assert through == [Command.CONNECT] * (number - 1)
        assert last == Command.UDP_ASSOCIATE
        assert route.destination is None


def test_routes_of_refuses_a_hop_that_cannot_relay_udp() -> None:
    with pytest.raises(ValueError, match="does not support UDP ASSOCIATE"):
        routes_of((*CHAIN, Proxy("192.0.2.3", scheme="socks4")), NOT_KNOWN)


@pytest.mark.parametrize(
    ("host", "private"),
    [
        *[(f"{host}{last}", True) for host in ("10.0.0.", "172.31.255.") for last in (0, 255)],
        *[(host, True) for host in ("192.168.1.1", "127.0.0.1", "169.254.1.1", "::1")],
        *[(host, True) for host in ("fd00::1", "fe80::1", "::ffff:10.0.0.1", "fe80::1%eth0")],
        *[(host, False) for host in ("192.0.2.1", "172.32.0.0", "8.8.8.8", "100.64.0.1")],
        *[(host, False) for host in ("2001:db8::1", "::ffff:8.8.8.8", "localhost")],
    ],
)
def test_is_private(host: str, private: bool) -> None:
    assert is_private(Host.of(host)) is private
