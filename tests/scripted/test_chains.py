"""Chains of proxies of all kinds: connections, and the names that each hop is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle, product

import anyio
import pytest

import socksclient
import socksclient.anyio
from socksclient import (
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyLike,
    ReplyError,
    ResolveError,
)
from socksclient.protocol.codes import Command
from socksclient.testing import Faults, SocksServer

from helpers.hops import (
    HOSTS,
    NOBODY,
    Associate,
    Connect,
    MakeHops,
    Names,
    is_tls,
    leads,
    seen_by,
)
from helpers.http_clients import nothing_left_open
from helpers.support import (
    REFUSED_PORT,
    Address,
    resolved_names,
)

pytest_plugins = ["helpers.hop_fixtures"]

SCHEMES = ("socks5h", "socks5", "socks4a", "socks4", "http")
KINDS = (*SCHEMES, "socks5h+tls", "socks5+tls", "socks4a+tls", "socks4+tls", "https")
PROTOCOLS = {"socks5": "SOCKS5", "socks5h": "SOCKS5", "socks4": "SOCKS4", "socks4a": "SOCKS4"}
WITH_TLS = {"socks5h": "socks5h+tls", "socks4a": "socks4a+tls", "http": "https"}

PAIRS = list(product(KINDS, repeat=2))

# Each of the 27 in one of the eight ways to have TLS at some of the hops.
THREES = [
    tuple(WITH_TLS[kind] if tls else kind for kind, tls in zip(kinds, places, strict=True))
    for kinds, places in zip(
        product(WITH_TLS, repeat=3), cycle(product([False, True], repeat=3)), strict=False
    )
]


class TestChainOfAnyKinds:
    @pytest.mark.parametrize("kinds", [*PAIRS, *THREES], ids=", ".join)
    def test_chain_leads_to_destination(
        self, connect: Connect, hops: MakeHops, greeter: Address, kinds: tuple[str, ...]
    ) -> None:
        with hops(*kinds) as chain, connect(greeter, proxy=chain.proxies) as tunnel:
            tunnel.assert_greets_and_echoes()
            assert tunnel.tls == any(map(is_tls, kinds))
            targets = [*(server.address for server in chain.servers[1:]), greeter]
            for server, proxy, target in zip(chain.servers, chain.proxies, targets, strict=True):
                assert seen_by(server).protocol == PROTOCOLS.get(proxy.scheme, "HTTP")
                assert seen_by(server).command == Command.CONNECT
                assert seen_by(server).destination == target

    @pytest.mark.parametrize("last", KINDS)
    def test_chain_greeting_in_segment_of_reply(
        self, connect: Connect, hops: MakeHops, greeter: Address, last: str
    ) -> None:
        with hops("http", last, faults={1: Faults(reply_with_data=True)}) as chain:
            with connect(greeter, proxy=chain.proxies) as tunnel:
                tunnel.assert_greets_and_echoes()

    @pytest.mark.parametrize("kind", KINDS)
    def test_chain_split_replies(
        self, connect: Connect, hops: MakeHops, greeter: Address, kind: str
    ) -> None:
        faults = dict.fromkeys(range(3), Faults(split=True))
        with hops(kind, kind, kind, faults=faults) as chain:
            with connect(greeter, proxy=chain.proxies) as tunnel:
                tunnel.assert_greets_and_echoes()

    def test_chain_credentials_of_each_hop(
        self, connect: Connect, hops: MakeHops, greeter: Address
    ) -> None:
        accounts = {0: {"near": "first"}, 1: {"id": ""}, 2: {"far": "third"}}
        with hops("https", "socks4a", "socks5h", accounts=accounts) as chain:
            with connect(greeter, proxy=chain.proxies) as tunnel:
                tunnel.assert_greets_and_echoes()
            seen = [(one.username, one.password) for one in map(seen_by, chain.servers)]
            assert seen == [("near", "first"), ("id", None), ("far", "third")]

    @pytest.mark.parametrize("kinds", PAIRS[:: len(KINDS) + 1], ids=", ".join)
    def test_chain_close_leaves_nothing_open(
        self, connect: Connect, hops: MakeHops, greeter: Address, kinds: tuple[str, ...]
    ) -> None:
        with hops(*kinds) as chain, nothing_left_open():
            connect(greeter, proxy=chain.proxies).close()


@pytest.mark.parametrize(
    "kinds",
    [
        ("socks5h+tls", "socks5h+tls"),
        ("https", "socks4a", "socks5h+tls"),
        ("socks5h+tls", "https", "https"),
    ],
    ids=", ".join,
)
class TestChainWithTwoTLSHops:
    @pytest.mark.parametrize("function", [socksclient.create_connection, socksclient.bind])
    def test_chain_with_two_tls_hops_refused_for_socket(
        self, hops: MakeHops, kinds: tuple[str, ...], function: Callable[..., object]
    ) -> None:
        with hops(*kinds) as chain:
            with pytest.raises(
                ValueError,
                match=r"^(a socket cannot go through more than one proxy with TLS|an HTTP proxy)",
            ):
                function(NOBODY, proxy=chain.proxies)
            assert not any(server.connections for server in chain.servers)

    @pytest.mark.anyio
    async def test_chain_with_two_tls_hops_refused_by_connect_socket(
        self, hops: MakeHops, kinds: tuple[str, ...]
    ) -> None:
        with hops(*kinds) as chain:
            with pytest.raises(
                ValueError,
                match=r"^the socket of connect_socket cannot go through a proxy with TLS",
            ):
                await socksclient.anyio.connect_socket("192.0.2.1", 80, proxy=chain.proxies)
            assert not any(server.connections for server in chain.servers)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["socks5h+tls", "https"])
async def test_connect_socket_refuses_proxy_with_tls(hops: MakeHops, kind: str) -> None:
    with hops(kind) as chain:
        with pytest.raises(
            ValueError, match=r"^the socket of connect_socket cannot go through a proxy with TLS"
        ):
            await socksclient.anyio.connect_socket("192.0.2.1", 80, proxy=chain.proxies)
        assert chain.servers[0].connections == []


LAST = Proxy("192.0.2.1")


class TestInvalidChain:
    @pytest.mark.parametrize(
        ("proxy", "destination", "words"),
        [
            ([], ("h", 80), "proxy is an empty sequence"),
            (["socks5h://h", Proxy(path="/x")], ("h", 80), "hop 1 is a unix socket"),
            (["socks4a://h", "http://h", "socks5h://localhost/x"], ("h", 80), "hop 2 is a unix"),
            (["socks4a://h", "socks5h://[2001:db8::1]"], ("h", 80), "SOCKS4 cannot carry the IPv6"),
            (["http://h", "socks4://h"], ("2001:db8::1", 80), "SOCKS4 cannot carry the IPv6"),
            (["socks5h://h", "socks5h://[fe80::1%lo]"], ("h", 80), "has a zone id"),
            (["socks5://h", "socks5h://x.onion"], ("h", 80), "is known to Tor only"),
            (["socks5h://h", "socks4://h"], ("x.onion", 80), "is known to Tor only"),
            (["socks5h://h", "nonsense"], ("h", 80), "has no scheme"),
        ],
    )
    def test_chain_refused_before_any_octet(
        self, connect: Connect, proxy: ProxyLike, destination: Address, words: str
    ) -> None:
        with resolved_names() as resolved, pytest.raises(ValueError, match=words) as caught:
            connect(destination, proxy=proxy)
        assert not isinstance(caught.value, OSError)
        assert resolved == []

    @pytest.mark.parametrize(
        ("proxy", "words"),
        [
            (["http://h", LAST], "an HTTP proxy does not support UDP ASSOCIATE"),
            ([LAST, "http://h"], "an HTTP proxy does not support UDP ASSOCIATE"),
            (["socks4a://h", LAST], "a SOCKS4 proxy does not support UDP ASSOCIATE"),
            ([LAST, "socks4://h"], "a SOCKS4 proxy does not support UDP ASSOCIATE"),
            (["socks5h+tls://h", LAST], "would go to the proxy in the clear"),
            ([LAST, LAST, "socks5h+tls://h"], "would go to the proxy in the clear"),
            (["https://h", LAST], "UDP"),
        ],
    )
    def test_chain_refused_by_udp_associate(
        self, associate: Associate, names: Names, proxy: ProxyLike, words: str
    ) -> None:
        with nothing_left_open(), pytest.raises(ValueError, match=words) as caught:
            associate(proxy, local_address=("127.0.0.1", 0))
        assert not isinstance(caught.value, OSError)

    @pytest.mark.parametrize("last", ["http://h", "https://h"])
    def test_chain_refused_by_bind(self, last: str) -> None:
        with pytest.raises(ValueError, match="an HTTP proxy does not support BIND"):
            socksclient.bind(("192.0.2.1", 0), proxy=[LAST, last])
        with pytest.raises(ValueError, match="an HTTP proxy does not support BIND"):
            anyio.run(partial(socksclient.anyio.bind, "192.0.2.1", 0, proxy=[LAST, last]))


class TestChainNames:
    @pytest.mark.parametrize("kinds", list(product(SCHEMES, repeat=2)), ids=", ".join)
    def test_chain_name_goes_to_hop_that_resolves(
        self,
        connect: Connect,
        hops: MakeHops,
        names: Names,
        greeter: Address,
        kinds: tuple[str, ...],
    ) -> None:
        names["greeter.test"] = [greeter[0]]
        with hops(*kinds) as chain:
            leads(chain, names)
            proxies = chain.named()
            chain.servers[1].routes["greeter.test", greeter[1]] = greeter
            with connect(("greeter.test", greeter[1]), proxy=proxies) as tunnel:
                tunnel.assert_greets_and_echoes()
            wanted = [("second.test", chain.servers[1].address), ("greeter.test", greeter)]
            for server, proxy, (name, address) in zip(chain.servers, proxies, wanted, strict=True):
                host = name if proxy.remote_dns else address[0]
                assert seen_by(server).destination == (host, address[1])

    def test_chain_resolves_only_nearest_hop_here(
        self, connect: Connect, hops: MakeHops, greeter: Address
    ) -> None:
        with SocksServer(host="127.0.0.1") as first:
            with hops("socks4a", "socks5h", "http") as chain:
                nearest = Proxy("localhost", first.address[1])
                others = chain.named()
                first.routes["first.test", others[0].port] = chain.servers[0].address
                chain.servers[0].routes["second.test", others[1].port] = chain.servers[1].address
                chain.servers[1].routes["third.test", others[2].port] = chain.servers[2].address
                chain.servers[2].routes["greeter.test", 25] = greeter
                with resolved_names() as resolved:
                    with connect(("greeter.test", 25), proxy=[nearest, *others]) as tunnel:
                        tunnel.assert_greets_and_echoes()
            assert set(resolved) == {"localhost"}

    @pytest.mark.parametrize("scheme", ["socks5", "socks4"])
    def test_chain_tries_addresses_in_order(
        self, connect: Connect, hops: MakeHops, names: Names, greeter: Address, scheme: str
    ) -> None:
        nobody = ("127.0.0.1", REFUSED_PORT)
        with hops(scheme, scheme) as chain, nothing_left_open():
            first, second = chain.servers
            ports = second.address[1], greeter[1]
            names["second.test"] = ["192.0.2.1", "192.0.2.2", second.address[0]]
            names["greeter.test"] = ["192.0.2.3", "127.0.0.1"]
            first.routes.update({(f"192.0.2.{n}", ports[0]): nobody for n in (1, 2)})
            second.routes["192.0.2.3", ports[1]] = nobody
            proxies = [chain.proxies[0], replace(chain.proxies[1], host="second.test")]
            with connect(("greeter.test", ports[1]), proxy=proxies) as tunnel:
                tunnel.assert_greets_and_echoes()
            assert [one.destination for one in first.connections] == [
                ("192.0.2.1", ports[0]),
                ("192.0.2.2", ports[0]),
                second.address,
                # After an address has answered once, later connections go to that address.
                second.address,
            ]
            assert [one.destination for one in second.connections] == [
                ("192.0.2.3", ports[1]),
                ("127.0.0.1", ports[1]),
            ]

    def test_chain_tries_no_next_address_after_failure_of_next_hop(
        self, connect: Connect, hops: MakeHops, names: Names
    ) -> None:
        """The client tries another address of a hop only after a refusal of the hop before."""
        with hops("socks5", "socks5h", faults={1: Faults(close_after=0)}) as chain:
            names["second.test"] = [HOSTS[1], "127.0.0.1"]
            proxies = [chain.proxies[0], replace(chain.proxies[1], host="second.test")]
            with pytest.raises(ProxyClosed) as caught:
                connect(NOBODY, proxy=proxies)
            assert (caught.value.hop, caught.value.phase) == (1, "method selection")
            assert len(chain.servers[0].connections) == 1

    def test_chain_last_error_notes_earlier_errors(
        self, connect: Connect, hops: MakeHops, names: Names
    ) -> None:
        with hops("socks5", "socks5h", faults={0: Faults(reply=0x05)}) as chain:
            names["second.test"] = ["192.0.2.1", "192.0.2.2"]
            proxies = [chain.proxies[0], replace(chain.proxies[1], host="second.test")]
            with nothing_left_open(), pytest.raises(ReplyError) as caught:
                connect(("192.0.2.9", 80), proxy=proxies)
            port = proxies[1].port
        assert (caught.value.hop, caught.value.proxy) == (0, proxies[0])
        assert caught.value.destination == ("192.0.2.9", 80)
        assert caught.value.__notes__ == [
            "before that, 192.0.2.1: the proxy refused the request: connection refused (REP 05)",
        ]
        assert caught.value.next_hop == ("192.0.2.2", port)

    @pytest.mark.parametrize(
        ("hop", "host", "scheme"),
        [(0, "nowhere.test", "socks5"), (1, "nowhere.test", "socks5"), (1, "six.test", "socks4")],
    )
    def test_chain_name_without_address(
        self,
        connect: Connect,
        hops: MakeHops,
        names: Names,
        hop: int,
        host: str,
        scheme: str,
    ) -> None:
        names["six.test"] = ["2001:db8::1"]
        schemes = [scheme if number == hop else "socks5h" for number in range(3)]
        with hops(*schemes) as chain:
            proxies = list(chain.proxies)
            proxies[hop + 1] = replace(proxies[hop + 1], host=host)
            with pytest.raises(ResolveError, match=host) as caught:
                connect(NOBODY, proxy=proxies)
            assert not any(server.connections for server in chain.servers)
        assert (caught.value.proxy, caught.value.hop) == (proxies[hop], hop)
        assert caught.value.phase == "resolve"

    def test_chain_name_of_nearest_hop_without_address(
        self, connect: Connect, names: Names
    ) -> None:
        proxies = [Proxy("nowhere.test"), Proxy("192.0.2.1")]
        with pytest.raises(ProxyConnectError, match="Name or service not known") as caught:
            connect(NOBODY, proxy=proxies)
        assert (caught.value.proxy, caught.value.hop) == (proxies[0], 0)
        assert caught.value.phase == "resolve"
