"""Chains of proxies of all kinds: connections, listeners and associations through several hops."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle, product
from typing import NamedTuple

import anyio
import dns.asyncresolver
import dns.flags
import dns.message
import dns.resolver
import dns.rrset
import httpx
import pytest
from anyio.from_thread import BlockingPortal
from anyio.streams.tls import TLSAttribute

import socksclient
import socksclient.anyio
from socksclient import (
    AssociationClosed,
    AsyncSocksTransport,
    AuthenticationError,
    ProtocolError,
    Proxy,
    ProxyClosed,
    ProxyConnectError,
    ProxyLike,
    ProxyTimeout,
    Reply,
    ReplyError,
    ResolveError,
    SocksError,
    SocksTransport,
)
from socksclient.dnspython import Backend, Nameserver, udp_with_fallback
from socksclient.exceptions import HTTPReply, Phase, Socks4Reply
from socksclient.ftp import FTP
from socksclient.protocol.address import Host
from socksclient.protocol.codes import Command
from socksclient.testing import Connection, Faults, SocksServer

from helpers.hops import (
    HOSTS,
    NAMES,
    Associate,
    Authority,
    Bind,
    Connect,
    Hops,
    MakeHops,
    connect_blocking,
    is_tls,
    serve_ftp,
)
from helpers.http_clients import PROXY_HOST, Driver, nothing_left_open, saying_nothing
from helpers.origin import Origin
from helpers.support import (
    GREETING,
    LONG,
    REFUSED_PORT,
    Address,
    answering_datagrams,
    encode_datagram_header,
    eventually,
    receive_exactly,
    resolved_names,
    resolver,
    serving,
    silence,
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

Names = dict[str, list[str]]

NOBODY = ("192.0.2.1", 80)
"""To whom no hop gets."""


def seen_by(server: SocksServer) -> Connection:
    """Return the only connection that came to the server."""
    [connection] = server.connections
    return connection


class TestAnyMix:
    @pytest.mark.parametrize("kinds", [*PAIRS, *THREES], ids=", ".join)
    def test_it_leads_to_the_destination(
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
    def test_a_greeting_in_one_segment_with_the_reply(
        self, connect: Connect, hops: MakeHops, greeter: Address, last: str
    ) -> None:
        with hops("http", last, faults={1: Faults(reply_with_data=True)}) as chain:
            with connect(greeter, proxy=chain.proxies) as tunnel:
                tunnel.assert_greets_and_echoes()

    @pytest.mark.parametrize("kind", KINDS)
    def test_octet_by_octet(
        self, connect: Connect, hops: MakeHops, greeter: Address, kind: str
    ) -> None:
        faults = dict.fromkeys(range(3), Faults(split=True))
        with hops(kind, kind, kind, faults=faults) as chain:
            with connect(greeter, proxy=chain.proxies) as tunnel:
                tunnel.assert_greets_and_echoes()

    def test_each_hop_has_credentials_of_its_own(
        self, connect: Connect, hops: MakeHops, greeter: Address
    ) -> None:
        accounts = {0: {"near": "first"}, 1: {"id": ""}, 2: {"far": "third"}}
        with hops("https", "socks4a", "socks5h", accounts=accounts) as chain:
            with connect(greeter, proxy=chain.proxies) as tunnel:
                tunnel.assert_greets_and_echoes()
            seen = [(one.username, one.password) for one in map(seen_by, chain.servers)]
            assert seen == [("near", "first"), ("id", None), ("far", "third")]

    @pytest.mark.parametrize("kinds", PAIRS[:: len(KINDS) + 1], ids=", ".join)
    def test_nothing_is_left_open(
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
class TestTLSWithTwoHopsIsNoSocket:
    @pytest.mark.parametrize("function", [socksclient.create_connection, socksclient.bind])
    def test_blocking(
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
    async def test_awaited(self, hops: MakeHops, kinds: tuple[str, ...]) -> None:
        with hops(*kinds) as chain:
            with pytest.raises(
                ValueError,
                match=r"^the socket of connect_socket cannot go through a proxy with TLS",
            ):
                await socksclient.anyio.connect_socket("192.0.2.1", 80, proxy=chain.proxies)
            assert not any(server.connections for server in chain.servers)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["socks5h+tls", "https"])
async def test_tls_with_one_hop_is_no_bare_socket(hops: MakeHops, kind: str) -> None:
    with hops(kind) as chain:
        with pytest.raises(
            ValueError, match=r"^the socket of connect_socket cannot go through a proxy with TLS"
        ):
            await socksclient.anyio.connect_socket("192.0.2.1", 80, proxy=chain.proxies)
        assert chain.servers[0].connections == []


LAST = Proxy("192.0.2.1")


class TestWhatCannotBe:
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
    def test_it_is_refused_before_anything_is_sent(
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
    def test_an_association(
        self, associate: Associate, names: Names, proxy: ProxyLike, words: str
    ) -> None:
        with nothing_left_open(), pytest.raises(ValueError, match=words) as caught:
            associate(proxy, local_address=("127.0.0.1", 0))
        assert not isinstance(caught.value, OSError)

    @pytest.mark.parametrize("last", ["http://h", "https://h"])
    def test_a_listener(self, last: str) -> None:
        with pytest.raises(ValueError, match="an HTTP proxy does not support BIND"):
            socksclient.bind(("192.0.2.1", 0), proxy=[LAST, last])
        with pytest.raises(ValueError, match="an HTTP proxy does not support BIND"):
            anyio.run(partial(socksclient.anyio.bind, "192.0.2.1", 0, proxy=[LAST, last]))


# Names


def leads(chain: Hops, names: Names) -> None:
    """Has the names of the hops mean them: for the hops, and for this side."""
    for server in chain.servers:
        for name, other in zip(NAMES, chain.servers, strict=False):
            host, port = other.address
            server.routes[name, port] = (host, port)
            names[name] = [host]


class TestNames:
    @pytest.mark.parametrize("kinds", list(product(SCHEMES, repeat=2)), ids=", ".join)
    def test_who_resolves_gets_the_name(
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

    def test_only_the_nearest_is_resolved_here(
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
    def test_several_addresses_are_tried_in_their_order(
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

    def test_an_address_that_ends_in_no_proxy_is_not_given_up_for_the_next(
        self, connect: Connect, hops: MakeHops, names: Names
    ) -> None:
        """Only a refusal is; a hop that fails later on is not tried at another address."""
        with hops("socks5", "socks5h", faults={1: Faults(close_after=0)}) as chain:
            names["second.test"] = [HOSTS[1], "127.0.0.1"]
            proxies = [chain.proxies[0], replace(chain.proxies[1], host="second.test")]
            with pytest.raises(ProxyClosed) as caught:
                connect(NOBODY, proxy=proxies)
            assert (caught.value.hop, caught.value.phase) == (1, "method selection")
            assert len(chain.servers[0].connections) == 1

    def test_when_all_fail_the_last_error_tells_of_the_others(
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
    def test_a_name_without_an_address(
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

    def test_the_nearests_own_name_without_an_address(self, connect: Connect, names: Names) -> None:
        proxies = [Proxy("nowhere.test"), Proxy("192.0.2.1")]
        with pytest.raises(ProxyConnectError, match="Name or service not known") as caught:
            connect(NOBODY, proxy=proxies)
        assert (caught.value.proxy, caught.value.hop) == (proxies[0], 0)
        assert caught.value.phase == "resolve"


# Errors


class Failure(NamedTuple):
    """What a hop does wrong, and what comes of it."""

    faults: Faults
    error: type[SocksError]
    phase: Phase
    words: str
    account: bool = False


def of_socks5(number: int, phase: Phase) -> list[Failure]:
    return [
        Failure(Faults(close_after=number), ProxyClosed, phase, "hung up"),
        Failure(Faults(reset_after=number), ProxyClosed, phase, "hung up"),
    ]


FAILURES = {
    "socks5h": [
        *of_socks5(0, "method selection"),
        *of_socks5(1, "method selection"),
        *of_socks5(2, "request"),
        *of_socks5(5, "request"),
        Failure(Faults(reply=0x05), ReplyError, "request", "connection refused (REP 05)"),
        Failure(Faults(method=0x01), ProtocolError, "method selection", "was not offered"),
        Failure(
            Faults(answers={"method selection": b"220 hello"}),
            ProtocolError,
            "method selection",
            "this is not a SOCKS5 proxy",
        ),
        Failure(Faults(), AuthenticationError, "authentication", "STATUS 01", account=True),
    ],
    "socks4a": [
        Failure(Faults(close_after=0), ProxyClosed, "request", "got 0 of 8 octets"),
        Failure(Faults(reset_after=1), ProxyClosed, "request", "hung up"),
        Failure(Faults(reply=0x5B), ReplyError, "request", "rejected or failed (SOCKS4 CD 5B)"),
        Failure(Faults(answers={"request": b"\x05\x00"}), ProtocolError, "request", "SOCKS5"),
        Failure(Faults(), ReplyError, "request", "SOCKS4 CD 5D", account=True),
    ],
    "http": [
        Failure(Faults(close_after=0), ProxyClosed, "request", "got 0 of"),
        Failure(Faults(reset_after=20), ProxyClosed, "request", "hung up"),
        Failure(Faults(reply=403), ReplyError, "request", "forbidden (HTTP 403)"),
        Failure(Faults(answers={"request": b"\x05\x00" * 9}), ProtocolError, "request", "SOCKS5"),
        Failure(Faults(), AuthenticationError, "request", "(HTTP 407)", account=True),
    ],
}


class TestErrors:
    @pytest.mark.parametrize("hop", [0, 1, 2])
    @pytest.mark.parametrize(
        ("scheme", "failure"),
        [(scheme, failure) for scheme, failures in FAILURES.items() for failure in failures],
        ids=lambda value: value if isinstance(value, str) else f"{value.faults} {value.account}",
    )
    def test_they_say_which_hop_it_was(
        self,
        connect: Connect,
        hops: MakeHops,
        listening: Address,
        hop: int,
        scheme: str,
        failure: Failure,
    ) -> None:
        schemes = ["http", "socks5h+tls", "socks5h"]
        schemes[hop] = scheme
        accounts = {hop: {"user": "right"}} if failure.account else {}
        with hops(*schemes, faults={hop: failure.faults}, accounts=accounts) as chain:
            proxies = list(chain.proxies)
            if failure.account:
                wrong = "" if scheme == "socks4a" else "wrong"
                proxies[hop] = replace(proxies[hop], username="else", password=wrong)
            with nothing_left_open(), pytest.raises(failure.error) as caught:
                connect(listening, proxy=proxies)
            heard = [[one.received for one in server.connections] for server in chain.servers]
        error = caught.value
        assert (error.hop, error.proxy, error.phase) == (hop, proxies[hop], failure.phase)
        assert error.destination == listening
        assert failure.words in str(error)
        place = f"(phase: {failure.phase}, hop: {hop}, proxy: {proxies[hop].place}"
        if hop < 2:
            place += f", next hop: {proxies[hop + 1].place}"
        assert str(error).endswith(f"{place}, destination: 127.0.0.1:{listening[1]})")
        next_hops = [*((proxy.host, proxy.port) for proxy in proxies[1:]), None]
        assert error.next_hop == next_hops[hop]
        assert all(heard[: hop + 1])
        assert not any(map(any, heard[hop + 1 :]))

    @pytest.mark.parametrize(
        ("scheme", "reply"),
        [
            ("socks5h", Reply.CONNECTION_REFUSED),
            ("socks4", Socks4Reply.REJECTED_OR_FAILED),
            ("http", HTTPReply.BAD_GATEWAY),
        ],
    )
    def test_a_hop_that_is_not_there_is_told_by_the_one_before_it(
        self, connect: Connect, hops: MakeHops, scheme: str, reply: object
    ) -> None:
        with hops("socks5h", scheme) as chain, nothing_left_open():
            nowhere = Proxy(PROXY_HOST, REFUSED_PORT)
            with pytest.raises(ReplyError) as caught:
                connect(NOBODY, proxy=[*chain.proxies, nowhere])
            assert caught.value.reply is reply
            assert (caught.value.hop, caught.value.proxy) == (1, chain.proxies[1])
            assert caught.value.next_hop == (nowhere.host, nowhere.port)
            assert f"hop: 1, proxy: {chain.proxies[1].place}, next hop: {nowhere.place}" in str(
                caught.value
            )

    def test_the_nearest_that_is_not_there(self, connect: Connect, hops: MakeHops) -> None:
        nowhere = Proxy(PROXY_HOST, REFUSED_PORT)
        with pytest.raises(ProxyConnectError, match="Connection refused") as caught:
            connect(NOBODY, proxy=[nowhere, "socks4a://192.0.2.1"])
        assert (caught.value.hop, caught.value.proxy) == (0, nowhere)
        assert caught.value.errno == errno.ECONNREFUSED

    def test_tls_that_fails_at_a_hop(
        self, connect: Connect, hops: MakeHops, authority: Authority
    ) -> None:
        with hops("socks5h", "socks5h+tls", "https") as chain, nothing_left_open():
            for number in (1, 2):
                proxies = list(chain.proxies)
                proxies[number] = replace(proxies[number], tls=True)  # that CA is not trusted
                with pytest.raises(ProxyConnectError, match="certificate verify fail") as caught:
                    connect(NOBODY, proxy=proxies)
                error = caught.value
                assert (error.hop, error.proxy) == (number, proxies[number])
                assert error.phase == "tls"
                assert not hasattr(error, "__notes__")
            assert chain.servers[2].requests == []

    def test_the_connection_breaks_between_two_hops(self, connect: Connect, hops: MakeHops) -> None:
        """The nearest grants the request and hangs up, for it has lost the next."""
        with hops("socks5h", "socks5h", faults={0: Faults(close_after=12)}) as chain:
            with nothing_left_open(), pytest.raises(ProxyClosed) as caught:
                connect(NOBODY, proxy=chain.proxies)
        assert (caught.value.hop, caught.value.phase) == (1, "method selection")


def test_the_log_tells_the_hops(
    connect: Connect,
    associate: Associate,
    hops: MakeHops,
    greeter: Address,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with hops("socks5h", "socks5h") as chain, caplog.at_level(logging.DEBUG, "socksclient"):
        connect(greeter, proxy=chain.proxies).close()
        associate(chain.proxies).close()
    first, second = (f"hop {number}, {proxy}" for number, proxy in enumerate(chain.proxies))
    destination = f"127.0.0.1:{greeter[1]}"
    assert f"{destination} via {first}: method selection" in caplog.messages
    assert f"{destination} via {second}: request" in caplog.messages
    assert f"UDP ASSOCIATE via {second}: request" in caplog.messages


# The deadline

# Long enough for some forty simultaneous connections to come to where they stall.
SECONDS = 3.0

PHASES: list[tuple[int, Phase]] = [(1, "method selection"), (3, "authentication"), (5, "request")]
"""After how many octets of a hop that asks for credentials the phases are."""


class Stall(NamedTuple):
    """A hop that goes on no more, and in which phase that is."""

    schemes: tuple[str, ...]
    hop: int
    faults: Faults
    phase: Phase
    account: bool = False


STALLS = [
    *(
        Stall((scheme,) * 3, hop, Faults(stall_after=count), phase, account=True)
        for scheme in ("socks5h", "socks5h+tls")
        for hop in range(3)
        for count, phase in PHASES
    ),
    *(
        Stall((scheme,) * 2, hop, Faults(stall_after=count), "request")
        for scheme in ("socks4a", "https")
        for hop in range(2)
        for count in (0, 7)
    ),
]


class Place(NamedTuple):
    """A chain, and where in it a timeout passes."""

    chain: list[Proxy]
    hop: int
    phase: Phase


@pytest.fixture
def places(hops: MakeHops) -> Iterator[list[Place]]:
    with ExitStack() as stack:
        places = []
        for stall in STALLS:
            accounts = {stall.hop: {"user": "pass"}} if stall.account else {}
            made = hops(*stall.schemes, faults={stall.hop: stall.faults}, accounts=accounts)
            places.append(Place(stack.enter_context(made).proxies, stall.hop, stall.phase))
        good = stack.enter_context(hops("socks5h", "socks5h+tls")).proxies
        host, port = stack.enter_context(saying_nothing())
        silent = replace(good[1], host=host, port=port)
        unreachable = Proxy(*stack.enter_context(silence()))
        yield [
            *places,
            Place([silent, *good], 0, "tls"),
            Place([good[0], silent], 1, "tls"),
            Place([*good, silent], 2, "tls"),
            Place([unreachable, *good], 0, "connect"),
        ]


def assert_timed_out(error: object, place: Place, begin: float) -> None:
    assert 0.95 * SECONDS <= time.monotonic() - begin < LONG
    assert isinstance(error, ProxyTimeout)
    assert (error.hop, error.phase) == (place.hop, place.phase)
    assert error.proxy == place.chain[place.hop]


class TestDeadline:
    """Of each kind all at once, for each takes its time."""

    def test_blocking(self, places: list[Place], listening: Address) -> None:
        def fail(place: Place) -> None:
            begin = time.monotonic()
            with pytest.raises(ProxyTimeout) as caught:
                connect_blocking(listening, proxy=place.chain, timeout=SECONDS)
            assert_timed_out(caught.value, place, begin)
            assert caught.value.destination == listening

        with nothing_left_open(), ThreadPoolExecutor(len(places)) as threads:
            assert len(list(threads.map(fail, places))) == len(places)

    def test_awaited(
        self, portal: BlockingPortal, places: list[Place], listening: Address, origin: Origin
    ) -> None:
        """By the transport, for with the others it is the caller who has a deadline."""
        context = origin.trust()

        async def fail(place: Place) -> None:
            begin = time.monotonic()
            transport = AsyncSocksTransport(place.chain, verify=context)
            timeout = httpx.Timeout(None, connect=SECONDS)
            async with httpx.AsyncClient(transport=transport, timeout=timeout) as client:
                with pytest.raises(httpx.ConnectTimeout) as caught:
                    await client.get(f"http://127.0.0.1:{listening[1]}/")
            assert_timed_out(caught.value.__cause__, place, begin)

        with nothing_left_open():
            all_done = [portal.start_task_soon(fail, place) for place in places]
            assert [done.result() for done in all_done] == [None] * len(places)

    def test_of_an_association(self, hops: MakeHops) -> None:
        """The nearest is connected to for the control of each of the three hops."""

        def fail(case: tuple[int, int]) -> None:
            hop, before = case
            faults = {hop: [*[Faults()] * before, Faults(stall_after=3)]}
            with hops(*["socks5h"] * 3, faults=faults) as chain:
                begin = time.monotonic()
                with pytest.raises(ProxyTimeout) as caught:
                    socksclient.udp_associate(SECONDS, proxy=chain.proxies)
                assert_timed_out(caught.value, Place(chain.proxies, hop, "request"), begin)

        cases = [(hop, before) for hop in range(3) for before in range(3 - hop)]
        with nothing_left_open(), ThreadPoolExecutor(len(cases)) as threads:
            assert len(list(threads.map(fail, cases))) == 6

    @pytest.mark.parametrize("hop", [0, 1])
    def test_of_a_resolver(self, monkeypatch: pytest.MonkeyPatch, hop: int) -> None:
        answer = threading.Event()

        def wait(_name: str) -> list[str]:
            answer.wait()
            return []

        monkeypatch.setattr(socket, "getaddrinfo", resolver(wait))
        proxies = [Proxy("192.0.2.1"), Proxy("192.0.2.2"), Proxy("192.0.2.3")]
        proxies[hop] = replace(proxies[hop], scheme="socks5")
        proxies[hop + 1] = replace(proxies[hop + 1], host="slow.test")
        with pytest.raises(ProxyTimeout) as caught:
            connect_blocking(NOBODY, proxy=proxies, timeout=0.05)
        answer.set()
        assert (caught.value.hop, caught.value.phase) == (hop, "resolve")

    def test_it_is_one_for_all_hops(
        self, connect: Connect, hops: MakeHops, listening: Address
    ) -> None:
        """Each of them would be done in time, but not one after the other."""
        faults = dict.fromkeys(range(3), Faults(drip=0.03))
        with hops(*["socks5h"] * 3, faults=faults) as chain, nothing_left_open():
            with pytest.raises(TimeoutError):
                connect(listening, proxy=chain.proxies, timeout=0.6)

    @pytest.mark.parametrize("command", ["BIND", "RESOLVE", "httpx"])
    def test_it_is_one_for_all_hops_whatever_is_asked_for(
        self, hops: MakeHops, command: str
    ) -> None:
        faults = dict.fromkeys(range(3), Faults(drip=0.03))
        with hops(*["socks5h"] * 3, faults=faults) as chain, nothing_left_open():
            if command == "BIND":
                act: Callable[[], object] = partial(
                    socksclient.bind, ("0.0.0.0", 0), 0.6, proxy=chain.proxies
                )
            elif command == "RESOLVE":
                act = partial(socksclient.resolve, "192.0.2.1", timeout=0.6, proxy=chain.proxies)
            else:
                transport = SocksTransport(chain.proxies)
                client = httpx.Client(transport=transport, timeout=httpx.Timeout(10, connect=0.6))
                act = partial(client.get, "http://192.0.2.1/")
            with pytest.raises((ProxyTimeout, httpx.ConnectTimeout)):
                act()

    def test_an_awaited_listener_has_that_of_its_caller(
        self, portal: BlockingPortal, hops: MakeHops
    ) -> None:
        async def fail() -> None:
            with pytest.raises(TimeoutError), anyio.fail_after(0.2):
                await socksclient.anyio.bind(*ANYONE, proxy=chain.proxies)

        faults = dict.fromkeys(range(3), Faults(drip=0.01))
        with hops(*["socks5h"] * 3, faults=faults) as chain, nothing_left_open():
            portal.call(fail)

    def test_it_is_one_for_all_associations(self, hops: MakeHops) -> None:
        """That of the last hop alone, through the others, takes half of it."""
        faults = dict.fromkeys(range(3), Faults(drip=0.02))
        with hops(*["socks5h"] * 3, faults=faults) as chain, nothing_left_open():
            with pytest.raises(ProxyTimeout):
                socksclient.udp_associate(1.1, proxy=chain.proxies)


@pytest.mark.parametrize("hop", [0, 1, 2])
@pytest.mark.parametrize("count", [0, 2, 4])
@pytest.mark.parametrize("kind", ["socks5h", "socks5h+tls"])
def test_a_cancellation_leaves_nothing_open(
    portal: BlockingPortal, hops: MakeHops, listening: Address, kind: str, hop: int, count: int
) -> None:
    faults, accounts = {hop: Faults(stall_after=count)}, {hop: {"user": "pass"}}
    with hops(kind, kind, kind, faults=faults, accounts=accounts) as chain, nothing_left_open():
        connect = partial(socksclient.anyio.connect_tcp, *listening, proxy=chain.proxies)
        connecting = portal.start_task_soon(connect)
        seen = chain.servers[hop].connections
        assert eventually(lambda: bool(seen and seen[0].methods and len(seen[0].sent) == count))
        connecting.cancel()
        with pytest.raises(CancelledError):
            connecting.result()


# BIND


ANYONE = ("0.0.0.0", 0)


class TestBind:
    @pytest.mark.parametrize(
        "kinds",
        [
            ("socks5h", "socks5h"),
            ("http", "socks4a"),
            ("socks5h+tls", "socks5h"),
            ("socks4", "socks5h+tls"),
            ("https", "http", "socks4a"),
        ],
        ids=", ".join,
    )
    def test_the_last_hop_listens(self, bind: Bind, hops: MakeHops, kinds: tuple[str, ...]) -> None:
        with hops(*kinds) as chain, nothing_left_open():
            with closing(bind(("127.0.0.1", 0), chain.proxies)) as listener:
                assert [seen_by(server).command for server in chain.servers] == [
                    *[Command.CONNECT] * (len(kinds) - 1),
                    Command.BIND,
                ]
                with socket.create_connection(listener.address, 10) as peer:
                    peer.sendall(GREETING)
                    tunnel, address = listener.accept()
                    with tunnel:
                        assert address == peer.getsockname()
                        assert tunnel.receive(len(GREETING)) == GREETING
                        tunnel.send(b"and back")
                        assert receive_exactly(peer, 8) == b"and back"

    @pytest.mark.parametrize(("scheme", "host"), [("socks5h", "second.test"), ("socks5", HOSTS[1])])
    def test_where_an_unspecified_address_is(
        self, bind: Bind, hops: MakeHops, names: Names, scheme: str, host: str
    ) -> None:
        faults = {1: Faults(bound_address=("0.0.0.0", 4711))}
        with hops(scheme, "socks5h", faults=faults) as chain, nothing_left_open():
            leads(chain, names)
            with closing(bind(ANYONE, chain.named())) as listener:
                assert listener.address == (host, 4711)

    def test_names_stay_names(self, bind: Bind, hops: MakeHops) -> None:
        with hops("socks5h", "socks4a") as chain, nothing_left_open():
            first, second = chain.servers
            first.routes["second.test", second.address[1]] = second.address
            second.routes["peer.test", 0] = ("127.0.0.1", 0)
            proxies = [chain.proxies[0], replace(chain.proxies[1], host="second.test")]
            with resolved_names() as resolved:
                bind(("peer.test", 0), proxies).close()
            assert resolved == []
            assert seen_by(second).destination == ("peer.test", 0)

    @pytest.mark.parametrize(
        ("fault", "error", "phase"),
        [
            (Faults(reply=0x07), ReplyError, "request"),
            (Faults(bound_address=("127.0.0.1", 0)), ProtocolError, "request"),
            (Faults(close_after=3), ProxyClosed, "request"),
        ],
        ids=str,
    )
    def test_errors(
        self, bind: Bind, hops: MakeHops, fault: Faults, error: type[SocksError], phase: Phase
    ) -> None:
        with hops("http", "socks5h", faults={1: fault}) as chain:
            with nothing_left_open(), pytest.raises(error) as caught:
                bind(ANYONE, chain.proxies)
        assert (caught.value.hop, caught.value.phase) == (1, phase)
        assert caught.value.proxy == chain.proxies[1]

    def test_errors_of_accept(self, bind: Bind, hops: MakeHops) -> None:
        with hops("socks4a", "socks5h", faults={1: Faults(second_reply=0x02)}) as chain:
            with nothing_left_open():
                listener = bind(ANYONE, chain.proxies)
                with socket.create_connection(listener.address, 10):
                    with pytest.raises(ReplyError) as caught:
                        listener.accept()
        assert (caught.value.hop, caught.value.proxy) == (1, chain.proxies[1])


# UDP


@pytest.fixture
def nowhere() -> Iterator[Address]:
    """Yield the address of a UDP socket that never answers."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()


class TestUDP:
    @pytest.mark.parametrize("count", [2, 3])
    @pytest.mark.parametrize("scheme", ["socks5h", "socks5"])
    def test_each_relay_takes_its_header_off(
        self,
        associate: Associate,
        hops: MakeHops,
        udp_echo: Address,
        count: int,
        scheme: str,
    ) -> None:
        with hops(*[scheme] * count) as chain, nothing_left_open():
            with associate(chain.proxies) as udp:
                for data in (b"datagram", b"", bytes(30_000)):
                    udp.send(data, udp_echo)
                    assert udp.receive() == (data, udp_echo)
                assert udp.udp.dropped == 0
                *outer, last = (server.connections[0].datagrams for server in chain.servers)
                assert [address for address, _ in last] == [udp_echo] * 3
                carried = encode_datagram_header(*udp_echo) + b"datagram"
                for datagrams in reversed(outer):
                    [relay] = {address for address, _ in datagrams}
                    assert relay[0] == HOSTS[1]
                    assert datagrams[0] == (relay, carried)
                    carried = encode_datagram_header(*relay) + carried
            commands = [[one.command for one in server.connections] for server in chain.servers]
            udp_associate, connect = Command.UDP_ASSOCIATE, Command.CONNECT
            for number, seen in enumerate(commands):
                assert sorted(seen, key=str) == [*[connect] * (count - 1 - number), udp_associate]

    def test_what_the_hops_are_told_of_the_source(
        self, associate: Associate, hops: MakeHops
    ) -> None:
        """Only the nearest sees it: the others see the relay before them."""
        with hops("socks5h", "socks5h") as chain:
            with associate(chain.proxies, local_address=("127.0.0.1", 0)) as udp:
                port = udp.udp._association.udp.getsockname()[1]
            assert chain.servers[0].connections[0].destination == ("127.0.0.1", port)
            assert chain.servers[1].connections[0].destination == ("0.0.0.0", 0)

    @pytest.mark.parametrize("last", ["socks5h", "socks5"])
    def test_names_of_destinations(
        self, associate: Associate, hops: MakeHops, names: Names, udp_echo: Address, last: str
    ) -> None:
        names["echo.test"] = ["127.0.0.1"]
        destination = ("echo.test", udp_echo[1])
        with hops("socks5h", last) as chain, associate(chain.proxies) as udp:
            udp.send(b"datagram", destination)
            assert udp.receive() == (b"datagram", udp_echo)
            [(seen, _)] = chain.servers[1].connections[0].datagrams
            assert seen == (destination if last == "socks5h" else udp_echo)
            send, receive = udp.connect(destination)
            send(b"connected")
            assert receive() == b"connected"

    @pytest.mark.parametrize(
        ("scheme", "host"), [("socks5h", "second.test"), ("socks5", "127.0.0.1")]
    )
    def test_a_relay_at_an_unspecified_address_is_where_the_hop_is(
        self,
        associate: Associate,
        hops: MakeHops,
        names: Names,
        udp_echo: Address,
        scheme: str,
        host: str,
    ) -> None:
        # A socket at 0.0.0.0 sends from this address.
        names["second.test"] = ["127.0.0.1"]
        faults = Faults(relay_host="0.0.0.0")
        with hops(scheme) as chain, SocksServer(host="127.0.0.1", faults=faults) as second:
            last = Proxy("second.test", second.address[1])
            with associate([*chain.proxies, last]) as udp:
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"datagram", udp_echo)
                [(relay, _)] = chain.servers[0].connections[0].datagrams
                assert relay[0] == host

    def test_relays_whose_addresses_are_not_to_be_trusted(
        self, associate: Associate, hops: MakeHops, names: Names, udp_echo: Address
    ) -> None:
        faults = {1: Faults(bound_address=("192.0.2.1", 4711))}
        with hops("socks5h", "socks5h", faults=faults) as chain:
            leads(chain, names)
            with associate(chain.named(), trust_relay_address=False) as udp:
                assert udp.udp.relay_address[0] == PROXY_HOST
                assert udp.udp._association.learn((), (Host.of("192.0.2.7"), 1)).startswith(
                    encode_datagram_header("second.test", 4711)
                )

    def test_a_hop_with_an_ipv6_address_is_asked_for_a_relay_with_one(
        self, associate: Associate, hops: MakeHops, udp_echo_6: Address
    ) -> None:
        with hops("socks5h") as chain, SocksServer(host="::1") as second:
            with associate([*chain.proxies, second.url]) as udp:
                udp.send(b"datagram", udp_echo_6)
                assert udp.receive() == (b"datagram", udp_echo_6)
            assert second.connections[0].destination == ("::", 0)

    @pytest.mark.parametrize(
        ("told", "words"),
        [
            (("relay.test", 4711), "its relay is at 'relay.test', which is not an IP address"),
            (("127.0.0.1", 0), "port 0"),
        ],
    )
    @pytest.mark.parametrize("hop", [0, 1])
    def test_a_relay_that_cannot_be(
        self, associate: Associate, hops: MakeHops, told: Address, words: str, hop: int
    ) -> None:
        faults = {hop: [Faults(bound_address=told)]}
        with hops("socks5h", "socks5h", faults=faults) as chain:
            with nothing_left_open(), pytest.raises(ProtocolError, match=words) as caught:
                associate(chain.proxies)
        assert (caught.value.hop, caught.value.phase) == (hop, "relay")
        assert caught.value.proxy == chain.proxies[hop]

    @pytest.mark.parametrize("hop", [0, 1, 2])
    def test_a_hop_that_does_not_offer_it(
        self, associate: Associate, hops: MakeHops, hop: int
    ) -> None:
        # To the nearest, the first connection is for its own association.
        with hops(*["socks5h"] * 3, faults={hop: [Faults(reply=0x07)]}) as chain:
            with (
                nothing_left_open(),
                pytest.raises(ReplyError, match="does not offer UDP ASSOCIATE") as caught,
            ):
                associate(chain.proxies, local_address=("127.0.0.1", 0))
        assert (caught.value.hop, caught.value.proxy) == (hop, chain.proxies[hop])
        assert caught.value.destination is None

    def test_what_is_not_of_the_next_relay_is_dropped(
        self, associate: Associate, hops: MakeHops, udp_echo: Address
    ) -> None:
        forged: list[bytes] = []
        with hops("socks5h", "socks5h", faults={0: Faults(garbage=forged)}) as chain:
            with associate(chain.proxies) as udp:
                udp.send(b"first", udp_echo)
                assert udp.receive() == (b"first", udp_echo)
                [(relay, inner)] = chain.servers[0].connections[0].datagrams
                header = encode_datagram_header(*relay)
                forged += [
                    encode_datagram_header("127.0.0.9", relay[1]) + inner,
                    encode_datagram_header(relay[0], relay[1] ^ 1) + inner,
                    encode_datagram_header("relay.test", relay[1]) + inner,
                    inner,
                    header,
                    header + inner[:9],
                    header + b"\0\0\x01" + inner[3:],
                    b"\0\0\x01" + header[3:] + inner,
                    b"garbage",
                    b"",
                ]
                # In the second round the relays are known, and are judged as in the first.
                for number in (1, 2):
                    udp.send(b"second", udp_echo)
                    assert udp.receive() == (b"second", udp_echo)
                    assert udp.udp.dropped == number * len(forged)

    def test_garbage_of_the_last_relay_is_dropped(
        self, associate: Associate, hops: MakeHops, udp_echo: Address
    ) -> None:
        garbage = [b"", b"garbage", b"\0\0\x01\x01" + bytes(6), b"\0\0\0\x01" + bytes(5)]
        with hops("socks5h", "socks5h", faults={1: Faults(garbage=garbage)}) as chain:
            with associate(chain.proxies) as udp:
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"datagram", udp_echo)
                assert udp.udp.dropped == len(garbage)

    def test_connected_it_hears_its_peer_only(
        self, associate: Associate, hops: MakeHops, udp_echo: Address
    ) -> None:
        stranger = encode_datagram_header("192.0.2.1", 53) + b"strange"
        with hops("socks5h", "socks5h", faults={1: Faults(garbage=[stranger])}) as chain:
            with associate(chain.proxies) as udp:
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"strange", ("192.0.2.1", 53))
                assert udp.receive() == (b"datagram", udp_echo)
                send, receive = udp.connect(udp_echo)
                send(b"connected")
                assert receive() == b"connected"
                assert udp.udp.dropped == 1

    @pytest.mark.parametrize(("count", "hop"), [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
    def test_the_end_of_a_control_connection_is_its_end(
        self, associate: Associate, hops: MakeHops, nowhere: Address, count: int, hop: int
    ) -> None:
        faults = {hop: [Faults(end_after=1)]}
        with hops(*["socks5h"] * count, faults=faults) as chain, nothing_left_open():
            with associate(chain.proxies) as udp:
                waiting = udp.receive_soon()
                udp.send(b"datagram", nowhere)
                errors = [waiting.exception(10)]
                for use in (udp.receive, partial(udp.send, b"more", nowhere)):
                    with pytest.raises(AssociationClosed) as caught:
                        use()
                    errors.append(caught.value)
        for error in errors:
            assert isinstance(error, AssociationClosed)
            assert (error.hop, error.proxy) == (hop, chain.proxies[hop])
            assert (error.phase, error.destination) == ("relay", None)
        number = f", hop: {hop}" if hop else ""
        assert f"(phase: relay{number}, proxy: {chain.proxies[hop].place})" in str(errors[0])

    @pytest.mark.parametrize("hop", [0, 1])
    def test_what_is_said_on_a_control_connection_is_ignored(
        self, associate: Associate, hops: MakeHops, udp_echo: Address, hop: int
    ) -> None:
        faults = {hop: Faults(control_data=b"news" * 100)}
        with hops("socks5h", "socks5h", faults=faults) as chain, associate(chain.proxies) as udp:
            for _ in range(3):
                udp.send(b"datagram", udp_echo)
                assert udp.receive() == (b"datagram", udp_echo)

    def test_how_much_a_datagram_carries(
        self, associate: Associate, hops: MakeHops, nowhere: Address
    ) -> None:
        most = 65507 - 3 * 10
        with hops(*["socks5h"] * 3) as chain, associate(chain.proxies) as udp:
            udp.send(bytes(most), nowhere)
            with pytest.raises(OSError, match="Message too long"):
                udp.send(bytes(most + 1), nowhere)

    def test_a_timeout(self, hops: MakeHops) -> None:
        with hops("socks5h", "socks5h") as chain:
            with socksclient.udp_associate(10, proxy=chain.proxies) as udp:
                udp.settimeout(0.02)
                with pytest.raises(TimeoutError, match=r"^timed out$"):
                    udp.recvfrom()

    def test_a_name_that_cannot_be_resolved_here(
        self, associate: Associate, hops: MakeHops, names: Names
    ) -> None:
        with hops("socks5h", "socks5") as chain, associate(chain.proxies) as udp:
            with pytest.raises(ResolveError, match=r"nowhere\.test") as caught:
                udp.send(b"", ("nowhere.test", 53))
        assert (caught.value.hop, caught.value.proxy) == (1, chain.proxies[1])


# What is built upon them

CHAIN = ("https", "socks4a", "socks5h")


class TestWithHTTPX:
    @pytest.mark.parametrize("kinds", [CHAIN, ("socks5h+tls", "http", "https")], ids=", ".join)
    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.parametrize("http2", [False, True])
    def test_requests(
        self,
        driver: Driver,
        hops: MakeHops,
        origin: Origin,
        kinds: tuple[str, ...],
        scheme: str,
        http2: bool,
    ) -> None:
        port = origin.https_port if scheme == "https" else origin.http_port
        with hops(*kinds) as chain, nothing_left_open():
            chain.servers[-1].routes["origin.test", 4711] = ("127.0.0.1", port)
            with (
                resolved_names() as resolved,
                driver.through(chain.proxies, http2=http2) as client,
            ):
                for _ in range(2):
                    response = client.get(f"{scheme}://origin.test:4711/")
                    version = "2" if http2 and scheme == "https" else "1.1"
                    assert response.json()["http_version"] == version
            assert resolved == []
            assert len(chain.servers[-1].connections) == 1  # it was kept

    def test_errors(self, driver: Driver, hops: MakeHops) -> None:
        with hops(*CHAIN, faults={1: Faults(reply=0x5B)}) as chain:
            with driver.through(chain.proxies) as client, nothing_left_open():
                with pytest.raises(driver.httpx.ProxyError) as caught:
                    client.get("https://origin.test/")
        error = caught.value.__cause__
        assert isinstance(error, ReplyError)
        assert (error.hop, error.reply) == (1, Socks4Reply.REJECTED_OR_FAILED)


@pytest.mark.anyio
async def test_tls_with_the_destination(hops: MakeHops, origin: Origin) -> None:
    with hops(*CHAIN) as chain:
        chain.servers[-1].routes["origin.test", 443] = ("127.0.0.1", origin.https_port)
        stream = await socksclient.anyio.connect_tcp(
            "origin.test",
            443,
            proxy=chain.proxies,
            ssl_context=origin.trust(),
            tls_standard_compatible=False,
        )
        async with stream:
            certificate = stream.extra(TLSAttribute.peer_certificate)
            assert certificate is not None
            assert ("DNS", "origin.test") in certificate["subjectAltName"]
            await stream.send(b"GET / HTTP/1.0\r\nHost: origin.test\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("passive", [True, False])
@pytest.mark.parametrize("kinds", [("http", "socks5h"), ("socks4a", "socks5h+tls")], ids=", ".join)
def test_ftp(hops: MakeHops, kinds: tuple[str, ...], passive: bool) -> None:
    received: list[bytes] = []
    with serving(serve_ftp) as (_, port), hops(*kinds) as chain, nothing_left_open():
        with FTP(timeout=10, proxy=chain.proxies) as ftp:
            ftp.connect("127.0.0.1", port)
            ftp.set_pasv(passive)
            ftp.retrbinary("RETR file", received.append)
        commands = [one.command for one in chain.servers[-1].connections]
        assert commands == [Command.CONNECT, Command.CONNECT if passive else Command.BIND]
    assert b"".join(received) == b"the file"


@contextmanager
def name_server() -> Iterator[Address]:
    """Run a name server that says over TCP where a.test is, and truncates over UDP."""

    def respond(query: bytes) -> dns.message.Message:
        asked = dns.message.from_wire(query)
        response = dns.message.make_response(asked)
        records = dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", "192.0.2.1")
        response.answer.append(records)
        return response

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        writer.write(respond(await reader.readexactly(size)).to_wire(prepend_length=True))

    def truncate(query: bytes) -> bytes:
        response = respond(query)
        response.flags |= dns.flags.TC
        return response.to_wire()

    with serving(answer) as address, answering_datagrams(truncate, *address):
        yield address


class TestDNS:
    def test_blocking(self, hops: MakeHops) -> None:
        query = dns.message.make_query("a.test", "A")
        with name_server() as (host, port), hops("socks5h", "socks5h") as chain:
            with nothing_left_open():
                answer, by_tcp = udp_with_fallback(query, host, 10, port, proxy=chain.proxies)
            assert (answer.answer[0][0].to_text(), by_tcp) == ("192.0.2.1", True)

    def test_by_tcp_within_tls(self, hops: MakeHops) -> None:
        resolver = dns.resolver.Resolver(configure=False)
        with name_server() as address, hops("socks4a", "socks5h+tls") as chain:
            resolver.nameservers = [Nameserver(*address, proxy=chain.proxies)]
            answer = resolver.resolve("a.test", "A", tcp=True, lifetime=10)
        assert [record.to_text() for record in answer] == ["192.0.2.1"]

    def test_awaited(self, portal: BlockingPortal, hops: MakeHops) -> None:
        resolver = dns.asyncresolver.Resolver(configure=False)
        with name_server() as address, hops("socks5h", "socks5h") as chain, nothing_left_open():
            resolver.nameservers, resolver.port = [address[0]], address[1]
            ask = partial(
                resolver.resolve, "a.test", "A", lifetime=10, backend=Backend(chain.proxies)
            )
            answer = portal.call(ask)
        assert [record.to_text() for record in answer] == ["192.0.2.1"]
